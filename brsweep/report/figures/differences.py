"""What each setting gains or costs against its baseline: a row each, with its interval and its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from brsweep.report.figures import Absent, Figure, Forest, Panel
from brsweep.report.results import Judged, Result, baselines, in_words
from brsweep.report.runs import ReportedRun
from brsweep.report.spread import Paired
from brsweep.report.table import interval

MOST_ROWS = 20
REACH = 3
"""An interval is drawn as far as this many times the largest difference of one seed: two seeds give one that is 13
times as wide as their spread, beside which no other would be seen."""


def against_baseline(judged: Judged) -> Figure | Absent:
    """A panel for each bit-width, a row for each setting that has a run of the same seed to be compared with."""
    name, title = "differences", "Against LSQ"
    compared = [result for result in judged.results if result.gap is not None]
    if not compared:
        return Absent(name, title, "no finished run has a finished baseline of its seed")
    partners = baselines(judged.cohort.runs)
    bits = dict.fromkeys(result.row.bits for result in compared)
    rows = {width: _preferred([result for result in compared if result.row.bits == width]) for width in bits}
    left = len(compared) - sum(map(len, rows.values()))
    dots = {id(r): _differences(r, partners) for mine in rows.values() for r in mine}
    reach = REACH * max(abs(value) for values in dots.values() for value in values)
    panels = [Panel(width, forest=_forest(mine, dots, reach)) for width, mine in rows.items()]
    cut = any(abs(end) > reach for mine in rows.values() for r in mine for end in _ends(r.gap) if end is not None)
    caption = (
        "Test accuracy less that of the run of the same seed with LSQ alone, or with what the row names: mean, 95 % t "
        "interval where the seeds give one, and each seed as a pale dot. In colour where the table's verdict is better "
        "or worse."
        + (f" Intervals are cut off at {REACH} times the largest difference." if cut else "")
        + (f" At most {MOST_ROWS} rows a bit-width, the best on validation: {left} left out." if left else "")
    )
    return Figure(name, title, caption, panels, columns=1)


def _preferred(results: Sequence[Result]) -> list[Result]:
    """At most MOST_ROWS, in the table's order: those with the best validation accuracy, or the first."""
    best = sorted(results, key=lambda r: r.val.mean if r.val else 0.0, reverse=True)[:MOST_ROWS]
    return [result for result in results if result in best]


def _ends(gap: Paired) -> tuple[float | None, float | None]:
    """Of the interval, in points."""
    return (None, None) if gap.low is None else (100 * gap.low, 100 * gap.high)


def _forest(results: Sequence[Result], dots: Mapping[int, list[float]], reach: float) -> Forest:
    gaps = [result.gap for result in results]
    ends = [[end if end is None else min(max(end, -reach), reach) for end in _ends(gap)] for gap in gaps]
    return Forest(
        rows=[_name(result) for result in results],
        means=[100 * gap.mean for gap in gaps],
        lows=[low for low, _ in ends],
        highs=[high for _, high in ends],
        dots=[dots[id(result)] for result in results],
        verdicts=[gap.verdict for gap in gaps],
        texts=[interval(gap) for gap in gaps],
        label="points of test accuracy",
    )


def _name(result: Result) -> str:
    """The row in words; a method that nothing regularizes by its name too, since it is compared with another."""
    said, method = in_words(result.row.settings, [result]) or result.row.method, result.row.method
    named = said if result.row.regularizer or said.startswith(method) else f"{method}, {said}"
    return named if result.baseline == "LSQ" else f"{named} (to {result.baseline})"


def _differences(result: Result, partners: Mapping[Path, ReportedRun]) -> list[float]:
    """In points, by seed."""
    pairs = [(run, partners[run.path]) for run in result.row.counted if run.path in partners]
    return [100 * (run.number("test_accuracy") - other.number("test_accuracy")) for run, other in pairs]
