"""What each setting gains or costs against its baseline: a row each, with its interval and its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from brsweep.report.figures import Absent, Figure, Forest, Panel
from brsweep.report.results import Judged, Result, baselines, in_words
from brsweep.report.runs import ReportedRun
from brsweep.report.table import interval

MOST_ROWS = 20


def against_baseline(judged: Judged) -> Figure | Absent:
    """A panel for each bit-width, a row for each setting that has a run of the same seed to be compared with."""
    name, title = "differences", "Against LSQ"
    compared = [result for result in judged.results if result.gap is not None]
    if not compared:
        return Absent(name, title, "no finished run has a finished baseline of its seed")
    partners = baselines(judged.cohort.runs)
    panels, left = [], 0
    for bits in dict.fromkeys(result.row.bits for result in compared):
        mine = [result for result in compared if result.row.bits == bits]
        best = sorted(mine, key=lambda r: r.val.mean if r.val else 0.0, reverse=True)[:MOST_ROWS]
        left += len(mine) - len(best)
        panels.append(Panel(bits, forest=_forest([result for result in mine if result in best], partners)))
    caption = (
        "Test accuracy less that of the run of the same seed with LSQ alone, or with what the row names: mean, 95 % t "
        "interval, and each seed as a pale dot. In colour where the table's verdict is better or worse."
        + (f" At most {MOST_ROWS} rows a bit-width, the best on validation: {left} left out." if left else "")
    )
    return Figure(name, title, caption, panels, columns=1)


def _forest(results: Sequence[Result], partners: Mapping[Path, ReportedRun]) -> Forest:
    gaps = [result.gap for result in results]
    return Forest(
        rows=[_name(result) for result in results],
        means=[100 * gap.mean for gap in gaps],
        lows=[None if gap.low is None else 100 * gap.low for gap in gaps],
        highs=[None if gap.high is None else 100 * gap.high for gap in gaps],
        dots=[_differences(result, partners) for result in results],
        verdicts=[gap.verdict for gap in gaps],
        texts=[interval(gap) for gap in gaps],
        label="points of test accuracy",
    )


def _name(result: Result) -> str:
    of = "" if result.baseline == "LSQ" else f" (to {result.baseline})"
    return (in_words(result.row.settings, [result]) or result.row.method) + of


def _differences(result: Result, partners: Mapping[Path, ReportedRun]) -> list[float]:
    """In points, by seed."""
    pairs = [(run, partners[run.path]) for run in result.row.counted if run.path in partners]
    return [100 * (run.number("test_accuracy") - other.number("test_accuracy")) for run, other in pairs]
