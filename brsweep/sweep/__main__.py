"""What the runs of a sweep are doing: `python -m brsweep.sweep runs/<sweep>`, also while it runs."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from brsweep.errors import BrsweepError
from brsweep.memory import check_address_space, lack_of_memory_in_words
from brsweep.output import reader_may_leave
from brsweep.runs.folder import RunFolder
from brsweep.runs.status import RunStatus
from brsweep.runs.words import duration, printable, progress
from brsweep.sweep.manifest import runs_of, stages_of
from brsweep.sweep.screen import percent
from brsweep.sweep.shared import UNDER_WAY, SharedStage

COLUMNS = ("state", "epoch", "validation", "test", "left", "run", "")
NAME = COLUMNS.index("run")
NUMERIC = dict.fromkeys((1, 2, 3, 4), ">")
"""Columns that stand to the right."""
OUTLIER = 1.5
"""A name that is so many times as long as the usual one makes its own line longer, and no other."""


def table(runs: Sequence[RunStatus], stages: Sequence[SharedStage] = ()) -> str:
    """A line for each shared stage that has begun and not ended, one for each run, and one that counts their states.
    Validation is a finished run's best epoch, else the last one; test is a finished run's alone."""
    common = set.intersection(*(set(run.overrides) for run in runs))
    rows = [COLUMNS]
    for stage in (s for s in stages if s.status.state in UNDER_WAY):
        log = f"; log: {stage.log}" if stage.log else ""
        rows.append(
            _row(stage.status, f"stages/{stage.status.name}", f"{stage.status.cause or f'for {stage.users} runs'}{log}")
        )
    for run in runs:
        rows.append(_row(run, run.name, run.cause or " ".join(o for o in run.overrides if o not in common)))
    lengths = [[len(row[i]) for row in rows] for i in range(len(COLUMNS))]
    most = OUTLIER * statistics.median_low(lengths[NAME][1:])
    lengths[NAME] = [length for length in lengths[NAME] if length <= most]
    widths = [max(of) for of in lengths]
    cells = [[f"{cell:{NUMERIC.get(i, '<')}{widths[i]}}" for i, cell in enumerate(row)] for row in rows]
    counts = ", ".join(f"{count} {state}" for state, count in Counter(run.state for run in runs).items())
    return "\n".join([*("  ".join(row).rstrip() for row in cells), f"{len(runs)} runs: {counts}"])


def _row(status: RunStatus, name: str, words: str) -> tuple[str, ...]:
    accuracies = percent(status.val_accuracy), percent(status.test_accuracy)
    left = duration(status.time_left_s)
    return status.state, progress(status), *accuracies, left, printable(name), printable(words)


def check(runs: Sequence[RunStatus]) -> None:
    """Print a line for each damaged file. Raises `BrsweepError` where there is one, so that the command exits 1."""
    problems = [problem for run in runs if run.path.is_dir() for problem in RunFolder(run.path).check()]
    for problem in problems:
        print(f"damaged: {printable(problem)}")
    if problems:
        raise BrsweepError(f"{len(problems)} files are damaged; stale=retrain trains their runs again")
    print("every file is whole")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m brsweep.sweep", description=__doc__)
    parser.add_argument("sweep", type=Path, help="the sweep's folder, such as runs/lambda")
    parser.add_argument("--check", action="store_true", help="read every file of every run, and name the damaged ones")
    typed = parser.parse_args(arguments)
    try:
        with lack_of_memory_in_words():
            runs = runs_of(typed.sweep, lambda line: print(f"warning: {printable(line)}", file=sys.stderr))
            print(table(runs, stages_of(typed.sweep)))
            if typed.check:
                check_address_space()
                check(runs)
    except BrsweepError as error:
        sys.exit(f"error: {printable(str(error))}")


if __name__ == "__main__":
    with reader_may_leave():
        main()
