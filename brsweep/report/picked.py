"""The runs that a sweep's report stands for: those of the row that validation picks at each bit-width."""

from __future__ import annotations

from pathlib import Path

from brsweep.errors import BrsweepError
from brsweep.report.results import chosen, judge
from brsweep.report.rows import cohorts
from brsweep.report.runs import read_sweep


def picked_runs(sweep: Path) -> list[Path]:
    """Folders, over all seeds of each picked row. Raises `BrsweepError` where nothing is picked."""
    tables = [judge(cohort) for cohort in cohorts(read_sweep(sweep))]
    runs = [run.path for judged in tables for pick in chosen(judged) for run in pick.result.row.counted]
    if not runs:
        raise BrsweepError(f"{sweep}: its report picks no row; give the folders of runs")
    return list(dict.fromkeys(runs))
