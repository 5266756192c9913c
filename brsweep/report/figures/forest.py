"""Differences on files: names left of the rows, figures right of them, one scale for all panels of a figure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from brsweep.report.figures import Figure, Forest, Panel
from brsweep.report.figures.letters import LETTER, wrapped
from brsweep.report.spread import BETTER, UNDECIDED, WORSE

COLORS = {BETTER: "#009E73", WORSE: "#D55E00", UNDECIDED: "0.35"}
WIDTH, NAMES, LINE, GAP = 2.6, 2.4, 0.11, 0.09
"""Inches: of the panel, of the names at most, of a line of a name, and between two rows."""
FONT = 7


def _names(forest: Forest) -> list[str]:
    return [wrapped(row, NAMES, FONT) for row in forest.rows]


def room_of_forest(figure: Figure) -> tuple[float, float, float, float]:
    """Width, left and right margin, and mean height of a panel, in inches."""
    forests = [panel.forest for panel in figure.panels]
    lines = [line for forest in forests for name in _names(forest) for line in name.split("\n")]
    left = 0.15 + LETTER * FONT * max(map(len, lines))
    right = 0.25 + LETTER * FONT * max(len(text) for forest in forests for text in forest.texts)
    return WIDTH, left, right, fmean(heights_of_panels(figure))


def heights_of_panels(figure: Figure) -> list[float]:
    """Of its forests one below the other, in inches; none of another figure, whose panels are of one height."""
    return [sum(_heights(panel.forest)) for panel in figure.panels if panel.forest is not None]


def draw_forest(ax: Any, figure: Figure, panel: Panel) -> None:
    forest, heights = panel.forest, _heights(panel.forest)
    places = [sum(heights[:row]) + height / 2 for row, height in enumerate(heights)]
    for row, at in enumerate(places):
        color = COLORS[forest.verdicts[row]]
        mean, low, high = forest.means[row], forest.lows[row], forest.highs[row]
        ax.plot(forest.dots[row], [at] * len(forest.dots[row]), ".", color=color, alpha=0.35, markersize=4)
        if low is not None:
            ax.hlines(at, low, high, color=color, linewidth=1)
        ax.plot([mean], [at], "s", color=color, markersize=3.5)
        ax.annotate(forest.texts[row], (1, at), xycoords=("axes fraction", "data"), xytext=(5, 0), va="center",
                    textcoords="offset points", fontsize=FONT)  # fmt: skip
    ax.axvline(0, color="0.4", linewidth=0.8, linestyle="--", zorder=0)
    ax.set_xlim(*_scale([panel.forest for panel in figure.panels]))
    ax.set_ylim(sum(heights), 0)
    ax.set_yticks(places, _names(forest), fontsize=FONT)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", labelsize=FONT, length=2, pad=2)
    ax.set_title(panel.title, pad=3)
    ax.set_xlabel(forest.label)


def _scale(forests: Sequence[Forest]) -> tuple[float, float]:
    values = [0.0]
    for forest in forests:
        values += [value for value in (*forest.means, *forest.lows, *forest.highs) if value is not None]
        values += [value for dots in forest.dots for value in dots]
    room = 0.05 * (max(values) - min(values)) or 1.0
    return min(values) - room, max(values) + room


def _heights(forest: Forest) -> list[float]:
    """Of each row, in inches."""
    return [LINE * (name.count("\n") + 1) + GAP for name in _names(forest)]
