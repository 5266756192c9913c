"""Sweeps whose launcher found how many seeds each row gets: what it saw after every seed, and the rule that ended it.

The looks are taken again from the results, by the design that the sweep's manifest holds, so the report says what the
launcher said, also of a sweep that is not at its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from brsweep.errors import BrsweepError
from brsweep.report.results import Judged, Result, baselines, row_label
from brsweep.report.runs import ReportedRun
from brsweep.report.table import MINUS
from brsweep.runs.words import printable
from brsweep.sweep.manifest import read_manifest
from brsweep.sweep.seeds.sequential import Design, Look, looks, rule_in_words


@dataclass(frozen=True)
class SeedPath:
    """A row of such a sweep: its paired differences of validation accuracy, in the order of the seeds, and the looks at
    them, none where there are fewer than `design.least`."""

    result: Result
    baseline: str
    design: Design
    differences: tuple[float, ...]
    looks: tuple[Look, ...]

    @property
    def verdict(self) -> str:
        """`better at n=5: [+0.12, +0.60] points, above 0`."""
        if not self.looks:
            return f"not judged: {len(self.differences)} of at least {self.design.least} seeds"
        return rule_in_words(self.looks[-1], self.design)


def seed_paths(judged: Judged) -> list[SeedPath]:
    """Of each row that such a sweep judges; a sweep whose manifest can't be read has none."""
    partners = baselines(judged.cohort.runs)
    method_of = {run.path: row.method for row in judged.cohort.rows for run in row.runs}
    found = []
    for sweep in dict.fromkeys(run.path.parent for run in judged.cohort.runs):
        design = _design(sweep)
        if design is None:
            continue
        for result in judged.results:
            pairs = {run.seed: (run, partners[run.path]) for run in result.row.counted
                     if run.path in partners and run.path.parent == sweep}  # fmt: skip
            if pairs:
                baseline = method_of[next(iter(pairs.values()))[1].path]
                differences = _differences(pairs, design)
                found.append(SeedPath(result, baseline, design, differences, tuple(looks(differences, design))))
    return found


def seed_lines(judged: Judged) -> list[str]:
    """Which rule ended each row, a line each."""
    try:
        paths = seed_paths(judged)
    except BrsweepError as error:
        return [printable(str(error))]
    return [f"{row_label(path.result)}, validation against {path.baseline}: {path.verdict}" for path in paths]


def _design(sweep: Path) -> Design | None:
    """Raises `BrsweepError` where the manifest holds one that no launcher wrote."""
    try:
        manifest = read_manifest(sweep) or {}
    except BrsweepError:
        return None  # the report says so already
    try:
        return Design.read(manifest.get("seeds"))
    except BrsweepError as error:
        raise BrsweepError(f"{sweep / 'sweep.json'}: {error}") from None


def _differences(pairs: dict[int | None, tuple[ReportedRun, ReportedRun]], design: Design) -> tuple[float, ...]:
    """From the first seed on, as far as both runs of each are there."""
    found: list[float] = []
    for seed in range(design.first, design.first + design.most):
        values = [run.number("val_accuracy") for run in pairs.get(seed, ())]
        if len(values) < 2 or None in values:
            break
        found.append(values[0] - values[1])
    return tuple(found)


def seen_line(judged: Judged) -> list[str]:
    """What the seeds that there are could have shown, over all rows."""
    gaps = [result.gap for result in judged.results if result.gap is not None and result.gap.sees is not None]
    if not gaps:
        return []
    line = (
        f"With these seeds (n = {_span([g.n for g in gaps])}) a t test finds a difference of "
        f"{_span([g.sees for g in gaps], 100)} points in 80 % of the cases"
    )
    alike = [gap.correlation for gap in gaps if gap.correlation is not None]
    return [line + (f"; accuracies of one seed correlate by {_span(alike)}" if alike else "")]


def _span(values: Sequence[float], factor: int = 1) -> str:
    """`0.21 to 0.40`; one value where both ends read alike."""
    ends = (factor * end for end in (min(values), max(values)))
    told = dict.fromkeys(str(end) if isinstance(end, int) else f"{end:.2f}" for end in ends)
    return " to ".join(told).replace("-", MINUS)
