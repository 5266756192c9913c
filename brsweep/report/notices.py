"""What a reader has to know before the tables: what is kept apart, what is missing, what could not be read."""

from __future__ import annotations

from collections.abc import Sequence

from brsweep.report.results import Judged
from brsweep.report.runs import ReportedRun

CONDITIONS = {"threads": "numbers of threads (other last bits)", "device": "devices", "kernels": "kernels"}
SHOWN = 20


def notices(tables: Sequence[Judged], twice: Sequence[str]) -> list[str]:
    lines = []
    if len(tables) > 1:
        cohorts = [judged.cohort for judged in tables]
        parts = [f"{c.data} under {c.code or 'code unknown'} ({len(c.runs)} runs)" for c in cohorts]
        lines.append(
            f"Different training code or data: kept apart in {len(tables)} tables, nothing is compared between them: "
            + "; ".join(parts)
        )
    for judged in tables:
        lines += _of_cohort(judged)
    problems = [problem for judged in tables for run in judged.cohort.runs for problem in run.problems]
    return [*lines, *_few([*twice, *problems])]


def _of_cohort(judged: Judged) -> list[str]:
    lines, runs = [], judged.cohort.runs
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
    return lines


def _values(runs: Sequence[ReportedRun], key: str) -> list[str]:
    return sorted({str(run.result[key]) for run in runs if key in run.result})


def _few(lines: Sequence[str]) -> list[str]:
    more = len(lines) - SHOWN
    return [*lines[:SHOWN], *([f"and {more} more such lines, on the runs' own pages"] if more > 0 else [])]
