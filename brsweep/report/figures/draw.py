"""Figures as PNG and PDF by matplotlib: the palette of Okabe and Ito, readable in print and without colour vision.

Sizes are given in inches for each panel and its margins. matplotlib's own layout engines would find the margins by
drawing every figure twice over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from brsweep.report.figures import Figure, Panel, Series
from brsweep.report.figures.forest import draw_forest, heights_of_panels, room_of_forest
from brsweep.report.figures.heat import draw_heat, room_of_heat
from brsweep.report.figures.letters import LETTER, wrapped

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31", "#7F7F7F")
MARKERS = "osD^vPXh*"
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "pdf.fonttype": 42,
    "text.parse_math": False,
}
DOTS_PER_INCH = 150
WIDTH, LABEL, ROW = 2.85, 0.28, 0.1
"""Inches: of a large panel, of the words beside its axis without the ticks' own, and of a row of stages' names."""
LEGEND_LINE, LEGEND_FONT, LEGEND_KEY = 0.15, 7, 0.45
"""Inches of a line and of the sign beside a name, with the room about both."""
TITLE_FONT, SMALL_FONT, SMALL_WIDTH = 8, 6, 1.6
GREY = "0.35"


def draw(figure: Figure, folder: Path) -> None:
    """Write `folder`/<name>.png and .pdf."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    columns = min(figure.columns, len(figure.panels))
    lines = math.ceil(len(figure.panels) / columns)
    with mpl.rc_context(STYLE):
        canvas = Canvas()
        FigureCanvasAgg(canvas)
        axes = canvas.subplots(lines, columns, squeeze=False, height_ratios=heights_of_panels(figure) or None)
        named: dict[str, Any] = {}
        alike = figure.small and len({repr(panel.x_ticks) for panel in figure.panels}) == 1
        for place, ax in enumerate(axes.flat):
            if place >= len(figure.panels):
                ax.set_axis_off()
            elif figure.panels[place].heat is not None:
                draw_heat(canvas, ax, figure, figure.panels[place])
            elif figure.panels[place].forest is not None:
                draw_forest(ax, figure, figure.panels[place])
            else:
                named = _panel(ax, figure.panels[place], figure.small) | named
                ax.tick_params(labelbottom=not alike or place + columns >= len(figure.panels))
        _lay_out(canvas, figure, columns, lines)
        _legend(canvas, figure, named)
        for kind, about in (("png", {}), ("pdf", {"CreationDate": None})):
            canvas.savefig(folder / f"{figure.name}.{kind}", dpi=DOTS_PER_INCH, metadata=about)


def _lay_out(canvas: Any, figure: Figure, columns: int, lines: int) -> None:
    """Widths and heights in inches: a panel, what lies left and right of it, above and below. After the panels are
    drawn, because the ticks' words and the rows of the stages' names say how much room they take."""
    width, left, right = (SMALL_WIDTH, 0.08, 0.08) if figure.small else (WIDTH, LABEL + _longest_tick(canvas), 0.1)
    height, above, below = (0.85, 0.16, 0.14) if figure.small else (1.65, 0.26, 0.42)
    above += ROW * max((_rows(ax) for ax in canvas.axes), default=0)
    above += max(ax.title.get_text().count("\n") * 1.2 * ax.title.get_fontsize() / 72 for ax in canvas.axes)
    if figure.panels[0].heat is not None:
        width, left, right, height = room_of_heat(figure)
    if figure.panels[0].forest is not None:
        width, left, right, height = room_of_forest(figure)
    full_width = columns * (left + width + right)
    legend, names = _legend_columns(figure, full_width)
    under = 0.15 + LEGEND_LINE * _lines(names, legend) if legend else 0.0
    full_height = lines * (above + height + below) + under
    canvas.set_size_inches(full_width, full_height)
    canvas.subplots_adjust(
        left=left / full_width,
        right=1 - right / full_width,
        top=1 - above / full_height,
        bottom=(under + below) / full_height,
        wspace=(left + right) / width,
        hspace=(above + below) / height,
    )


def _panel(ax: Any, panel: Panel, small: bool) -> dict[str, Any]:
    """Its series by name, as the legend wants them."""
    ax.set_xlabel(panel.x_label)
    ax.set_ylabel(panel.y_label)
    named = {series.name: _series(ax, series) for series in panel.series}
    ax.locator_params(nbins=6, min_n_ticks=3)
    if panel.y_log and any(value and value > 0 for series in panel.series for value in series.y):
        _logarithmic(ax)
    if panel.x_ticks is not None:
        ax.set_xticks([at for at, _ in panel.x_ticks], [word for _, word in panel.x_ticks])
        ax.margins(x=0.08)
    ax.vlines([at for at, _ in panel.marks], 0, 1, transform=ax.get_xaxis_transform(), color="0.6", linewidth=0.5,
              linestyle=(0, (2, 2)), zorder=0)  # fmt: skip
    _name_marks(ax, panel.marks)
    size, width = (SMALL_FONT, SMALL_WIDTH) if small else (TITLE_FONT, WIDTH)
    ax.set_title(wrapped(panel.title, width, size), fontsize=size, pad=3 + 7 * _rows(ax))
    for at, word in panel.levels:
        ax.axhline(at, color="0.4", linewidth=0.8, linestyle="--", zorder=0)
        ax.annotate(word, (1, at), xycoords=("axes fraction", "data"), xytext=(-1, 1), textcoords="offset points",
                    fontsize=SMALL_FONT, color=GREY, ha="right", va="bottom")  # fmt: skip
    if panel.y_hidden:
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
    ax.tick_params(labelsize=SMALL_FONT if small else 7, length=2, pad=2)
    return named


def _name_marks(ax: Any, marks: Sequence[tuple[float, str]]) -> None:
    """Each word above its line, in the lowest row in which it meets no other."""
    low, high = ax.get_xlim()
    ends: list[float] = []
    for at, word in marks:
        if not word:
            continue
        length = LETTER * SMALL_FONT * (len(word) + 1) / WIDTH
        start = min((at - low) / (high - low), 1 - length)
        row = next((row for row, end in enumerate(ends) if end <= start), len(ends))
        ends[row:] = [start + length, *ends[row + 1 :]]
        ax.annotate(word, (start, 1), xycoords="axes fraction", xytext=(0, 1 + 72 * ROW * row), va="bottom",
                    textcoords="offset points", fontsize=SMALL_FONT, color=GREY, gid=f"mark-{row}")  # fmt: skip


def _rows(ax: Any) -> int:
    """Rows of stages' names above it."""
    return len({text.get_gid() for text in ax.texts if str(text.get_gid()).startswith("mark-")})


def _longest_tick(canvas: Any) -> float:
    """Inches of the longest word at an upright axis."""
    axes = [ax.yaxis for ax in canvas.axes]
    words = [word for axis in axes for word in axis.get_major_formatter().format_ticks(axis.get_majorticklocs())]
    return LETTER * 7 * max(map(len, words), default=0)


def _logarithmic(ax: Any) -> None:
    """At least three ticks, at round numbers: of each decade one, or as many more as it takes."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    ax.set_yscale("log")
    low, high = ax.get_ylim()
    for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), ()):
        locator = LogLocator(subs=factors) if factors else MaxNLocator(nbins=6, min_n_ticks=3)
        if sum(low <= tick <= high for tick in locator.tick_values(low, high)) >= 3:
            break
    ax.yaxis.set_major_locator(locator)
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _series(ax: Any, series: Series) -> Any:
    """What stands for it in a legend."""
    import matplotlib as mpl

    color = PALETTE[series.color % len(PALETTE)]
    if series.shade is not None:
        color = mpl.colormaps["viridis"](0.92 * series.shade)
    x, y = floats(series.x), floats(series.y)
    low, high = floats(series.low), floats(series.high)
    if series.area:
        return ax.fill([x[0], *x, x[-1]], [0.0, *y, 0.0], color=color, linewidth=0)[0]
    if series.markers:
        ax.plot([at for at, _ in series.dots], [v for _, v in series.dots], ".", color=color, alpha=0.35, markersize=4)
        spread = [[a - b for a, b in zip(y, low, strict=True)], [b - a for a, b in zip(y, high, strict=True)]]
        return ax.errorbar(x, y, spread, marker=MARKERS[series.color % len(MARKERS)], markersize=3.5, capsize=2,
                           elinewidth=0.8, color=color)  # fmt: skip
    dashed = series.color % 2 and series.shade is None
    (line,) = ax.plot(x, y, linestyle="--" if dashed else "-", color=color)
    if low and high:
        ax.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
    return line


def _legend(canvas: Any, figure: Figure, named: Mapping[str, Any]) -> None:
    """One legend below all panels, each name once; `named`: what stands for each. The words are set afterwards, since
    matplotlib leaves out a label that begins with an underscore."""
    columns, names = _legend_columns(figure, canvas.get_figwidth())
    if columns:
        handles = [named[name] for name in _names(figure)]
        drawn = canvas.legend(handles, ["-"] * len(names), loc="lower center", ncols=columns, frameon=False,
                              fontsize=LEGEND_FONT)  # fmt: skip
        for text, name in zip(drawn.get_texts(), names, strict=True):
            text.set_text(name)


def _names(figure: Figure) -> list[str]:
    return list(dict.fromkeys(series.name for panel in figure.panels for series in panel.series))


def _legend_columns(figure: Figure, inches: float) -> tuple[int, list[str]]:
    """How many, and the names as they stand in them; none where no legend is wanted: for one name, or for layers, which
    are told apart by their shade alone."""
    names = _names(figure)
    shaded = any(series.shade is not None for panel in figure.panels for series in panel.series)
    if shaded or len(names) < 2:
        return 0, []
    longest = LETTER * LEGEND_FONT * max(map(len, names))
    columns = min(len(names), int(inches / (longest + LEGEND_KEY)))
    return max(1, columns), names if columns else [wrapped(name, inches - LEGEND_KEY, LEGEND_FONT) for name in names]


def _lines(names: Sequence[str], columns: int) -> int:
    """Of a legend: the lines of its first column, which is the longest. Names of several lines stand in one column."""
    return sum(name.count("\n") + 1 for name in names) if columns == 1 else math.ceil(len(names) / columns)


def floats(values: Sequence[float | None] | None) -> list[float]:
    """None as NaN, which matplotlib leaves out."""
    return [math.nan if value is None else float(value) for value in values or ()]
