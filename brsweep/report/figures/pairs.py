"""The two runs that figures of a network's inside show for each bit-width and method: a quantizer alone beside the same
with a regularizer, of one seed, such as LSQ beside LSQ + BR."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from brsweep.report.results import Judged, Result, baselines, best_pick, row_label
from brsweep.report.runs import ReportedRun


@dataclass(frozen=True)
class Pair:
    """`runs` and `rows`: the baseline's and the method's, each under what it is called; one of them may be missing.
    `label` names the method's row. `place`: the pair in the names of files; `title`: in words."""

    place: str
    title: str
    label: str
    runs: tuple[tuple[str, ReportedRun], ...]
    rows: tuple[tuple[str, Result], ...]

    @property
    def methods(self) -> list[str]:
        return [name for name, _ in self.runs]

    @property
    def words(self) -> str:
        seeds = " and ".join(dict.fromkeys(str(run.seed) for _, run in self.runs))
        return f"{self.label}, seed {seeds}"


def pairs(judged: Judged) -> list[Pair]:
    """For each bit-width and method with a finished run: of the rows that validation picks the best one, of its seeds
    the first that has a baseline; where none is picked, the row with the best validation accuracy so far. A quantizer
    alone is in a pair of its own where nothing is compared with it."""
    partners = baselines(judged.cohort.runs)
    row_of = {run.path: result for result in judged.results for run in result.row.runs}
    done = [r for r in judged.results if r.row.counted and r.row.config]
    found = []
    for bits in dict.fromkeys(r.row.bits for r in done):
        mine = [r for r in done if r.row.bits == bits]
        methods = list(dict.fromkeys(r.row.method for r in mine if not r.row.is_lsq)) or [mine[0].row.method]
        for method in methods:
            best = _best(judged, [r for r in mine if r.row.method == method])
            run = next((run for run in best.row.counted if run.path in partners), best.row.counted[0])
            other = None if best.row.is_lsq else partners.get(run.path)
            shown = [(run, best)] if other is None else [(other, row_of[other.path]), (run, best)]
            several = len(methods) > 1
            found.append(
                Pair(
                    place=f"{bits.lower()}-{_slug(method)}" if several else bits.lower(),
                    title=f"{bits}, {method}" if several else bits,
                    label=row_label(best),
                    runs=tuple((result.row.method, run) for run, result in shown),
                    rows=tuple((result.row.method, result) for _, result in shown),
                )
            )
    return found


def _best(judged: Judged, rows: Sequence[Result]) -> Result:
    picked = best_pick([pick for pick in judged.picks if any(pick.result.row is r.row for r in rows)])
    return picked.result if picked else max(rows, key=lambda r: r.val.mean if r.val else 0.0)


def _slug(method: str) -> str:
    """`lsq-br` for `LSQ + BR`."""
    return re.sub(r"[^a-z0-9]+", "-", method.lower()).strip("-")
