"""The epochs as `metrics.csv` in the run folder, for spreadsheets and plotting tools.

One row per epoch; the column `epoch_total` is the step. None is an empty cell, NaN is `nan`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from brsweep.files import replace_file
from brsweep.tracking.tracker import Record, RunInfo, Tracker

STEP = "epoch_total"


class CsvFile(Tracker):
    """A tracker that keeps `folder`/metrics.csv. A row with a new key rewrites the file with one column more."""

    def __init__(self, folder: Path, run: RunInfo) -> None:
        self._path = Path(folder) / "metrics.csv"
        self._rows: list[dict[str, Any]] = []
        self._columns: list[str] = [STEP]

    def replay(self, records: Sequence[Record]) -> None:
        self._rows = [{STEP: step, **record} for step, record in enumerate(records, start=1)]
        self._columns = list(dict.fromkeys([STEP, *(key for row in self._rows for key in row)]))
        self._rewrite()

    def log(self, metrics: Record, step: int) -> None:
        row = {STEP: step, **metrics}
        self._rows.append(row)
        new = [key for key in row if key not in self._columns]
        if new:
            self._columns += new
            self._rewrite()
            return
        with open(self._path, "a", encoding="utf-8", newline="") as file:
            file.write(self._text([row]))

    def _rewrite(self) -> None:
        header = dict(zip(self._columns, self._columns, strict=True))
        replace_file(self._path, self._text([header, *self._rows]))

    def _text(self, rows: Iterable[dict[str, Any]]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self._columns, restval="", lineterminator="\n").writerows(rows)
        return text.getvalue()
