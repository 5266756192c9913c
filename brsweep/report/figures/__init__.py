"""Figures as plain data, so that one description is drawn on files (draw.py, matplotlib) and in the page (chart.js).

A figure that the sweep has no data for is an `Absent` one, which says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Series:
    """Points in order; None in `y` is a gap. `low` and `high` are a spread around y, `dots` the single values.
    `color` counts in the palette; `shade` in [0, 1] takes a sequential scale instead. `area`: filled down to 0."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None
    dots: Sequence[tuple[float, float]] = ()
    color: int = 0
    shade: float | None = None
    area: bool = False
    markers: bool = False


@dataclass(frozen=True)
class Heat:
    """values[row][column], None where there is no run; `texts` the same, as written into the cells, or None."""

    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]
    texts: Sequence[Sequence[str]] | None
    label: str


@dataclass(frozen=True)
class Forest:
    """Differences as rows: a mean with its interval (low and high None where there is none), `dots` the single values,
    `verdicts` what is decided, `texts` the figures as written beside the row. One that reaches further than the scale
    is cut off there."""

    rows: Sequence[str]
    means: Sequence[float]
    lows: Sequence[float | None]
    highs: Sequence[float | None]
    dots: Sequence[Sequence[float]]
    verdicts: Sequence[str]
    texts: Sequence[str]
    label: str


@dataclass(frozen=True)
class Panel:
    """One pair of axes. `marks`: upright lines at x, with a word; `levels`: level lines at y, with a word."""

    title: str
    series: Sequence[Series] = ()
    x_label: str = ""
    y_label: str = ""
    x_ticks: Sequence[tuple[float, str]] | None = None
    y_hidden: bool = False
    y_log: bool = False
    marks: Sequence[tuple[float, str]] = ()
    levels: Sequence[tuple[float, str]] = ()
    heat: Heat | None = None
    forest: Forest | None = None


@dataclass(frozen=True)
class Figure:
    """`name` is the files' stem; `columns` panels stand in a row; `small` panels need little room each."""

    name: str
    title: str
    caption: str
    panels: Sequence[Panel] = field(default_factory=list)
    columns: int = 2
    small: bool = False


@dataclass(frozen=True)
class Absent:
    """A figure that can't be drawn, and why."""

    name: str
    title: str
    why: str
