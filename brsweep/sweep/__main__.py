"""What the runs of a sweep are doing: `python -m brsweep.sweep runs/<sweep>`, also while it runs."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from brsweep.errors import BrsweepError
from brsweep.runs.status import RunStatus
from brsweep.runs.words import printable
from brsweep.sweep.manifest import runs_of
from brsweep.sweep.screen import duration, percent, progress

COLUMNS = ("run", "state", "epoch", "accuracy", "left", "")


def table(runs: Sequence[RunStatus]) -> str:
    """A line for each run and one that counts their states. Accuracy is a finished run's on the test set, else on the
    validation split."""
    common = set.intersection(*(set(run.overrides) for run in runs))
    rows = [COLUMNS]
    for run in runs:
        words = run.cause or " ".join(o for o in run.overrides if o not in common)
        left = duration(run.time_left_s)
        rows.append((printable(run.name), run.state, progress(run), percent(run.accuracy), left, words))
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    counts = ", ".join(f"{count} {state}" for state, count in Counter(run.state for run in runs).items())
    return "\n".join([*lines, f"{len(runs)} runs: {counts}"])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m brsweep.sweep", description=__doc__)
    parser.add_argument("sweep", type=Path, help="the sweep's folder, such as runs/lambda")
    try:
        print(table(runs_of(parser.parse_args(arguments).sweep)))
    except BrsweepError as error:
        sys.exit(f"error: {printable(str(error))}")


if __name__ == "__main__":
    main()
