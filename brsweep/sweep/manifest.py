"""Which runs a sweep is made of: `sweep.json`, written before the first one starts.

    <output_dir>/<sweep_name>/sweep.json
        {"version": 1, "name": ..., "command": ...,
         "runs": [{"name": <run folder>, "overrides": [...], "epochs": n, "stages": [<signature>, ...]}, ...],
         "shared": {"stages/<stage>-<signature>": <epochs up to its end>, ...},
         "seeds": {...}}    where the launcher finds how many a row gets: seeds/sequential.py, Design

It knows of runs that have no folder yet, so that they can be shown as missing, and of the shared stages that each one
needs, so that cleaning up the store never takes one from a run that is still to come. Each launch adds its runs to
those of earlier ones. A manifest from elsewhere is data: a run's name is that of a folder in the sweep's, or it is
refused. What a run does is asked of its folder, so where the manifest can't be read the folders that are there are
shown all the same, with a warning.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from brsweep.errors import BrsweepError
from brsweep.files import read_file
from brsweep.runs.files import write_atomically
from brsweep.runs.folder import CONFIG, RESULT
from brsweep.runs.status import RunStatus, run_status
from brsweep.runs.words import printable
from brsweep.stages.store import os_lock
from brsweep.sweep.shared import SharedStage, behind, shared_stages

MANIFEST, VERSION = "sweep.json", 1
AT_MOST = 2**28
"""Bytes that a manifest may have: those of a hundred thousand runs have half of it."""
NO_RUNS: Mapping[str, Any] = {"runs": [], "shared": {}}
FIELDS = {"name": str, "overrides": list, "epochs": int, "stages": list}


def read_manifest(sweep: Path) -> dict[str, Any] | None:
    """The manifest of the sweep folder, or None where it has none. Raises `BrsweepError` for a damaged one."""
    path = sweep / MANIFEST
    try:
        manifest = json.loads(read_file(path, AT_MOST).decode())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        manifest = None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("runs"), list):
        raise BrsweepError(f"{path}: damaged; remove it and launch the sweep again, which writes it anew")
    if manifest.get("version") != VERSION:
        version = _shown(manifest.get("version"))
        raise BrsweepError(f"{path}: of another version ({version}); this brsweep reads {VERSION}")
    for run in manifest["runs"]:
        if not _is_run(run):
            raise BrsweepError(f"{path}: damaged, it names {_shown(run)}; remove it and launch the sweep again")
    shared = manifest.setdefault("shared", {})
    if not isinstance(shared, dict):
        raise BrsweepError(f"{path}: damaged, shared is {_shown(shared)}; remove it and launch the sweep again")
    return manifest


def add_to_manifest(
    sweep: Path,
    name: str,
    command: str,
    runs: Iterable[Mapping[str, Any]],
    shared: Mapping[str, int] | None = None,
    seeds: Mapping[str, Any] | None = None,
) -> None:
    """Add runs (`name`, `overrides`, `epochs`, `stages`); one that is there already takes the new words.

    shared: of the stages that the launch trains by themselves, folder -> epochs. seeds: what decides how many seeds a
    row gets; None leaves what an earlier launch wrote.
    """
    with os_lock(sweep / ".manifest.lock", lambda: None):
        try:
            before = read_manifest(sweep) or NO_RUNS
        except BrsweepError:
            before = NO_RUNS  # a damaged manifest is written anew: it holds nothing that a launch does not know
        known = {run["name"]: run for run in before["runs"]} | {run["name"]: dict(run) for run in runs}
        manifest = {"version": VERSION, "name": name, "command": command, "runs": list(known.values())}
        manifest["shared"] = before["shared"] | dict(shared or {})
        if seeds is not None or "seeds" in before:
            manifest["seeds"] = before.get("seeds") if seeds is None else dict(seeds)
        write_atomically(sweep / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def runs_of(sweep: Path, warn: Callable[[str], None]) -> list[RunStatus]:
    """What the runs of a sweep folder do: first those of its manifest, in its order, then others that lie in it.

    warn: told, in one line, of a manifest that can't be read; the folders are shown without it. Raises `BrsweepError`
    where `sweep` is no folder or holds no run.
    """
    if not sweep.is_dir():
        raise BrsweepError(f"{sweep}: no such folder; give a sweep's, such as runs/default")
    others = sorted({path.parent.name for name in (CONFIG, RESULT) for path in sweep.glob(f"*/{name}")})
    try:
        manifest = read_manifest(sweep) or NO_RUNS
    except BrsweepError as error:
        if not others:
            raise
        warn(f"{error}; only runs that have a folder are shown")
        manifest = NO_RUNS
    known = {run["name"]: run for run in manifest["runs"]}
    if not known and not others:
        raise BrsweepError(f"{sweep}: holds no run; a sweep's folder is <output_dir>/<sweep_name>")
    stages = shared_stages(sweep, manifest)
    runs = []
    for name in dict.fromkeys([*known, *others]):
        planned = known.get(name, {})
        runs.append(behind(run_status(sweep / name, planned), planned.get("stages", ()), stages))
    return runs


def stages_of(sweep: Path) -> list[SharedStage]:
    """The shared stages of a sweep folder that were begun; how many epochs they have is known by its manifest."""
    try:
        return shared_stages(sweep, read_manifest(sweep) or NO_RUNS)
    except BrsweepError:
        return shared_stages(sweep, NO_RUNS)


def _shown(value: Any) -> str:
    return printable(str(value)[:80])


def _is_run(run: Any) -> bool:
    whole = isinstance(run, dict) and all(isinstance(run.get(key), kind) for key, kind in FIELDS.items())
    if not whole or not all(isinstance(word, str) for word in (*run["overrides"], *run["stages"])):
        return False
    return run["name"] not in ("", ".", "..") and not set(run["name"]) & set("/\\\0")
