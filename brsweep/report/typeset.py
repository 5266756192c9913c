"""The table for a page of text: Markdown and LaTeX (booktabs, graphicx), with every sign that means something there
escaped."""

from __future__ import annotations

from collections.abc import Sequence

from brsweep.report.results import Judged, row_label
from brsweep.report.table import LEGEND, MINUS, NOTHING, Column, filled, headlines

TEX = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_"}
TEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", MINUS: "$-$", NOTHING: "--", "<": "$<$"}
TEX |= {">": "$>$", "λ": r"$\lambda$", "*": r"\textsuperscript{*}"}
FOREIGN = 0x180
FOOTED = ("published", "notes")
"""Columns whose texts are long: they stand below the LaTeX table, not in it."""
HEAD = r"% For the preamble: \usepackage{booktabs,graphicx}. Each table* spans both columns of a two-column article."
SHRUNK = r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%"
"""A table that is wider than the text is scaled down to it; no other is touched."""


def to_markdown(tables: Sequence[Judged], notices: Sequence[str]) -> str:
    parts = [_bullets(notices)] if notices else []
    for judged in tables:
        parts.append(f"### {title(judged)}\n")
        first, others = headlines(judged)
        if first:
            parts.append(_bullets([*first, *others]))
        columns = filled(judged)
        lines = [[c.title for c in columns], ["---"] * len(columns)]
        lines += [[c.text(result) for c in columns] for result in judged.results]
        parts.append("\n".join(f"| {' | '.join(map(_markdown, line))} |" for line in lines) + "\n")
    return "\n".join([*parts, _markdown(LEGEND)]) + "\n"


def to_latex(tables: Sequence[Judged]) -> str:
    """A comment that says what the document needs, and one table* for each cohort."""
    return "\n".join([HEAD, *(_latex(judged) for judged in tables)])


def title(judged: Judged) -> str:
    code = f"training code {judged.cohort.core}" if judged.cohort.core else "nothing finished yet"
    return f"Data {judged.cohort.data}, {code}"


def _latex(judged: Judged) -> str:
    columns = [column for column in filled(judged) if column.key not in FOOTED]
    body = [" & ".join(tex(c.text(result)) for c in columns) + r" \\" for result in judged.results]
    return "\n".join([
        r"\begin{table*}", r"\centering\small\sloppy", rf"\caption{{{tex(title(judged))}. {tex(LEGEND)}}}",
        SHRUNK, rf"\begin{{tabular}}{{{''.join(map(_alignment, columns))}}}", r"\toprule",
        " & ".join(tex(c.title) for c in columns) + r" \\", r"\midrule", *body, r"\bottomrule",
        r"\end{tabular}}", *_footnotes(judged), r"\end{table*}", "",
    ])  # fmt: skip


def _footnotes(judged: Judged) -> list[str]:
    notes = []
    for result in judged.results:
        for column in filled(judged):
            text = column.text(result)
            if column.key in FOOTED and text not in ("", NOTHING):
                notes.append(rf"\par\footnotesize\raggedright {tex(row_label(result))}: {tex(text)}")
    return notes


def tex(text: str) -> str:
    """`text` with what TeX acts on escaped; of letters that its common fonts lack, the code point."""
    return "".join(TEX.get(c) or (c if ord(c) < FOREIGN else f"U+{ord(c):04X}") for c in text)


def _alignment(column: Column) -> str:
    if column.key == "settings":
        return "p{5cm}"
    return "l" if column.key in ("bits", "method", "verdict") else "r"


def _bullets(lines: Sequence[str]) -> str:
    return "".join(f"- {_markdown(line)}\n" for line in lines)


def _markdown(text: str) -> str:
    for sign in "\\|*_<>`[":
        text = text.replace(sign, f"\\{sign}") if text != "---" else text
    return text
