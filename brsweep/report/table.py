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

from brsweep.report.results import (
    PARTS,
    Judged,
    Pick,
    Result,
    chosen,
    inert,
    methods_differ,
    plain,
    row_label,
    seeds_of_all,
    short,
)
from brsweep.report.rows import BITS, LAMBDAS, NO_EFFECT, REGULARIZER, Row
from brsweep.report.spread import SIGNIFICANCE, Paired, Spread

NOTHING, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
LEGEND = (
    "Test accuracy is that of the epoch with the best validation accuracy (or of the last epoch where there is no "
    "validation split); ± is the sample standard deviation over n seeds. Against LSQ: mean of the differences to the "
    "LSQ run of the same seed with its 95 % t interval (of a regularizer on another quantizer or way to train: to "
    "that alone, which the cell names); better or worse where Holm's p over all comparisons of this table is below "
    f"{SIGNIFICANCE:g}. Size is that of the parameters at their bits, where a network was exported. "
    "* marks the lambda with the best mean validation accuracy of its setting, over the seeds that "
    "all of its lambdas have finished."
)


@dataclass(frozen=True)
class Column:
    """`text` is what people read; `value` what the page sorts by, a number or a text."""

    key: str
    title: str
    text: Callable[[Result], str]
    value: Callable[[Result], Any]


def columns(judged: Judged) -> list[Column]:
    return [
        Column("bits", "Bits", lambda r: r.row.bits, lambda r: r.row.bits),
        *_told_apart(judged),
        Column("n", "n", _n, lambda r: len(r.row.counted)),
        _accuracy_column("test", "Test", lambda r: r.test),
        Column("gap_float", "Gap to FP32", lambda r: points(r.gap_float), lambda r: r.gap_float and r.gap_float.mean),
        Column("gap", "Against LSQ", _against, lambda r: r.gap and r.gap.mean),
        Column("verdict", "Verdict", verdict, verdict),
        Column("holm", "p (Holm)", lambda r: p_value(r.gap), lambda r: r.gap and r.gap.holm),
        _accuracy_column("val", "Validation", lambda r: r.val),
        _accuracy_column("test_last", "Test, last epoch", lambda r: r.test_last),
        Column("size", "Size", _size, _bytes),
        Column("published", "Published", _published, _published),
        Column("notes", "Notes", lambda r: inert("; ".join(r.notes)), lambda r: "; ".join(r.notes)),
    ]


def _told_apart(judged: Judged) -> list[Column]:
    """What tells the rows apart: a column for each setting. Where methods differ, which have each their own settings:
    the method, a column for each setting that is on in every row and for the lambdas, and all others in words."""
    varied = [key for key in judged.cohort.varied if key not in BITS]
    overrides = ["overrides"] if any("overrides" in result.row.settings for result in judged.results) else []
    if not methods_differ(varied):
        return [_setting(key) for key in (*varied, *overrides)]
    begun = [result.row for result in judged.results if result.row.config is not None]
    own = [key for key in varied if key in LAMBDAS or all(_is_on(row, key) for row in begun)]
    own = [key for key in own if key not in PARTS]
    rest = [key for key in varied if key not in (*own, *PARTS)]
    told = [Column("method", "Method", _method, _method), *(_setting(key) for key in own)]
    return [*told, _in_words([*rest, *overrides])] if rest or overrides else told


def _is_on(row: Row, key: str) -> bool:
    return row.settings.get(key, NO_EFFECT) != NO_EFFECT and key not in row.off


def _in_words(keys: Sequence[str]) -> Column:
    def text(result: Result) -> str:
        on = {key: plain(result.row.settings[key]) for key in keys if _is_on(result.row, key)}
        return ", ".join(said if key == "overrides" else f"{short(key)} {said}" for key, said in on.items()) or NOTHING

    return Column("settings", "Settings", text, text)


def filled(judged: Judged) -> list[Column]:
    """The columns less those in which no row says anything."""
    return [c for c in columns(judged) if any(c.text(r) not in ("", NOTHING) for r in judged.results)]


def headlines(judged: Judged) -> tuple[list[str], list[str]]:
    """What a reader wants to know first, a line for each setting: for each bit-width the one that reaches the highest
    validation accuracy, and the others. Settings that have no seed in common are not compared: all are among the
    first."""
    first = chosen(judged)
    others = [pick for pick in judged.picks if all(pick is not one for one in first)]
    return [_sentence(pick, _rivals(pick, judged)) for pick in first], [_sentence(pick, ()) for pick in others]


def _rivals(pick: Pick, judged: Judged) -> list[Pick]:
    """The picks of all settings at this one's bits, itself among them."""
    return [other for other in judged.picks if other.result.row.bits == pick.result.row.bits]


def _sentence(pick: Pick, rivals: Sequence[Pick]) -> str:
    """`rivals`: the picks that this one was chosen among, itself included; none for one that was not chosen."""
    best = pick.result
    line, said = row_label(best), []
    if pick.candidates > 1:
        said.append(f"best on validation of {pick.candidates} lambdas, {percentage(pick.val)} % over "
                    f"{_seeds(pick.seeds)} that all have")  # fmt: skip
    if len(rivals) > 1 and (seeds := seeds_of_all(rivals)):
        said.append(f"of {len(rivals)} settings over {_seeds(seeds)} that all have")
    line += f" ({'; '.join(said)})" if said else ""
    line += f": test {percentage(best.test)} %"
    if best.gap_float:
        line += f"; gap to FP32 {points(best.gap_float)} points"
    if best.gap:
        line += f"; against {best.baseline} {interval(best.gap)} points, {best.gap.statement()}"
    if pick.baseline and pick.baseline.mean > pick.val.mean:
        line += f". {best.baseline or 'LSQ'} alone is higher on validation, {percentage(pick.baseline)} %"
    if pick.incomplete:
        line += f". Left aside: {pick.incomplete} lambda{'s' * (pick.incomplete > 1)} without a finished seed"
    return f"{line}."


def _seeds(seeds: Sequence[int]) -> str:
    return f"the {len(seeds)} seeds" if len(seeds) > 1 else "the one seed"


def percentage(spread: Spread | None) -> str:
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
    return result.gap.statement() if result.gap else NOTHING


def _against(result: Result) -> str:
    return interval(result.gap) + (f" (to {result.baseline})" if result.baseline not in ("", "LSQ") else "")


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
    row, gap = result.row, result.gap
    codes = " ".join(dict.fromkeys(run.code or "" for run in row.counted))
    cells: dict[str, Any] = {"core": judged.cohort.core, "code": codes, "data": judged.cohort.data, "bits": row.bits}
    cells |= {"method": row.method, "overrides": row.settings.get("overrides", "")}
    cells |= {key: _setting(key).text(result) if key in row.settings else "" for key in keys}
    cells |= {"n": len(row.counted), "seeds": " ".join(str(run.seed) for run in row.counted)}
    spreads = ("val", "test", "test_last", "floating", "gap_float")
    for key in spreads:
        value: Spread | None = getattr(result, key)
        cells |= {f"{key}_mean": value and value.mean, f"{key}_sd": value and value.sd}
    for key in ("n", "mean", "low", "high", "p", "holm", "sees", "correlation"):
        cells[f"gap_{key}"] = gap and getattr(gap, key)
    cells |= {"baseline": result.baseline, "verdict": gap.statement() if gap else "", "picked": plain(result.picked)}
    cells |= {"published": _published(result).replace(NOTHING, ""), "notes": "; ".join(result.notes)}
    return {inert(key): inert(cell) if isinstance(cell, str) else cell for key, cell in cells.items()}


def _method(result: Result) -> str:
    return inert(result.row.method) or NOTHING


def _setting(key: str) -> Column:
    def value(result: Result) -> Any:
        return result.row.settings.get(key, NO_EFFECT)

    def text(result: Result) -> str:
        none = key == REGULARIZER and result.row.config is not None and result.row.regularizer is None
        return "none" if none else plain(value(result))

    return Column(key, short(key), text, value)


def _accuracy_column(key: str, title: str, get: Callable[[Result], Spread | None]) -> Column:
    def text(result: Result) -> str:
        return percentage(get(result)) + ("*" if key == "val" and result.picked else "")

    return Column(key, f"{title} (%)", text, lambda r: (s := get(r)) and s.mean)


def _n(result: Result) -> str:
    done, planned = len(result.row.counted), max(len(result.row.seeds), len(result.row.runs))
    return f"{done}" if done == planned else f"{done} of {planned}"


def _bytes(result: Result) -> int | None:
    """Of the parameters at their bits, equal for all seeds; None where no run of the row was exported."""
    return next((run.exports.bytes for run in result.row.counted if run.exports.bytes is not None), None)


def _size(result: Result) -> str:
    size = _bytes(result)
    return NOTHING if size is None else f"{size / 1000:,.1f} kB"


def _published(result: Result) -> str:
    return "; ".join(f"{f.accuracy:.2f} {f.method} ({f.source})" for f in result.published) or NOTHING


def _signed(share: float) -> str:
    text = f"{100 * share:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text.replace("-", MINUS)
