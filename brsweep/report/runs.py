"""A sweep's runs as a report needs them: state, configuration, result and epochs, and what could not be read.

A damaged file costs the report that file and no more; the page says which. Numbers that JSON cannot hold (NaN) are
null in the records, and a result without a finite accuracy is not averaged. Whatever a folder from elsewhere holds,
what leaves this module is plain data of bounded depth, its texts printable, and a configuration has the fields that
tables rest on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from brsweep.errors import BrsweepError
from brsweep.report.exports import NOTHING, Exports, exports_of
from brsweep.runs import words
from brsweep.runs.folder import CONFIG, RESULT, RunFolder
from brsweep.runs.status import FINISHED, RunStatus, finite, leads_elsewhere, run_status
from brsweep.stages.plan import BIN_REGULARIZATION, Stage, canonical, completed, outline
from brsweep.sweep.manifest import read_manifest, runs_of, stages_of
from brsweep.sweep.shared import stage_line
from brsweep.tracking.snapshots import Histogram

LOG_LINES = 12
DEEPEST, LONGEST = 16, 10_000
"""Levels of nesting, and characters of a text, that a run's files may have; ours have a third of them."""
WHOLE = 2**53
"""No whole number that a run writes is as large: floats hold all that are smaller."""
ORIGIN = ("core", "code", "data", "git_commit", "device", "kernels", "threads")
"""What of a result says where its numbers come from."""


@dataclass(frozen=True)
class ReportedRun:
    """One run. `config` is None where the run was never begun, `result` where it is not finished; `records` are its
    epochs; `problems` says in a line each what could not be read. `seeds_given`: its sweep was launched with its seeds;
    else the launcher finds how many each row gets."""

    status: RunStatus
    sweep: str
    config: Mapping[str, Any] | None
    result: Mapping[str, Any] | None
    records: Sequence[Mapping[str, Any]]
    problems: tuple[str, ...] = ()
    exports: Exports = NOTHING
    seeds_given: bool = True

    @property
    def name(self) -> str:
        return words.printable(self.status.name)

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
        return int(named[-1]) if named and named[-1].isdecimal() and len(named[-1]) < 16 else None

    @property
    def code(self) -> str | None:
        """The digest of all code that the run used, its parts' included."""
        return self.text("code")

    @property
    def core(self) -> str | None:
        """The digest of the code that every run goes through; of a result that has none, that of all its code."""
        return self.text("core") or self.code

    @property
    def data(self) -> str:
        """The identity of its data; of an unfinished run, the data set's name."""
        return self.text("data") or self.data_set

    @property
    def data_set(self) -> str:
        return words.printable(words.data_name(self.config)) if self.config else "unknown"

    @property
    def stages(self) -> list[Stage]:
        """First to last; none where its configuration is not known."""
        return outline(self.config) if self.config else []

    @property
    def counts(self) -> bool:
        """Whether averages may take it: finished, with a test accuracy."""
        return self.state == FINISHED and self.number("test_accuracy") is not None

    def number(self, key: str) -> float | None:
        """A finite number of the result, or None."""
        return finite((self.result or {}).get(key))

    def text(self, key: str) -> str | None:
        """A text of the result, or None."""
        value = (self.result or {}).get(key)
        return value if isinstance(value, str) and value else None

    def origin(self) -> dict[str, Any]:
        return {key: self.result[key] for key in ORIGIN if key in (self.result or {})}

    def command(self) -> str | None:
        """The command that trains this run, where the sweep's manifest knows its overrides."""
        if not self.status.overrides:
            return None
        import shlex

        named = any(word.startswith("sweep_name=") for word in self.status.overrides)
        said = [*self.status.overrides, *([] if named else [f"sweep_name={self.sweep}"])]
        return shlex.join(["python", "-m", "brsweep.train", *said])

    def log_end(self) -> str:
        return "" if leads_elsewhere(self.path) else RunFolder(self.path).log_end(LOG_LINES)


def read_sweeps(sweeps: Sequence[Path]) -> tuple[list[ReportedRun], list[str]]:
    """The runs of all sweeps, and what there is to know of the sweeps: a line for each run that two of them hold, which
    counts once, for each shared stage that has begun and not ended, and for each manifest that can't be read.

    Raises `BrsweepError` where a path is no sweep folder, or one without a run.
    """
    runs: dict[tuple[str, str | None], ReportedRun] = {}
    notices: list[str] = []
    for sweep in sweeps:
        for run in read_sweep(sweep, notices.append):
            key = (run.name, run.code)
            if key in runs:
                notices.append(f"{run.name} lies in {runs[key].sweep} and in {run.sweep}: one run, counted once")
            else:
                runs[key] = run
    return list(runs.values()), notices


def read_sweep(sweep: Path, warn: Callable[[str], None]) -> list[ReportedRun]:
    if (sweep / CONFIG).is_file():
        raise BrsweepError(f"{sweep}: a run's folder; give its sweep's, {sweep.resolve().parent}")
    runs = runs_of(sweep, lambda line: warn(words.printable(line)))
    for line in filter(None, map(stage_line, stages_of(sweep))):
        warn(line)
    given = _seeds_given(sweep)
    return [replace(_read(status, sweep.resolve().name), seeds_given=given) for status in runs]


def _seeds_given(sweep: Path) -> bool:
    try:
        return (read_manifest(sweep) or {}).get("seeds") is None
    except BrsweepError:
        return True  # `runs_of` has said what is wrong with it


def read_run(path: Path) -> ReportedRun:
    """One run by its folder. Raises `BrsweepError` where it is none."""
    if not (path / CONFIG).is_file():
        raise BrsweepError(f"{path}: no run's folder, it holds no {CONFIG}; give runs/<sweep>/<run>")
    return _read(run_status(path.resolve(), {}), path.resolve().parent.name)


def _read(status: RunStatus, sweep: str) -> ReportedRun:
    problems: list[str] = []
    name, sweep = words.printable(status.name), words.printable(sweep)
    if leads_elsewhere(status.path):
        return ReportedRun(status, sweep, None, None, (), (f"{name}: {status.cause}",))
    folder = RunFolder(status.path)
    result = _sound(lambda: _plain_result(folder), problems, name)
    config = (result or {}).get("config")
    if config is None:
        config = _sound(lambda: _plain_config(folder), problems, name)
    if isinstance(config, dict):
        config = completed(config)
    if config is not None and not _readable(config):
        of = folder.path / (CONFIG if result is None else RESULT)
        problems.append(f"{name}: {of}: its configuration is not one that this brsweep knows; shown by its name")
        config = None
    records = _sound(lambda: _epochs_of(folder), problems, f"{name}: no curves") or []
    exports = _sound(lambda: exports_of(folder.path), problems, name) or NOTHING
    run = ReportedRun(status, sweep, config, result, records)
    if run.state == FINISHED and not run.counts:
        problems.append(f"{name}: finished without a finite test accuracy; left out of every average")
    return ReportedRun(status, sweep, config, result, records, tuple(map(words.printable, problems)), exports)


def _sound(read: Callable[[], Any], problems: list[str], name: str) -> Any:
    """What `read` gives; None, and a line in `problems`, where the file is damaged."""
    try:
        return read()
    except BrsweepError as error:
        problems.append(f"{name}: {error}")
        return None


def _plain_result(folder: RunFolder) -> dict[str, Any] | None:
    result = folder.result()
    return None if result is None else plain_data(result, folder.path / RESULT)


def _plain_config(folder: RunFolder) -> dict[str, Any] | None:
    config = folder.config()
    return None if config is None else plain_data(config, folder.path / CONFIG)


def plain_data(value: Any, path: Path, depth: int = 0) -> Any:
    """`value` with its texts printable. Raises `BrsweepError`, naming the file, for what no run writes there."""
    if isinstance(value, str) and len(value) < LONGEST:
        return words.printable(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has none of them
    if value is None or isinstance(value, (bool, float)) or (isinstance(value, int) and -WHOLE < value < WHOLE):
        return value
    if depth < DEEPEST and isinstance(value, list):
        return [plain_data(item, path, depth + 1) for item in value]
    if depth < DEEPEST and isinstance(value, dict):
        return {words.printable(str(key)): plain_data(item, path, depth + 1) for key, item in value.items()}
    raise BrsweepError(f"{path}: damaged, it holds a {type(value).__name__} that no run writes")


def _epochs_of(folder: RunFolder) -> list[dict[str, Any]]:
    """The records' stages, numbers and truth values."""
    return [
        {key: value if isinstance(value, bool) else finite(value) for key, value in record.items()}
        | {"stage": words.printable(record["stage"])}
        for record in folder.records()
    ]


def _readable(config: Any) -> bool:
    """Whether it has what tables and pairs rest on, so that a run of an older version costs the report no more."""
    try:
        quant, reg, schedule = config["quant"], config["reg"], config["schedule"]
        parts = (config["model"], config["data"], reg, quant["quantizer"])
        lambdas = (finite(reg["lambda_weight"]), finite(reg["lambda_act"]))
        numbers = (config["seed"], quant["weight_bits"], quant["act_bits"], schedule["warmup_epochs"])
        if reg["_target_"] == BIN_REGULARIZATION:
            options = ("ramp", "saturated", "unit", "reduction")
            kinds = (reg[option][kind] for option in options for kind in ("weight", "act"))
            if not all(isinstance(value, str) for value in kinds):
                return False
        canonical(config)
        epochs = [stage.epochs for stage in outline(config)]
        return (
            all(type(count) is int for count in epochs)
            and all(isinstance(part["_target_"], str) and part["_target_"] for part in parts)
            and all(value is not None and value >= 0 for value in lambdas)
            and all(type(number) is int for number in numbers)
            and isinstance(schedule["freeze_alpha"], bool)
            and isinstance(config.get("pretrained"), (str, type(None)))
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def layer_records(run: ReportedRun) -> list[dict[str, Any]]:
    """The run's layers.jsonl, an entry per quantized epoch; empty where there is none. Raises `BrsweepError`."""
    return RunFolder(run.path).layers()


def histograms(run: ReportedRun, name: str) -> dict[str, Histogram]:
    """Site -> histogram of snapshots/<name>.npz; empty where there is none. Raises `BrsweepError`."""
    return RunFolder(run.path).snapshot(name)[0]
