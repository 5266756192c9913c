"""index.html: one file that asks nothing of the network. The tables are in it as HTML; figures and the runs' own pages
are drawn by its script from the data that it carries. Every text is escaped, by jinja2 here and by the DOM there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from brsweep.report.exports import link
from brsweep.report.figures import Absent, Figure
from brsweep.report.figures.curves import own_curves
from brsweep.report.published import published, why_none
from brsweep.report.results import Judged, inert, plain, short
from brsweep.report.rows import dotted
from brsweep.report.runs import ReportedRun
from brsweep.report.table import LEGEND, Column, filled, headlines
from brsweep.report.typeset import title
from brsweep.sweep.compared import fingerprint

ASSETS = Path(__file__).parent / "assets"
RUN_NUMBERS = ("val_accuracy", "test_accuracy", "test_accuracy_last", "float_test_accuracy", "time_s")
WORD = re.compile(r"[^._]+[._]*|[._]+")
"""A part of a heading behind which a line may end."""


def page(
    heading: str,
    tables: Sequence[Judged],
    figures: Sequence[Figure | Absent],
    notices: Sequence[str],
    folder: Path | None = None,
) -> str:
    """The page's HTML. folder: where it will lie, for links to exported networks; None leaves them out."""
    runs = [run for judged in tables for run in judged.cohort.runs]
    place = {id(run): number for number, run in enumerate(runs)}
    return _template().render(
        heading=heading,
        notices=notices,
        tables=[_table(judged, place) for judged in tables],
        legend=LEGEND,
        figures=[figure for figure in figures if isinstance(figure, Figure)],
        absent=[figure for figure in figures if isinstance(figure, Absent)],
        runs=[_run_line(run, number) for number, run in enumerate(runs)],
        states=_states(runs),
        data=_page_data(tables, figures, runs, folder),
        style=(ASSETS / "style.css").read_text(encoding="utf-8"),
        scripts=[(ASSETS / f"{name}.js").read_text(encoding="utf-8") for name in ("chart", "table", "page")],
    )


@cache
def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(ASSETS), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment.get_template("page.html")


def _table(judged: Judged, place: Mapping[int, int]) -> dict[str, Any]:
    columns = [column for column in filled(judged) if column.key != "published"]
    first, others = headlines(judged)
    rows = []
    for result in judged.results:
        runs = [{"number": place[id(run)], "seed": run.seed, "state": run.state} for run in result.row.runs]
        rows.append({"cells": [_cell(c, result) for c in columns], "picked": result.picked, "runs": runs})
    configs = [result.row.config for result in judged.results if result.row.config]
    bits = ["FP32", *dict.fromkeys(result.row.bits for result in judged.results)]
    known = list(dict.fromkeys(figure for config in configs for b in bits for figure in published(config, b)))
    return {
        "title": title(judged),
        "summary": first,
        "others": others,
        "columns": [{"parts": WORD.findall(c.title), "number": _is_number(c, judged)} for c in columns],
        "rows": rows,
        "published": known,
        "why_none": why_none(configs[0]) if configs and not known else "",
    }


def _cell(column: Column, result: Any) -> dict[str, Any]:
    value = column.value(result)
    return {"text": column.text(result), "value": "" if value is None else value, "key": column.key}


def _is_number(column: Column, judged: Judged) -> bool:
    values = [column.value(result) for result in judged.results]
    return any(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)


def _run_line(run: ReportedRun, number: int) -> dict[str, Any]:
    return {
        "number": number,
        "name": inert(run.name),
        "sweep": inert(run.sweep),
        "state": run.state,
        "seed": run.seed,
        "epochs": f"{run.status.done} of {run.status.total}" if run.status.total else run.status.done or "",
        "done": run.status.done,
        "val": run.number("val_accuracy"),
        "test": run.number("test_accuracy"),
        "cause": inert(run.status.cause or ""),
    }


def _states(runs: Sequence[ReportedRun]) -> str:
    states = [run.state for run in runs]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def _page_data(
    tables: Sequence[Judged],
    figures: Sequence[Figure | Absent],
    runs: Sequence[ReportedRun],
    folder: Path | None,
) -> dict[str, Any]:
    configs = [{key: plain(value) for key, value in dotted(run.config).items()} if run.config else {} for run in runs]
    known = [config for config in configs if config]
    shared = {k: v for k, v in (known[0] if known else {}).items() if all(c.get(k) == v for c in known)}
    varied = {short(key): key for judged in tables for key in judged.cohort.varied}
    others = {
        name: list({fingerprint({"": c.get(key)}): c.get(key) for c in known}.values()) for name, key in varied.items()
    }
    return {
        "shared": shared,
        "others": others,
        "keys": varied,
        "runs": [_run(run, config, shared, folder) for run, config in zip(runs, configs, strict=True)],
        "figures": {figure.name: _rounded(asdict(figure)) for figure in figures if isinstance(figure, Figure)},
    }


def _run(run: ReportedRun, config: Mapping[str, str], shared: Mapping[str, str], folder: Path | None) -> dict[str, Any]:
    result = run.result or {}
    return {
        "name": run.name,
        "sweep": run.sweep,
        "state": run.state,
        "cause": run.status.cause,
        "seed": run.seed,
        "numbers": {key: run.number(key) for key in RUN_NUMBERS if run.number(key) is not None},
        "about": run.origin() | {"best_epoch": result.get("best_epoch")} if result else {},
        "collapse": _rounded(result.get("collapse")),
        "config": {key: value for key, value in config.items() if key not in shared},
        "command": run.command(),
        "log": run.log_end(),
        "curves": own_curves(run),
        "problems": run.problems,
        "exports": _exports(run, folder),
    }


def _exports(run: ReportedRun, folder: Path | None) -> dict[str, Any]:
    exports = run.exports
    links = {name: folder and link(run.path, name, folder) for name in exports.files}
    files = [{"name": name, "bytes": size, "link": links[name]} for name, size in exports.files.items()]
    return {"files": files, "bytes": exports.bytes, "bit_operations": exports.bit_operations}


def _rounded(value: Any) -> Any:
    """Floats to five digits, what a figure can show; None for what JSON can't hold."""
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return value
