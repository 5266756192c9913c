"""What a run is doing, read from its folder: no torch, and no question to any process.

finished    result.json is there
damaged     result.json is there, and is not the run's whole result
running     a process holds the run's lock
failed      the last training left its cause
stopped     it was begun and nobody trains it: killed, interrupted, or out of time
missing     it was planned, and never begun
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brsweep.errors import BrsweepError
from brsweep.runs.folder import Damaged, RunFolder

FINISHED, DAMAGED, RUNNING, FAILED, STOPPED, MISSING = (
    "finished", "damaged", "running", "failed", "stopped", "missing",
)  # fmt: skip
RECENT = 3
"""Epochs that tell how long the next ones will take."""


@dataclass(frozen=True)
class RunStatus:
    """done, total: epochs of all stages, shared ones included; total is None where nothing tells.

    accuracy: on the test set, of a finished run as it reports it, else on the validation split after the last epoch;
    in [0, 1]. time_left_s: of a running one. cause: of a failed or damaged one.
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


def run_status(path: Path, planned: Mapping[str, Any]) -> RunStatus:
    """planned: what the sweep's manifest says of the run, `overrides` and `epochs`."""
    folder = RunFolder(path)
    about = {"name": path.name, "path": path, "overrides": tuple(planned.get("overrides", ()))}
    try:
        result = folder.result()
    except Damaged as error:
        return RunStatus(**about, state=DAMAGED, total=planned.get("epochs"), cause=str(error))
    if result is not None:
        total = planned.get("epochs") or _epochs(result.get("config"))
        return RunStatus(**about, state=FINISHED, done=total, total=total, accuracy=result.get("test_accuracy"))
    if not path.is_dir():
        return RunStatus(**about, state=MISSING, total=planned.get("epochs"))
    records = folder.records(skip_damaged=True)
    total = planned.get("epochs") or _planned_in(folder)
    about |= {"done": len(records), "total": total, "accuracy": records[-1].get("val_accuracy") if records else None}
    if folder.held:
        return RunStatus(**about, state=RUNNING, time_left_s=_time_left(records, total))
    failure = folder.failure()
    if failure is not None:
        return RunStatus(**about, state=FAILED, cause=failure["cause"])
    return RunStatus(**about, state=STOPPED)


def _time_left(records: Sequence[Mapping[str, Any]], total: int | None) -> float | None:
    times = [record["time_s"] for record in records[-RECENT:] if isinstance(record.get("time_s"), (int, float))]
    return statistics.mean(times) * (total - len(records)) if times and total else None


def _epochs(config: Any) -> int | None:
    """Epochs that a configuration asks for; None where it is none that this brsweep knows."""
    try:
        schedule = config["schedule"]
        return (0 if config["pretrained"] else schedule["float_epochs"]) + schedule["qat_epochs"]
    except (KeyError, TypeError):
        return None


def _planned_in(folder: RunFolder) -> int | None:
    try:
        return _epochs(folder.config())
    except BrsweepError:
        return None
