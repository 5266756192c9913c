"""Accuracy against lambda, over bits x lambda, and under the ways of alpha control."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from brsweep.report.figures import Absent, Figure, Heat, Panel, Series
from brsweep.report.results import (
    Judged,
    Pick,
    Result,
    best_pick,
    covers,
    distinct_settings,
    setting,
    settings_in_words,
    short,
)
from brsweep.report.rows import BITS, LAMBDAS

TEST_ACCURACY = "test accuracy (%)"
MOST_LINES = 8
WAYS = {
    "frozen": "frozen",
    "detached": "free, BR detached",
    "raw": "free, BR reaches alpha",
    "lsq": "free, BR reaches alpha, scaled as LSQ does",
    "free": "free",
}
TICKS = {"raw": "reached", "lsq": "scaled"}


def bit_widths(judged: Judged) -> list[str]:
    """In the table's order, those with a result."""
    return list(dict.fromkeys(r.row.bits for r in judged.results if r.test is not None))


def against_lambda(judged: Judged, key: str) -> Figure | Absent:
    """Test accuracy over one lambda: a panel for each bit-width, a line for each other setting."""
    name, title = f"accuracy-{short(key)}", f"Accuracy against {short(key)}"
    done = [r for r in judged.results if r.test is not None and r.row.config is not None]
    values = sorted({_lambda(result, key) for result in done})
    if len(values) < 2:
        return Absent(name, title, f"its finished runs have one value of {short(key)}")
    tied = _tied(done)
    if tied and key != LAMBDAS[-1]:
        return Absent(name, title, f"it moves with {short(LAMBDAS[-1])}, whose figure shows both")
    but = (*LAMBDAS, *BITS) if tied else (key, *BITS)
    frames = _furthest(distinct_settings(done, but), done, but)
    position = log_positions(values)
    panels = [_lambda_panel(bits, done, key, position, frames, but) for bits in bit_widths(judged)]
    caption = (
        "Mean over seeds with the sample standard deviation; pale dots are single seeds. Logarithmic axis; 0 stands at "
        "its left end. The dashed line is FP32."
        + (f" {short(LAMBDAS[0])} moves with {short(key)}." if tied else "")
        + (f" At most {MOST_LINES} settings, those with the best validation accuracy." * (len(frames) == MOST_LINES))
    )
    return Figure(name, title, caption, panels, columns=min(2, len(panels)))


def _tied(done: Sequence[Result]) -> bool:
    """Whether the lambdas vary together: one of the weights for each of the activations, and the other way round."""
    points = {result.row.lambdas for result in done}
    return len(points) > 1 and all(len({point[i] for point in points}) == len(points) for i in (0, 1))


def _furthest(frames: list[dict[str, Any]], done: Sequence[Result], but: Sequence[str]) -> list[dict[str, Any]]:
    """What a figure can tell apart: of many settings those that reach the highest validation accuracy."""

    def reached(frame: Mapping[str, Any]) -> float:
        return max((r.val.mean for r in done if r.val and covers(frame, setting(r, but))), default=0.0)

    kept = sorted(frames, key=reached, reverse=True)[:MOST_LINES]
    return [frame for frame in frames if frame in kept]


def log_positions(values: Sequence[float]) -> dict[float, float]:
    """Where each value stands on a logarithmic axis, 0 a decade left of the smallest other.

    >>> log_positions([0, 0.1, 1])
    {0: -2.0, 0.1: -1.0, 1: 0.0}
    """
    logs = {value: math.log10(value) for value in values if value > 0}
    zero = (min(logs.values()) if logs else 0.0) - 1.0
    return {value: logs.get(value, zero) for value in values}


def _lambda_panel(
    bits: str,
    done: Sequence[Result],
    key: str,
    position: Mapping[float, float],
    frames: Sequence[Mapping[str, Any]],
    but: Sequence[str],
) -> Panel:
    rows = [result for result in done if result.row.bits == bits]
    series = []
    width = max(position.values()) - min(position.values())
    for number, frame in enumerate(frames):
        mine = [r for r in rows if covers(frame, setting(r, but))]
        mine.sort(key=lambda r: _lambda(r, key))
        shift = 0.012 * width * (number - (len(frames) - 1) / 2)
        points = [(position[_lambda(r, key)] + shift, r) for r in mine]
        series.append(points_series(settings_in_words(frame) or "all runs", points, number))
    floating = [r.floating.mean for r in rows if r.floating is not None]
    levels = [(100 * sum(floating) / len(floating), "FP32")] if floating else []
    ticks = [(at, f"{value:g}") for value, at in position.items()]
    return Panel(bits, series, short(key), TEST_ACCURACY, x_ticks=ticks, levels=levels)


def points_series(name: str, points: Sequence[tuple[float, Result]], color: int) -> Series:
    """Test accuracy in percent at given x: mean, standard deviation, and the seeds one by one."""
    x = [at for at, _ in points]
    y = [100 * result.test.mean for _, result in points]
    spread = [100 * (result.test.sd or 0.0) for _, result in points]
    dots = [(at, 100 * run.number("test_accuracy")) for at, result in points for run in result.row.counted]
    low, high = ([a - s for a, s in zip(y, spread, strict=True)], [a + s for a, s in zip(y, spread, strict=True)])
    return Series(name, x, y, low, high, dots, color, markers=True)


def bits_by_lambda(judged: Judged) -> Figure | Absent:
    name, title = "bits-lambda", "Bits x lambda"
    done = [r for r in judged.results if r.test is not None and r.row.config is not None]
    bits = bit_widths(judged)
    varied = [key for key in LAMBDAS if len({_lambda(r, key) for r in done}) > 1]
    if len(bits) < 2 or not varied:
        return Absent(name, title, "its finished runs don't have two bit-widths and two lambdas")
    columns = sorted({tuple(_lambda(r, key) for key in varied) for r in done})
    panels = []
    for frame in distinct_settings(done, (*LAMBDAS, *BITS)):
        mine = [r for r in done if covers(frame, setting(r, (*LAMBDAS, *BITS)))]
        found = {(r.row.bits, tuple(_lambda(r, key) for key in varied)): r for r in mine}
        cells = [[found.get((b, column)) for column in columns] for b in bits]
        heat = Heat(
            rows=bits,
            columns=[" / ".join(f"{value:g}" for value in column) for column in columns],
            values=[[r and 100 * r.test.mean for r in line] for line in cells],
            texts=[[f"{100 * r.test.mean:.1f}" if r else "" for r in line] for line in cells],
            label=TEST_ACCURACY,
        )
        panels.append(Panel(settings_in_words(frame), x_label=" / ".join(map(short, varied)), heat=heat))
    return Figure(name, title, "Mean test accuracy over seeds; an empty cell has no finished run.", panels, columns=1)


def ways_of_alpha(judged: Judged) -> Figure | Absent:
    """The ways of alpha control beside the quantizer alone, each at the lambda that validation picks for it."""
    name, title = "alpha-control", "Alpha control"
    groups: dict[tuple[str, str, str], list[Pick]] = {}
    for pick in judged.picks:
        row = pick.result.row
        if row.regularizer:
            groups.setdefault((row.bits, row.method, control(pick.result)), []).append(pick)
    best = {where: (best_pick(picks) or picks[0]).result for where, picks in groups.items()}
    ways = list(dict.fromkeys(where[1:] for where in best))
    if len({way for _, way in ways}) < 2:
        return Absent(name, title, "its complete runs know one way of alpha control; vary schedule.freeze_alpha or "
                      "reg.backprop_to_alpha")  # fmt: skip
    several = len({method for method, _ in ways}) > 1
    panels = []
    for bits in bit_widths(judged):
        alone = {r.row.method: r for r in judged.results if r.row.bits == bits and r.test and not r.row.regularizer}
        shown = [(f"{method} alone", method, result) for method, result in alone.items()]
        for method, way in ways:
            if (bits, method, way) in best:
                of = f"{method}: " if several else ""
                shown.append((f"{of}{WAYS[way]}", f"{of}{TICKS.get(way, way)}", best[bits, method, way]))
        series = [points_series(words, [(at, result)], at) for at, (words, _, result) in enumerate(shown)]
        ticks = [(at, tick) for at, (_, tick, _) in enumerate(shown)]
        panels.append(Panel(bits, series, "alpha", TEST_ACCURACY, x_ticks=ticks))
    caption = "Mean over seeds with the sample standard deviation, each at the lambda that validation picks."
    return Figure(name, title, caption, panels, columns=min(2, len(panels)))


def control(result: Result) -> str:
    """What moves the step sizes, a key of WAYS."""
    config = result.row.config
    if config["schedule"]["freeze_alpha"]:
        return "frozen"
    if result.row.regularizer != "BR":
        return "free"
    return config["reg"]["alpha_grad_scale"] if config["reg"]["backprop_to_alpha"] else "detached"


def _lambda(result: Result, key: str) -> float:
    return result.row.lambdas[LAMBDAS.index(key)]
