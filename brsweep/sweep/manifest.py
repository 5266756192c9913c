"""Which runs a sweep is made of: `sweep.json`, written before the first one starts.

    <output_dir>/<sweep_name>/sweep.json
        {"version": 1, "name": ..., "command": ...,
         "runs": [{"name": <run folder>, "overrides": [...], "epochs": n, "stages": [<signature>, ...]}, ...]}

It knows of runs that have no folder yet, so that they can be shown as missing, and of the shared stages that each one
needs, so that cleaning up the store never takes one from a run that is still to come. Each launch adds its runs to
those of earlier ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from brsweep.errors import BrsweepError
from brsweep.stages.store import os_lock
from brsweep.sweep.folder import write_atomically

MANIFEST, VERSION = "sweep.json", 1


def read_manifest(sweep: Path) -> dict[str, Any] | None:
    """The manifest of the sweep folder, or None where it has none. Raises `BrsweepError` for a damaged one."""
    path = sweep / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        manifest = None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("runs"), list):
        raise BrsweepError(f"{path}: damaged; remove it and launch the sweep again, which writes it anew")
    if manifest.get("version") != VERSION:
        raise BrsweepError(f"{path}: of another version ({manifest.get('version')}); this brsweep reads {VERSION}")
    return manifest


def add_to_manifest(sweep: Path, name: str, command: str, runs: Iterable[Mapping[str, Any]]) -> None:
    """Add runs (`name`, `overrides`, `epochs`, `stages`); one that is there already takes the new words."""
    with os_lock(sweep / ".manifest.lock", lambda: None):
        try:
            known = {run["name"]: run for run in (read_manifest(sweep) or {"runs": []})["runs"]}
        except BrsweepError:
            known = {}  # a damaged manifest is written anew: it holds nothing that a launch does not know
        known |= {run["name"]: dict(run) for run in runs}
        manifest = {"version": VERSION, "name": name, "command": command, "runs": list(known.values())}
        write_atomically(sweep / MANIFEST, json.dumps(manifest, indent=1) + "\n")
