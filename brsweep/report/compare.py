"""Two runs side by side: what differs in configuration, in origin and in result, their stages and their layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from brsweep.errors import BrsweepError
from brsweep.report.results import plain
from brsweep.report.rows import dotted, results_alone
from brsweep.report.runs import ORIGIN, ReportedRun, layer_records, read_run
from brsweep.runs.words import printable

ACCURACIES = ("val_accuracy", "test_accuracy", "test_accuracy_last", "float_test_accuracy")
CURVES = ("val_accuracy", "test_accuracy", "task_loss", "penalty_weight", "penalty_act")
LAYERS = ("alpha", "near", "clip_high", "changed")
OTHER_NUMBERS = ("penalty_weight", "penalty_act", "best_epoch", "time_s")


def compare(a: Path, b: Path) -> str:
    """A text for the terminal. Raises `BrsweepError` where a path is no run's folder."""
    runs = read_run(a), read_run(b)
    parts = [
        ["A", f"{runs[0].sweep}/{runs[0].name} ({runs[0].state})"],
        ["B", f"{runs[1].sweep}/{runs[1].name} ({runs[1].state})"],
    ]
    lines = [_aligned(parts)]
    lines += _section("configuration", _differences(*(_config(run) for run in runs)))
    lines += _section("origin", _differences(*(_origin_of(run) for run in runs)))
    lines += ["", "result", _aligned([["", "A", "B", "B - A"], *_results(*runs)])]
    lines += ["", "end of each stage", _aligned(_stages(*runs))]
    lines += ["", "layers after the last epoch", *_layers(*runs)]
    return "\n".join(lines)


def _section(name: str, rows: Sequence[Sequence[str]]) -> list[str]:
    return ["", name, _aligned([["", "A", "B"], *rows])] if rows else ["", f"{name}: no difference"]


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[list[str]]:
    keys = [key for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key) or (key in a) != (key in b)]
    return [[key, *(plain(side[key]) if key in side else "(absent)" for side in (a, b))] for key in keys]


def _config(run: ReportedRun) -> dict[str, Any]:
    return results_alone(run.config or {})


def _origin_of(run: ReportedRun) -> dict[str, Any]:
    result = run.result or {}
    known = {key: result[key] for key in (*ORIGIN, "host") if key in result}
    return known | dotted({name: result[name] for name in ("versions", "stages") if isinstance(result.get(name), dict)})


def _results(a: ReportedRun, b: ReportedRun) -> list[list[str]]:
    rows = []
    for key in (*ACCURACIES, *OTHER_NUMBERS):
        values = [run.number(key) for run in (a, b)]
        factor, unit = (100, " %") if key in ACCURACIES else (1, "")
        cells = ["none" if value is None else f"{factor * value:.6g}{unit}" for value in values]
        change = "" if None in values else f"{factor * (values[1] - values[0]):+.4g}" + (" points" if unit else "")
        rows.append([key, *cells, change])
    return rows


def _stages(a: ReportedRun, b: ReportedRun) -> list[list[str]]:
    """Per stage and number: both runs after its last epoch."""
    rows = [["", "", "A", "B"]]
    ends = [{record["stage"]: record for record in run.records} for run in (a, b)]
    for stage in dict.fromkeys([*ends[0], *ends[1]]):
        for key in CURVES:
            values = [of.get(stage, {}).get(key) for of in ends]
            if values != [None, None]:
                rows.append([stage, key, *map(_number, values)])
    return rows


def _layers(a: ReportedRun, b: ReportedRun) -> list[str]:
    """Per site: both runs' numbers after the last quantized epoch; what could not be read is said."""
    last, unread = [], []
    for run in (a, b):
        try:
            records = layer_records(run)
        except BrsweepError as error:
            records = []
            unread.append(f"  not read: {printable(str(error))}")
        last.append(records[-1] if records else {"site": []})
    shown = [key for key in LAYERS if any(key in record for record in last)]
    sites = list(dict.fromkeys(site for record in last for site in record["site"]))
    if not sites:
        return [*unread, "  none recorded"]
    rows = [["", *(f"{key} {side}" for key in shown for side in "AB")]]
    for site in sites:
        at = [{key: record[key][record["site"].index(site)] for key in shown} if site in record["site"] else {}
              for record in last]  # fmt: skip
        rows.append([printable(site), *(_number(of.get(key)) for key in shown for of in at)])
    return [*unread, _aligned(rows)]


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
    return "\n".join("  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=False)).rstrip() for row in rows)
