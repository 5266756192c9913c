"""All figures of a report, drawn or absent, in the order in which the page shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from brsweep.report.figures import Absent, Figure
from brsweep.report.figures.accuracy import against_lambda, bits_by_lambda, ways_of_alpha
from brsweep.report.figures.curves import curve_panels, training_curves
from brsweep.report.figures.differences import against_baseline
from brsweep.report.figures.inside import Inside, alphas, bin_occupancy, changes, distributions
from brsweep.report.figures.pairs import Pair, pairs
from brsweep.report.figures.seeds import seeds_until_decided
from brsweep.report.results import Judged
from brsweep.report.rows import LAMBDAS
from brsweep.report.runs import ReportedRun


def figures(tables: Sequence[Judged]) -> list[Figure | Absent]:
    """Those of each cohort; from the second on names and titles carry its number."""
    found = []
    for number, judged in enumerate(tables, start=1):
        for figure in _cohort_figures(judged):
            if number > 1:
                figure = replace(figure, name=f"{figure.name}-{number}", title=f"{figure.title} (table {number})")
            found.append(figure)
    return found


def compared(a: ReportedRun, b: ReportedRun) -> list[Figure | Absent]:
    """Two runs over their epochs and inside, A and B; what one of them has no record of shows the other alone."""
    shown = [(name, run) for name, run in (("A", a), ("B", b)) if run.config is not None]
    panels = curve_panels("", [(name, [run]) for name, run in shown])
    if not panels:
        return [Absent("training", "Training curves", "neither run has a readable configuration and metrics.jsonl")]
    label = f"A is {a.sweep}/{a.name}, B is {b.sweep}/{b.name}"
    inside = Inside(Pair("a-b", "A and B", label, tuple(shown), ()))
    return [
        Figure("training", "Training curves", f"{label}. Upright lines: where a stage begins.", panels),
        *(distributions(inside, kind) for kind in ("weight", "act")),
        alphas(inside), bin_occupancy(inside), changes([inside]),
    ]  # fmt: skip


def _cohort_figures(judged: Judged) -> list[Figure | Absent]:
    shown = pairs(judged)
    insides = [Inside(pair) for pair in shown]
    found = [against_baseline(judged), *(against_lambda(judged, key) for key in reversed(LAMBDAS))]
    found += [bits_by_lambda(judged), ways_of_alpha(judged), *seeds_until_decided(judged), training_curves(shown)]
    for inside in insides:
        found += [distributions(inside, "weight"), distributions(inside, "act")]
    for inside in insides:
        found += [alphas(inside), bin_occupancy(inside)]
    if not insides:
        title = "Distributions around the levels, trajectories of alpha, bin occupancy"
        found.append(Absent("inside", title, "no run has finished yet"))
    return [*found, changes(insides)]
