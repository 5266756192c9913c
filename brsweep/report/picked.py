"""The runs that a sweep's report stands for: those of the row that validation picks at each bit-width."""

from __future__ import annotations

import sys
from pathlib import Path

from brsweep.errors import BrsweepError
from brsweep.report.results import chosen, judge
from brsweep.report.rows import cohorts
from brsweep.report.runs import read_sweeps


def picked_runs(sweep: Path) -> list[Path]:
    """Folders, over all seeds of each picked row; what there is to know of the sweep goes to standard error.

    Raises `BrsweepError` where nothing is picked.
    """
    found, notices = read_sweeps([sweep])
    for line in notices:
        print(f"warning: {line}", file=sys.stderr)
    tables = [judge(cohort) for cohort in cohorts(found)]
    runs = [run.path for judged in tables for pick in chosen(judged) for run in pick.result.row.counted]
    if not runs:
        raise BrsweepError(f"{sweep}: its report picks no row; give the folders of runs")
    return list(dict.fromkeys(runs))
