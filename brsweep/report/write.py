"""Sweep folders -> the report's files. Everything is drawn beside its place first and moved there at the end, so that
a report that fails leaves the old one whole."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from brsweep.errors import BrsweepError
from brsweep.report.figures import Absent, Figure
from brsweep.report.figures.build import compared, figures
from brsweep.report.figures.draw import draw
from brsweep.report.frames import write_csv
from brsweep.report.notices import notices
from brsweep.report.page import page
from brsweep.report.results import Judged, judge
from brsweep.report.rows import cohorts
from brsweep.report.runs import ReportedRun, read_run, read_sweeps
from brsweep.report.table import to_csv
from brsweep.report.typeset import to_latex, to_markdown
from brsweep.runs.words import printable

FIGURE_FOLDER, PAGE = "figures", "index.html"
WORKERS = 2


def write_report(sweeps: Sequence[Path], out: Path) -> Path:
    """The report of all `sweeps` in folder `out`; returns the page's path. Raises `BrsweepError` where a sweep can't be
    read or `out` not written."""
    runs, notes = read_sweeps(sweeps)
    heading = " + ".join(dict.fromkeys(printable(sweep.resolve().name) for sweep in sweeps))
    return _write(heading, runs, figures, notes, out)


def write_comparison(a: Path, b: Path, out: Path) -> Path:
    """The report of two runs by their folders, with their curves and layers side by side. Raises as `write_report`."""
    runs = [read_run(a), read_run(b)]
    return _write(" and ".join(run.name for run in runs), runs, lambda _: compared(*runs), (), out)


def _write(
    heading: str,
    runs: Sequence[ReportedRun],
    drawn_of: Callable[[Sequence[Judged]], Sequence[Figure | Absent]],
    notes: Sequence[str],
    out: Path,
) -> Path:
    tables = [judge(cohort) for cohort in cohorts(runs)]
    drawn = drawn_of(tables)
    told = notices(tables, notes)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".part-") as part:
            folder = Path(part)
            (folder / FIGURE_FOLDER).mkdir()
            with ProcessPoolExecutor(WORKERS, get_context("spawn")) as pool:
                drawing = [pool.submit(draw, f, folder / FIGURE_FOLDER) for f in drawn if isinstance(f, Figure)]
                (folder / PAGE).write_text(page(heading, tables, drawn, told, out), encoding="utf-8")
                (folder / "table.csv").write_text(to_csv(tables), encoding="utf-8")
                (folder / "table.md").write_text(to_markdown(tables, told), encoding="utf-8")
                (folder / "table.tex").write_text(to_latex(tables), encoding="utf-8")
                write_csv(runs, folder)
                for work in drawing:
                    work.result()
            _move(folder, out)
    except OSError as error:
        raise BrsweepError(f"{out}: cannot write the report ({error.strerror}); choose another --out") from error
    return out / PAGE


def _move(folder: Path, out: Path) -> None:
    """File by file, so that what else lies in `out` stays; the page last, because it shows the others."""
    (out / FIGURE_FOLDER).mkdir(exist_ok=True)
    files = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in sorted(files, key=lambda path: path.name == PAGE):
        (folder / path).replace(out / path)
