"""The results as rows of text: for the page, and as table.csv, table.md and table.tex.

Accuracies are in [0, 1] in the CSV, in percent elsewhere; gaps are in percentage points. A mean stands with its sample
standard deviation and n; where n is 1 there is none.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from brsweep.report.results import Judged, Pick, Result, plain, row_label, short
from brsweep.report.rows import BITS, NO_EFFECT
from brsweep.report.spread import LEVEL, Paired, Spread

NOTHING, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
LEGEND = (
    "Test accuracy is that of the epoch with the best validation accuracy (or of the last epoch where there is no "
    "validation split); ± is the sample standard deviation over n seeds. Against LSQ: mean of the differences to the "
    "LSQ run of the same seed with its 95 % t interval; better or worse where Holm's p over all comparisons of this "
    f"table is below {LEVEL:g}. * marks the lambda with the best mean validation accuracy of its setting."
)


@dataclass(frozen=True)
class Column:
    """`text` is what people read; `value` what the page sorts by, a number or a text."""

    key: str
    title: str
    text: Callable[[Result], str]
    value: Callable[[Result], Any]


def columns(judged: Judged) -> list[Column]:
    varied = [key for key in judged.cohort.varied if key not in BITS]
    if any("overrides" in result.row.settings for result in judged.results):
        varied.append("overrides")
    return [
        Column("bits", "Bits", lambda r: r.row.bits, lambda r: r.row.bits),
        *(_setting(key) for key in varied),
        Column("n", "n", _n, lambda r: len(r.row.counted)),
        _accuracy("test", "Test", lambda r: r.test),
        Column("gap_float", "Gap to FP32", lambda r: points(r.gap_float), lambda r: r.gap_float and r.gap_float.mean),
        Column("gap_lsq", "Against LSQ", lambda r: interval(r.gap_lsq), lambda r: r.gap_lsq and r.gap_lsq.mean),
        Column("verdict", "Verdict", verdict, verdict),
        Column("holm", "p (Holm)", lambda r: p_value(r.gap_lsq), lambda r: r.gap_lsq and r.gap_lsq.holm),
        _accuracy("val", "Validation", lambda r: r.val),
        _accuracy("test_last", "Test, last epoch", lambda r: r.test_last),
        Column("published", "Published", _published, _published),
        Column("notes", "Notes", lambda r: "; ".join(r.notes), lambda r: "; ".join(r.notes)),
    ]


def filled(judged: Judged) -> list[Column]:
    """The columns less those in which no row says anything."""
    return [c for c in columns(judged) if any(c.text(r) not in ("", NOTHING) for r in judged.results)]


def summary(judged: Judged) -> tuple[list[str], list[str]]:
    """What a reader wants to know first, a line for each setting: for each bit-width the one that reaches the highest
    validation accuracy, and the others."""
    best: dict[str, Pick] = {}
    for pick in judged.picks:
        bits = pick.result.row.bits
        if bits not in best or pick.result.val.mean > best[bits].result.val.mean:
            best[bits] = pick
    first = [_sentence(pick) for pick in best.values()]
    return first, [_sentence(pick) for pick in judged.picks if pick is not best[pick.result.row.bits]]


def _sentence(pick: Pick) -> str:
    best = pick.result
    line = row_label(best)
    if pick.candidates > 1:
        line += f" (best on validation of {pick.candidates} lambdas, {percent(best.val)} %)"
    line += f": test {percent(best.test)} %"
    if best.gap_float:
        line += f"; gap to FP32 {points(best.gap_float)} points"
    if best.gap_lsq:
        line += f"; against LSQ {interval(best.gap_lsq)} points, {best.gap_lsq.statement()}"
    if pick.lsq and pick.lsq.val.mean > best.val.mean:
        line += f". LSQ alone is higher on validation, {percent(pick.lsq.val)} %"
    if pick.incomplete:
        line += f". Left aside: {pick.incomplete} lambda{'s' * (pick.incomplete > 1)} with seeds to come"
    return f"{line}."


def percent(spread: Spread | None) -> str:
    if spread is None:
        return NOTHING
    return f"{100 * spread.mean:.2f}" + (f" ± {100 * spread.sd:.2f}" if spread.sd is not None else "")


def points(spread: Spread | None) -> str:
    if spread is None:
        return NOTHING
    return f"{_signed(spread.mean)}" + (f" ± {100 * spread.sd:.2f}" if spread.sd is not None else "")


def interval(gap: Paired | None) -> str:
    if gap is None:
        return NOTHING
    return _signed(gap.mean) + (f" [{_signed(gap.low)}, {_signed(gap.high)}]" if gap.low is not None else "")


def p_value(gap: Paired | None) -> str:
    if gap is None or gap.holm is None:
        return NOTHING
    return "<0.001" if gap.holm < 0.001 else f"{gap.holm:.3f}"


def verdict(result: Result) -> str:
    return result.gap_lsq.statement() if result.gap_lsq else NOTHING


def to_csv(tables: Sequence[Judged]) -> str:
    """One header for all cohorts; numbers in full, accuracies in [0, 1]."""
    keys = list(dict.fromkeys(key for judged in tables for key in judged.cohort.varied if key not in BITS))
    rows = [_csv_row(judged, result, keys) for judged in tables for result in judged.results]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _csv_row(judged: Judged, result: Result, keys: Sequence[str]) -> dict[str, Any]:
    row, gap = result.row, result.gap_lsq
    cells: dict[str, Any] = {"code": judged.cohort.code, "data": judged.cohort.data, "bits": row.bits}
    cells |= {key: plain(row.settings[key]) if key in row.settings else "" for key in keys}
    cells |= {"n": len(row.counted), "seeds": " ".join(str(run.seed) for run in row.counted)}
    spreads = ("val", "test", "test_last", "floating", "gap_float")
    for key in spreads:
        value: Spread | None = getattr(result, key)
        cells |= {f"{key}_mean": value and value.mean, f"{key}_sd": value and value.sd}
    for key in ("n", "mean", "low", "high", "p", "holm"):
        cells[f"gap_lsq_{key}"] = gap and getattr(gap, key)
    cells |= {"verdict": gap.statement() if gap else "", "picked": plain(result.picked)}
    cells |= {"published": _published(result).replace(NOTHING, ""), "notes": "; ".join(result.notes)}
    return cells


def _setting(key: str) -> Column:
    def value(result: Result) -> Any:
        return result.row.settings.get(key, NO_EFFECT)

    return Column(key, short(key), lambda r: plain(value(r)), value)


def _accuracy(key: str, title: str, get: Callable[[Result], Spread | None]) -> Column:
    def text(result: Result) -> str:
        return percent(get(result)) + ("*" if key == "val" and result.picked else "")

    return Column(key, f"{title} (%)", text, lambda r: (s := get(r)) and s.mean)


def _n(result: Result) -> str:
    done, planned = len(result.row.counted), max(len(result.row.seeds), len(result.row.runs))
    return f"{done}" if done == planned else f"{done} of {planned}"


def _published(result: Result) -> str:
    return "; ".join(f"{f.accuracy:.2f} {f.method} ({f.source})" for f in result.published) or NOTHING


def _signed(share: float) -> str:
    text = f"{100 * share:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text.replace("-", MINUS)
