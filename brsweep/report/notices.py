"""What a reader has to know before the tables: what is kept apart, what is missing, what could not be read."""

from __future__ import annotations

from collections.abc import Sequence

from brsweep.report.results import Judged
from brsweep.report.rows import dotted
from brsweep.report.runs import ReportedRun
from brsweep.report.seeds import seed_lines, seen_line
from brsweep.stages.plan import outline

CONDITIONS = {"threads": "numbers of threads (other last bits)", "device": "devices", "kernels": "kernels"}
SHOWN = 20


def notices(tables: Sequence[Judged], twice: Sequence[str]) -> list[str]:
    lines = []
    if len(tables) > 1:
        cohorts = [judged.cohort for judged in tables]
        parts = [f"{c.data} under {c.core or 'code unknown'} ({len(c.runs)} runs)" for c in cohorts]
        lines.append(
            f"Different training code or data: kept apart in {len(tables)} tables, nothing is compared between them: "
            + "; ".join(parts)
        )
    for judged in tables:
        lines += _cohort_notices(judged)
    problems = [problem for judged in tables for run in judged.cohort.runs for problem in run.problems]
    return [*lines, *_few([*twice, *problems], SHOWN, " such lines, on the runs' own pages")]


def _cohort_notices(judged: Judged) -> list[str]:
    lines, runs = [], judged.cohort.runs
    if any((run.config or {}).get("quick") for run in runs):
        lines.append("quick=true: one epoch of each stage on a few batches; a first try, and no result to compare")
    away = [run for run in runs if not run.counts]
    if away:
        states = [run.state if run.state != "finished" else "without accuracy" for run in away]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        lines.append(f"{len(away)} of {len(runs)} runs are not averaged: {counts}")
    seeds = {run.seed for run in runs if run.counts}
    if len(seeds) == 1:
        lines.append("One seed: no spread is known, and no difference can be judged")
    counted = [run for run in runs if run.counts]
    if counted and not any(run.number("val_accuracy") is not None for run in counted):
        lines.append("No validation split: no lambda is picked, and accuracies are those of the last epoch")
    for key, words in CONDITIONS.items():
        values = _values(counted, key)
        if len(values) > 1:
            lines.append(f"One table holds runs with different {words}: {', '.join(values)}")
    lines += [*_few(seed_lines(judged), SHOWN, " rows, in the figure"), *seen_line(judged)]
    return [*lines, *judged.unpicked, *_changed_parts(counted)]


def _changed_parts(runs: Sequence[ReportedRun]) -> list[str]:
    """Runs that name the same parts and were trained by different code, though the core that they share is one."""
    codes: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for run in runs:
        if run.config is not None and run.code:
            named = sorted(str(value) for key, value in dotted(run.config).items() if key.endswith("_target_"))
            # the stages, by the parts that they use: LSQ alone has no regularizer's code
            uses = [f"{s.quantized} {s.regularized} {s.epochs > 0}" for s in outline(run.config)]
            codes.setdefault((*named, *uses), {}).setdefault(run.code, []).append(run.name)
    lines = []
    for of_code in codes.values():
        told = "; ".join(f"{code}: {', '.join(_few(names, 3, ''))}" for code, names in of_code.items())
        if len(of_code) > 1:
            lines.append(
                "One table holds runs that name the same parts and have different code, because a part's source or a "
                f"package's version changed between them: {told}"
            )
    return lines


def _values(runs: Sequence[ReportedRun], key: str) -> list[str]:
    return sorted({str(run.result[key]) for run in runs if run.result and key in run.result})


def _few(lines: Sequence[str], shown: int, more: str) -> list[str]:
    left = len(lines) - shown
    return [*lines[:shown], *([f"and {left} more{more}"] if left > 0 else [])]
