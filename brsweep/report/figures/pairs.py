"""The two runs that figures of a network's inside show for each bit-width: LSQ beside LSQ + BR, of one seed."""

from __future__ import annotations

from dataclasses import dataclass

from brsweep.report.results import Judged, Result, lsq_partners, row_label
from brsweep.report.runs import ReportedRun

LSQ, BR = "LSQ", "LSQ + BR"


@dataclass(frozen=True)
class Pair:
    """`label` names the regularized row; one of the runs may be missing."""

    bits: str
    label: str
    br: ReportedRun | None
    lsq: ReportedRun | None
    br_row: Result | None
    lsq_row: Result | None

    @property
    def runs(self) -> list[tuple[str, ReportedRun]]:
        return [(name, run) for name, run in ((LSQ, self.lsq), (BR, self.br)) if run is not None]

    @property
    def rows(self) -> list[tuple[str, Result]]:
        return [(name, row) for name, row in ((LSQ, self.lsq_row), (BR, self.br_row)) if row is not None]

    @property
    def words(self) -> str:
        seed = next((run.seed for _, run in self.runs), None)
        return f"{self.label}, seed {seed}"


def pairs(judged: Judged) -> list[Pair]:
    """For each bit-width with a finished run: of the rows that validation picks the best one, of its seeds the first
    that has an LSQ run; where none is picked, the regularized row with the best validation accuracy so far."""
    partners = lsq_partners(judged.cohort.runs)
    row_of = {run.name: result for result in judged.results for run in result.row.runs}
    found = []
    for bits in dict.fromkeys(r.row.bits for r in judged.results if r.row.counted and r.row.config):
        picked = [pick.result for pick in judged.picks if pick.result.row.bits == bits]
        begun = [r for r in judged.results if r.row.bits == bits and r.row.counted and not r.row.is_lsq]
        best = max(picked or begun, key=lambda r: r.val.mean if r.val else 0.0, default=None)
        if best is None:
            alone = next(r for r in judged.results if r.row.bits == bits and r.row.counted)
            found.append(Pair(bits, row_label(alone), None, alone.row.counted[0], None, alone))
            continue
        run = next((run for run in best.row.counted if run.name in partners), best.row.counted[0])
        lsq = partners.get(run.name)
        found.append(Pair(bits, row_label(best), run, lsq, best, lsq and row_of[lsq.name]))
    return found
