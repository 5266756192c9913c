"""Heat maps on files: one colour range for all panels of a figure; a scale beside it where the cells have no text."""

from __future__ import annotations

import math
from typing import Any

from brsweep.report.figures import Figure, Panel
from brsweep.report.figures.letters import LETTER, wrapped

CHARACTER, LINE, SCALE = 0.062, 0.16, 0.5
"""Inches of a letter, of a row of cells, and right of a panel for the scale's words."""


def room_of_heat(figure: Figure) -> tuple[float, float, float, float]:
    """Width, left and right margin, and height of a panel, in inches."""
    heats = [panel.heat for panel in figure.panels]
    left = 0.15 + CHARACTER * max(len(row) for heat in heats for row in heat.rows)
    room = 0.12 if heats[0].texts else 0.06
    cell = max(CHARACTER * len(column) + room for heat in heats for column in heat.columns)
    columns, rows = (
        max(len(part) for part in parts) for parts in ([h.columns for h in heats], [h.rows for h in heats])
    )
    width = max(cell * columns, 1.6)
    if heats[0].texts is None:  # a scale stands beside it, along which its words run
        return width + 0.6, left, SCALE, max(LINE * rows, LETTER * 8 * len(heats[0].label))
    return width, left, SCALE, 0.3 * rows


def draw_heat(canvas: Any, ax: Any, figure: Figure, panel: Panel) -> None:
    heat = panel.heat
    known = [v for p in figure.panels for line in p.heat.values for v in line if v is not None]
    low, high = min(known), max(known)
    values = [[math.nan if value is None else value for value in line] for line in heat.values]
    image = ax.imshow(values, aspect="auto", cmap="cividis", vmin=low, vmax=high)
    size = 5.5 if heat.texts is None else 7
    title = panel.title if heat.texts is None else ", ".join(filter(None, [panel.title, heat.label]))
    ax.set_title(wrapped(title, room_of_heat(figure)[0], 8), pad=3)
    ax.set_xlabel(panel.x_label)
    ax.set_xticks(range(len(heat.columns)), heat.columns, fontsize=size)
    ax.set_yticks(range(len(heat.rows)), heat.rows, fontsize=size)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0, pad=2)
    for row, line in enumerate(heat.texts or ()):
        for column, text in enumerate(line):
            dark = heat.values[row][column] is not None and heat.values[row][column] < (low + high) / 2
            ax.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")
    if heat.texts is None:
        bar = canvas.colorbar(image, ax=ax, label=heat.label, fraction=0.05, pad=0.03, aspect=30)
        bar.ax.tick_params(labelsize=6)
        bar.outline.set_visible(False)
