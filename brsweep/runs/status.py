"""What a run is doing, read from its folder: no torch, and no question to any process.

    finished    result.json is there
    damaged     what its folder holds is not what a run writes: a part of a result, a file or a folder of another place
    running     a process holds the run's lock
    failed      the last training left its cause
    stopped     it was begun and nobody trains it: killed, interrupted, or out of time
    missing     it was planned, and never begun

What is read may come from elsewhere: numbers that are none are left out, and no text here can move a terminal's cursor.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brsweep.errors import BrsweepError
from brsweep.runs.folder import RunFolder
from brsweep.runs.words import printable
from brsweep.stages.plan import outline
from brsweep.tracking.jsonl import HUGE

FINISHED, DAMAGED, RUNNING, FAILED, STOPPED, MISSING = (
    "finished", "damaged", "running", "failed", "stopped", "missing",
)  # fmt: skip
RECENT = 3
"""Epochs that tell how long the next ones will take."""
MOST_EPOCHS = 10**9


@dataclass(frozen=True)
class RunStatus:
    """done, total: epochs of all stages, shared ones included; total is None where nothing tells.

    val_accuracy: on the validation split, of a finished run at its best epoch, else after the last one; None without
    such a split. test_accuracy: of a finished run, as it reports it. Both in [0, 1]. time_left_s: of a running one.
    cause: of a failed or damaged one.
    """

    name: str
    path: Path
    state: str
    overrides: tuple[str, ...] = ()
    done: int = 0
    total: int | None = None
    val_accuracy: float | None = None
    test_accuracy: float | None = None
    time_left_s: float | None = None
    cause: str | None = None


def run_status(path: Path, planned: Mapping[str, Any]) -> RunStatus:
    """planned: what the sweep's manifest says of the run, `overrides` and `epochs`."""
    folder = RunFolder(path)
    overrides = tuple(map(printable, planned.get("overrides", ())))
    about = {"name": path.name, "path": path, "overrides": overrides, "total": _count(planned.get("epochs"))}
    if leads_elsewhere(path):
        return RunStatus(**about, state=DAMAGED, cause=printable(f"{path}: a link out of the sweep's folder; not read"))
    try:
        result = folder.result()
        records = folder.records(skip_damaged=True) if result is None else []
    except BrsweepError as error:
        return RunStatus(**about, state=DAMAGED, cause=printable(str(error)))
    if result is not None:
        total = about.pop("total") or _all_epochs(result.get("config"))
        accuracies = {key: finite(result.get(key)) for key in ("val_accuracy", "test_accuracy")}
        return RunStatus(**about, state=FINISHED, done=total or 0, total=total, **accuracies)
    if not path.is_dir():
        return RunStatus(**about, state=MISSING)
    about["total"] = about["total"] or _planned_in(folder)
    about |= {"done": len(records), "val_accuracy": finite(records[-1].get("val_accuracy")) if records else None}
    if folder.held:
        return RunStatus(**about, state=RUNNING, time_left_s=_time_left(records, about["total"]))
    failure = folder.failure()
    if failure is not None:
        return RunStatus(**about, state=FAILED, cause=printable(failure["cause"]))
    return RunStatus(**about, state=STOPPED)


def finite(value: Any) -> float | None:
    """`value` as a float where it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -HUGE < value < HUGE:
        return None
    return float(value)


def leads_elsewhere(path: Path) -> bool:
    """Whether the run's folder is a link to a place that is not in its sweep's folder."""
    return os.path.islink(path) and os.path.dirname(os.path.realpath(path)) != os.path.realpath(path.parent)


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < MOST_EPOCHS else None


def _time_left(records: Sequence[Mapping[str, Any]], total: int | None) -> float | None:
    times = [seconds for record in records[-RECENT:] if (seconds := finite(record.get("time_s"))) is not None]
    return finite(statistics.mean(times) * (total - len(records))) if times and total else None


def _all_epochs(config: Any) -> int | None:
    """Epochs that a configuration asks for; None where it is none that this brsweep knows."""
    try:
        return _count(sum(stage.epochs for stage in outline(config)))
    except (KeyError, TypeError, AttributeError):
        return None


def _planned_in(folder: RunFolder) -> int | None:
    try:
        return _all_epochs(folder.config())
    except BrsweepError:
        return None
