"""What the runs of a sweep are doing: `python -m brsweep.sweep runs/<sweep>`, also while it runs."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from brsweep.errors import BrsweepError
from brsweep.memory import check_address_space, lack_of_memory_in_words
from brsweep.runs.folder import RunFolder
from brsweep.runs.status import RunStatus
from brsweep.runs.words import printable
from brsweep.sweep.manifest import runs_of
from brsweep.sweep.screen import duration, percent, progress

COLUMNS = ("run", "state", "epoch", "validation", "test", "left", "")


def table(runs: Sequence[RunStatus]) -> str:
    """A line for each run and one that counts their states. Validation is a finished run's best epoch, else the last
    one; test is a finished run's alone."""
    common = set.intersection(*(set(run.overrides) for run in runs))
    rows = [COLUMNS]
    for run in runs:
        words = run.cause or " ".join(o for o in run.overrides if o not in common)
        accuracies = percent(run.val_accuracy), percent(run.test_accuracy)
        rows.append((printable(run.name), run.state, progress(run), *accuracies, duration(run.time_left_s), words))
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    counts = ", ".join(f"{count} {state}" for state, count in Counter(run.state for run in runs).items())
    return "\n".join([*lines, f"{len(runs)} runs: {counts}"])


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
            print(table(runs))
            if typed.check:
                check_address_space()
                check(runs)
    except BrsweepError as error:
        sys.exit(f"error: {printable(str(error))}")


if __name__ == "__main__":
    main()
