"""What a sweep comes to, in a line or a few, as its report has it: said where the command ends."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from brsweep.errors import BrsweepError
from brsweep.report.results import Judged, Result, judge, row_label
from brsweep.report.rows import cohorts
from brsweep.report.runs import read_sweeps
from brsweep.report.table import headlines, percentage, points
from brsweep.runs.words import printable

MOST_ROWS = 8
"""Where nothing is picked, so many rows are said one by one; a table of more is the report's."""


def close(sweep: Path, configs: Sequence[Mapping[str, Any]]) -> None:
    """Say what the sweep comes to; of a first try, `quick=true`, write the report as well, to try that too."""
    try:
        for line in answer(sweep):
            print(printable(line))
        if any(config.get("quick") for config in configs):
            from brsweep.report.write import write_report

            print(f"report in {printable(str(write_report([sweep], sweep / 'report')))}")
    except BrsweepError as error:  # the runs are finished, whatever a report makes of what else lies in the folder
        print(f"warning: no summary of {printable(f'{sweep}: {error}')}", file=sys.stderr)


def answer(sweep: Path) -> list[str]:
    """For each table of the report the picked rows, each with its difference to the baseline and its verdict; of a
    single setting its mean and spread over seeds. Raises `BrsweepError` where the sweep can't be read."""
    return [line for cohort in cohorts(read_sweeps([sweep])[0]) for line in _lines(judge(cohort))]


def _lines(judged: Judged) -> list[str]:
    counted = [result for result in judged.results if result.row.counted]
    picked, _ = headlines(judged)
    if len(judged.results) > 1 and picked:
        return picked
    return [_row(result) for result in counted] if len(counted) <= MOST_ROWS else []


def _row(result: Result) -> str:
    n = len(result.row.counted)
    line = f"{row_label(result)}: test {percentage(result.test)} % over {n} seed{'s' * (n > 1)}"
    if result.val:
        line += f", validation {percentage(result.val)} %"
    if result.gap_float:
        line += f"; gap to FP32 {points(result.gap_float)} points"
    return f"{line}."
