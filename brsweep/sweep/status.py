"""What the runs of a sweep are doing, read from their folders: no torch, and no question to any process.

finished    result.json is there
running     a process holds the run's lock
failed      the last training left its cause
stopped     it was begun and nobody trains it: killed, interrupted, or out of time
missing     the sweep's manifest names it, and it was never begun
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brsweep.errors import BrsweepError
from brsweep.sweep.folder import CONFIG, METRICS, RunFolder
from brsweep.sweep.manifest import read_manifest

FINISHED, RUNNING, FAILED, STOPPED, MISSING = "finished", "running", "failed", "stopped", "missing"
RECENT = 3
"""Epochs that tell how long the next ones will take."""


@dataclass(frozen=True)
class RunStatus:
    """done, total: epochs of all stages, shared ones included; total is None where nothing tells.

    accuracy: on the test set, of a finished run as it reports it, else on the validation split after the last epoch;
    in [0, 1]. time_left_s: of a running one. cause: of a failed one.
    """

    name: str
    path: Path
    state: str
    overrides: tuple[str, ...] = ()
    done: int = 0
    total: int | None = None
    accuracy: float | None = None
    time_left_s: float | None = None
    cause: str | None = None


def runs_of(sweep: Path) -> list[RunStatus]:
    """The runs of a sweep folder: first those of its manifest, in its order, then others that lie in it.

    Raises `BrsweepError` where `sweep` is no folder or holds no run.
    """
    if not sweep.is_dir():
        raise BrsweepError(f"{sweep}: no such folder; give a sweep's, such as runs/default")
    manifest = read_manifest(sweep) or {"runs": []}
    known = {run["name"]: run for run in manifest["runs"]}
    others = sorted(path.parent.name for path in sweep.glob(f"*/{CONFIG}") if path.parent.name not in known)
    if not known and not others:
        raise BrsweepError(f"{sweep}: holds no run; a sweep's folder is <output_dir>/<sweep_name>")
    return [run_status(sweep / name, known.get(name, {})) for name in (*known, *others)]


def run_status(path: Path, planned: Mapping[str, Any]) -> RunStatus:
    """planned: what the manifest says of the run, `overrides` and `epochs`."""
    folder = RunFolder(path)
    about = {"name": path.name, "path": path, "overrides": tuple(planned.get("overrides", ()))}
    result = folder.result()
    if result is not None:
        total = planned.get("epochs") or _epochs(result["config"])
        return RunStatus(**about, state=FINISHED, done=total, total=total, accuracy=result["test_accuracy"])
    if not path.is_dir():
        return RunStatus(**about, state=MISSING, total=planned.get("epochs"))
    records = _records(path / METRICS)
    total = planned.get("epochs") or _planned_in(path)
    about |= {"done": len(records), "total": total, "accuracy": _accuracy(records)}
    if folder.held:
        return RunStatus(**about, state=RUNNING, time_left_s=_time_left(records, total))
    failure = folder.failure()
    if failure is not None:
        return RunStatus(**about, state=FAILED, cause=failure["cause"])
    return RunStatus(**about, state=STOPPED)


def _records(path: Path) -> list[dict[str, Any]]:
    """The epochs so far. A line that is being written, or that a crash cut short, is none."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return []
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def _accuracy(records: list[dict[str, Any]]) -> float | None:
    return records[-1].get("val_accuracy") if records else None


def _time_left(records: list[dict[str, Any]], total: int | None) -> float | None:
    times = [record["time_s"] for record in records[-RECENT:] if record.get("time_s") is not None]
    return statistics.mean(times) * (total - len(records)) if times and total else None


def _epochs(config: Mapping[str, Any]) -> int:
    schedule = config["schedule"]
    return (0 if config["pretrained"] else schedule["float_epochs"]) + schedule["qat_epochs"]


def _planned_in(path: Path) -> int | None:
    """Epochs that the folder's own configuration asks for."""
    import yaml

    try:
        return _epochs(yaml.load((path / CONFIG).read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return None
