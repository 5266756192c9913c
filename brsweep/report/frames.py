"""A sweep as two flat tables: a line for each run, a line for each epoch; as CSV, or as pandas frames in Python.

Both hold every run, finished or not. Accuracies are in [0, 1], times in seconds; docs/records.md explains each field.
"""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from brsweep.errors import BrsweepError
from brsweep.report.results import inert
from brsweep.report.rows import results_alone
from brsweep.report.runs import ORIGIN, ReportedRun, read_sweeps
from brsweep.runs import words

if TYPE_CHECKING:
    import pandas

RUNS, EPOCHS = "runs.csv", "epochs.csv"
NUMBERS = (
    "val_accuracy", "test_accuracy", "best_epoch", "test_accuracy_last", "float_val_accuracy", "float_test_accuracy",
    "penalty_weight", "penalty_act", "time_s", "epoch_time_s",
)  # fmt: skip
"""What of a run's result stands in its line."""
WHOLE_NUMBERS = ("best_epoch", "epoch", "epochs", "step")


PARTS = {"bits": words.bits, "quantizer": words.quantizer, "regularizer": words.regularizer}


class Results(NamedTuple):
    """`runs`: a line for each run. `epochs`: a line for each epoch of each run, in order."""

    runs: pandas.DataFrame
    epochs: pandas.DataFrame


def results(sweep: str | Path) -> Results:
    """The frames of one sweep's folder, such as runs/default. What could not be read of a run stands in its line under
    `problems`; what is to be known of the sweep is a warning.

    Raises `BrsweepError` where `sweep` is no sweep's folder, or pandas is not installed.
    """
    try:
        import pandas
    except ModuleNotFoundError as error:
        if error.name != "pandas":
            raise
        raise BrsweepError("pandas is not installed: pip install brsweep[frames]") from None
    runs, notices = read_sweeps([Path(sweep)])
    for line in notices:
        warnings.warn(line, stacklevel=2)
    return Results(pandas.DataFrame(list(run_lines(runs))), pandas.DataFrame(list(epoch_lines(runs))))


def run_lines(runs: Sequence[ReportedRun]) -> Iterator[dict[str, Any]]:
    """Per run: what it is called, how it ended, its numbers, where they come from, its configuration by dotted keys."""
    for run in runs:
        result, config = run.result or {}, results_alone(run.config or {})
        yield {
            **_name(run), "state": run.state, "cause": run.status.cause, "epochs_done": run.status.done,
            **{key: of(run.config) if run.config else None for key, of in PARTS.items()},
            **{key: _whole(key, run.number(key)) for key in NUMBERS},
            "collapsed": bool(result["collapse"]) if "collapse" in result else None,
            **{key: result.get(key) for key in ORIGIN},
            "problems": "; ".join(run.problems) or None,
            **{key: _scalar(value) for key, value in config.items() if key not in ("seed", "device")},
        }  # fmt: skip


def epoch_lines(runs: Sequence[ReportedRun]) -> Iterator[dict[str, Any]]:
    """Per epoch: its run, which epoch of the whole run it is (`epoch_total`, from 1), and its record."""
    for run in runs:
        for number, record in enumerate(run.records, start=1):
            yield _name(run) | {"epoch_total": number} | {key: _whole(key, value) for key, value in record.items()}


def write_csv(runs: Sequence[ReportedRun], folder: Path) -> None:
    """`folder`/runs.csv and epochs.csv: numbers in full, an empty cell where there is none, and no formula."""
    for name, lines in ((RUNS, run_lines), (EPOCHS, epoch_lines)):
        columns = dict.fromkeys(key for line in lines(runs) for key in line)
        with open(folder / name, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(map(inert, columns))
            writer.writerows([_cell(line.get(key)) for key in columns] for line in lines(runs))


def _name(run: ReportedRun) -> dict[str, Any]:
    return {"sweep": run.sweep, "run": run.name, "seed": run.seed}


def _whole(key: str, value: Any) -> Any:
    return int(value) if key in WHOLE_NUMBERS and value is not None else value


def _scalar(value: Any) -> Any:
    """A list or an empty mapping as JSON, which a frame's column can compare."""
    return json.dumps(value) if isinstance(value, (list, Mapping)) else value


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return inert(value) if isinstance(value, str) else value
