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
    in_words,
    setting,
    short,
)
from brsweep.report.rows import BITS, LAMBDAS

TEST_ACCURACY = "test accuracy (%)"
MOST_LINES = 8
UNNAMED = " What is off is not named."
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
    """Test accuracy over one lambda: a panel for each bit-width, a line for each other setting that has two values."""
    name, title = f"accuracy-{short(key)}", f"Accuracy against {short(key)}"
    done = [r for r in judged.results if r.test is not None and r.row.config is not None]
    if len({_lambda(result, key) for result in done}) < 2:
        return Absent(name, title, f"its finished runs have one value of {short(key)}")
    tied = _tied(done)
    if tied and key != LAMBDAS[-1]:
        return Absent(name, title, f"it moves with {short(LAMBDAS[-1])}, whose figure shows both")
    but = (*LAMBDAS, *BITS) if tied else (key, *BITS)
    settings = distinct_settings(done, but)
    every = [frame for frame in settings if _is_line([r for r in done if covers(frame, setting(r, but))], key)]
    if not every:
        return Absent(name, title, f"none of its settings has two values of {short(key)} at one bit-width")
    frames = _furthest(every, done, but)
    left, alone = len(every) - len(frames), len(settings) - len(every)
    shown = [r for r in done if any(covers(frame, setting(r, but)) for frame in frames)]
    position = log_positions(sorted({_lambda(result, key) for result in shown}))
    bits = dict.fromkeys(result.row.bits for result in shown)
    panels = [_lambda_panel(width, shown, key, position, frames, but) for width in bits]
    caption = (
        "Mean over seeds with the sample standard deviation; pale dots are single seeds. Logarithmic axis; 0 stands at "
        "its left end. The dashed line is FP32."
        + (f" {short(LAMBDAS[0])} moves with {short(key)}." if tied else "")
        + (f" At most {MOST_LINES} settings, those with the best validation accuracy: {left} left out." if left else "")
        + (f" Left out: {alone} setting{'s' * (alone > 1)} with one value of {short(key)}." if alone else "")
        + UNNAMED
    )
    return Figure(name, title, caption, panels, columns=min(2, len(panels)))


def _is_line(results: Sequence[Result], key: str) -> bool:
    """Whether they have two lambdas at one bit-width."""
    points = {(result.row.bits, _lambda(result, key)) for result in results}
    return len(points) > len({bits for bits, _ in points})


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
    """A line whose rows at these bits are all on another one is drawn there; of one that has LSQ alone at these bits,
    whatever it is at others, that is the name."""
    rows = [result for result in done if result.row.bits == bits]
    series = []
    width = max(position.values()) - min(position.values())
    of_frame = [[r for r in done if covers(frame, setting(r, but))] for frame in frames]
    at_bits = [{id(r) for r in every if r.row.bits == bits} for every in of_frame]
    for number, (frame, every) in enumerate(zip(frames, of_frame, strict=True)):
        if any(at_bits[number] < other for other in at_bits) or at_bits[number] in at_bits[number + 1 :]:
            continue
        mine = sorted((r for r in every if r.row.bits == bits), key=lambda r: _lambda(r, key))
        shift = 0.012 * width * (number - (len(frames) - 1) / 2)
        points = [(position[_lambda(r, key)] + shift, r) for r in mine]
        alone = in_words(setting(mine[0], but), mine) if all(r.row.is_lsq for r in mine) else ""
        color = MOST_LINES if alone == "LSQ" else number
        series.append(points_series(alone or in_words(frame, every) or "all runs", points, color))
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
    panels, left_out = [], []
    for frame in distinct_settings(done, (*LAMBDAS, *BITS)):
        mine = [r for r in done if covers(frame, setting(r, (*LAMBDAS, *BITS)))]
        if len({r.row.lambdas for r in mine}) < 2:
            left_out.append(in_words(frame, mine))
            continue
        found = {(r.row.bits, tuple(_lambda(r, key) for key in varied)): r for r in mine}
        cells = [[found.get((b, column)) for column in columns] for b in bits]
        heat = Heat(
            rows=bits,
            columns=[" / ".join(f"{value:g}" for value in column) for column in columns],
            values=[[r and 100 * r.test.mean for r in line] for line in cells],
            texts=[[f"{100 * r.test.mean:.1f}" if r else "" for r in line] for line in cells],
            label=TEST_ACCURACY,
        )
        panels.append(Panel(in_words(frame, mine), x_label=" / ".join(map(short, varied)), heat=heat))
    if not panels:
        return Absent(name, title, "none of its settings has two lambdas")
    caption = f"Mean test accuracy over seeds; an empty cell has no finished run.{UNNAMED}"
    caption += f" Left out, with one lambda each: {'; '.join(left_out)}." if left_out else ""
    return Figure(name, title, caption, panels, columns=1)


def ways_of_alpha(judged: Judged) -> Figure | Absent:
    """The ways of alpha control beside the method without a regularizer, each at the lambda that validation picks for
    it: a panel for each bit-width and method that has two of them."""
    name, title = "alpha-control", "Alpha control"
    picks: dict[tuple[str, str], dict[str, list[Pick]]] = {}
    for pick in judged.picks:
        row = pick.result.row
        if row.regularizer:
            picks.setdefault((row.bits, row.method), {}).setdefault(control(pick.result), []).append(pick)
    shown = {where: ways for where, ways in picks.items() if len(ways) > 1}
    if not shown:
        return Absent(name, title, "its complete runs know one way of alpha control; vary schedule.freeze_alpha or "
                      "reg.backprop_to_alpha")  # fmt: skip
    several = len({method for _, method in shown}) > 1
    panels = []
    for (bits, method), of_way in shown.items():
        best = {way: (best_pick(found) or found[0]).result for way, found in of_way.items()}
        panels.append(_alpha_panel(f"{bits}, {method}" if several else bits, best, judged))
    left_out = [f"{bits}, {method}" for bits, method in picks if (bits, method) not in shown]
    caption = (
        "Mean over seeds with the sample standard deviation, each at the lambda that validation picks."
        + (f" Left out, with one way each: {'; '.join(left_out)}." if left_out else "")
    )  # fmt: skip
    return Figure(name, title, caption, panels, columns=min(2, len(panels)))


def _alpha_panel(title: str, best: Mapping[str, Result], judged: Judged) -> Panel:
    """`best`: way of alpha control -> the row that stands for it."""
    series, ticks = [], []
    first = next(iter(best.values()))
    of_bits = (r for r in judged.results if r.row.bits == first.row.bits and r.test)
    alone = next((r for r in of_bits if r.row.method == first.baseline), None)
    if alone:
        series.append(points_series(f"{first.baseline} alone", [(0, alone)], 0))
        ticks.append((0, "LSQ" if first.baseline == "LSQ" else "alone"))
    for way, result in best.items():
        at, color = len(ticks), 1 + list(WAYS).index(way)
        series.append(points_series(WAYS[way], [(at, result)], color))
        ticks.append((at, TICKS.get(way, way)))
    return Panel(title, series, "alpha", TEST_ACCURACY, x_ticks=ticks)


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
