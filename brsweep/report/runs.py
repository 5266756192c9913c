"""A sweep's runs as a report needs them: state, configuration, result and epochs, and what could not be read.

A damaged file costs the report that file and no more; the page says which. Numbers that JSON cannot hold (NaN) are
null in the records, and a result without a finite accuracy is not averaged.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brsweep.errors import BrsweepError
from brsweep.runs import words
from brsweep.runs.folder import CONFIG, RunFolder
from brsweep.runs.status import FINISHED, RunStatus, run_status
from brsweep.stages.plan import canonical
from brsweep.sweep.manifest import runs_of
from brsweep.tracking.snapshots import Histogram

LOG_LINES = 12


@dataclass(frozen=True)
class ReportedRun:
    """One run. `config` is None where the run was never begun, `result` where it is not finished; `records` are its
    epochs; `problems` says in a line each what could not be read."""

    status: RunStatus
    sweep: str
    config: Mapping[str, Any] | None
    result: Mapping[str, Any] | None
    records: Sequence[Mapping[str, Any]]
    problems: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.status.name

    @property
    def path(self) -> Path:
        return self.status.path

    @property
    def state(self) -> str:
        return self.status.state

    @property
    def seed(self) -> int | None:
        if self.config is not None:
            return self.config.get("seed")
        named = [word.partition("=")[2] for word in self.status.overrides if word.startswith("seed=")]
        return int(named[-1]) if named and named[-1].isdigit() else None

    @property
    def counts(self) -> bool:
        """Whether averages may take it: finished, with a test accuracy."""
        return self.state == FINISHED and self.number("test_accuracy") is not None

    def number(self, key: str) -> float | None:
        """A finite number of the result, or None."""
        value = (self.result or {}).get(key)
        plain = isinstance(value, (int, float)) and not isinstance(value, bool)
        return float(value) if plain and math.isfinite(value) else None

    def command(self) -> str | None:
        """The command that trains this run, where the sweep's manifest knows its overrides."""
        if not self.status.overrides:
            return None
        import shlex

        named = any(word.startswith("sweep_name=") for word in self.status.overrides)
        said = [*self.status.overrides, *([] if named else [f"sweep_name={self.sweep}"])]
        return shlex.join(["python", "-m", "brsweep.train", *said])

    def log_end(self) -> str:
        return RunFolder(self.path).log_end(LOG_LINES)


def read_sweeps(sweeps: Sequence[Path]) -> tuple[list[ReportedRun], list[str]]:
    """The runs of all sweeps, and a line for each that two of them hold, which counts once.

    Raises `BrsweepError` where a path is no sweep folder, or one without a run.
    """
    runs: dict[tuple[str, str | None], ReportedRun] = {}
    notices = []
    for sweep in sweeps:
        for run in read_sweep(sweep):
            key = (run.name, (run.result or {}).get("code"))
            if key in runs:
                notices.append(f"{run.name} lies in {runs[key].sweep} and in {run.sweep}: one run, counted once")
            else:
                runs[key] = run
    return list(runs.values()), notices


def read_sweep(sweep: Path) -> list[ReportedRun]:
    if (sweep / CONFIG).is_file():
        raise BrsweepError(f"{sweep}: a run's folder; give its sweep's, {sweep.resolve().parent}")
    return [_read(status, sweep.resolve().name) for status in runs_of(sweep)]


def read_run(path: Path) -> ReportedRun:
    """One run by its folder. Raises `BrsweepError` where it is none."""
    if not (path / CONFIG).is_file():
        raise BrsweepError(f"{path}: no run's folder, it holds no {CONFIG}; give runs/<sweep>/<run>")
    return _read(run_status(path.resolve(), {}), path.resolve().parent.name)


def _read(status: RunStatus, sweep: str) -> ReportedRun:
    problems: list[str] = []
    folder = RunFolder(status.path)
    result = _sound(folder.result, problems, status.name)
    config = (result or {}).get("config") or _sound(folder.config, problems, status.name)
    if config is not None and not _readable(config):
        problems.append(f"{status.name}: its configuration is not one that this brsweep knows; shown by its name")
        config = None
    records = _sound(folder.records, problems, f"{status.name}: no curves") or []
    run = ReportedRun(status, sweep, config, result, records)
    if run.state == FINISHED and not run.counts:
        problems.append(f"{status.name}: finished without a finite test accuracy; left out of every average")
    return ReportedRun(status, sweep, config, result, records, tuple(problems))


def _sound(read: Callable[[], Any], problems: list[str], name: str) -> Any:
    """What `read` gives; None, and a line in `problems`, where the file is damaged."""
    try:
        return read()
    except BrsweepError as error:
        problems.append(f"{name}: {error}")
        return None


def _readable(config: Mapping[str, Any]) -> bool:
    """Whether it has what tables and pairs rest on, so that a run of an older version costs the report no more."""
    try:
        canonical(config)
        words.regularizer(config)
        return isinstance(config["seed"], int) and all("_target_" in config[key] for key in ("model", "data"))
    except (KeyError, TypeError, AttributeError):
        return False


def layers(run: ReportedRun) -> list[dict[str, Any]]:
    """The run's layers.jsonl, an entry per quantized epoch; empty where there is none, or a damaged one."""
    return _sound(RunFolder(run.path).layers, [], run.name) or []


def histograms(run: ReportedRun, name: str) -> dict[str, Histogram]:
    """Site -> histogram of snapshots/<name>.npz; empty where there is none, or a damaged one."""
    try:
        return RunFolder(run.path).snapshot(name)[0]
    except BrsweepError:
        return {}


def fingerprint(values: Mapping[str, Any]) -> str:
    """Plain data as text that is equal exactly for equal values (1 is 1.0)."""
    return json.dumps({key: _whole(value) for key, value in values.items()}, sort_keys=True, default=str)


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
