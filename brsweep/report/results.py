"""What a cohort's table says: per row the spread over seeds, the gaps, and which lambda validation picks.

The gap to the baseline is paired: each run against the run of the same seed that differs from it in nothing but the
regularizer, which it lacks (and a step size that trains on where the run's is frozen). A quantizer that nothing
regularizes is compared in the same way with LSQ alone. A lambda is picked by mean validation accuracy over the seeds
that all lambdas of its setting have finished, and a setting among others over those that all lambdas of all of them
have: a seed that one row has alone moves its mean and no choice. The test set chooses nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from brsweep.report.published import Published, published
from brsweep.report.rows import BITS, LAMBDAS, NO_EFFECT, QUANTIZER, REGULARIZER, Cohort, Row
from brsweep.report.runs import ReportedRun
from brsweep.report.spread import Paired, Spread, corrected, correlation, paired, spread
from brsweep.runs import words
from brsweep.runs.words import printable
from brsweep.stages.plan import WAYS_TO_TRAIN
from brsweep.sweep.compared import OTHER_THAN_LSQ, is_below, partners


@dataclass(frozen=True)
class Result:
    """Accuracies and gaps in [0, 1]. `baseline`: the method that `gap` compares with, LSQ or another quantizer alone.
    `picked`: validation prefers this lambda to the others of its setting."""

    row: Row
    val: Spread | None
    test: Spread | None
    test_last: Spread | None
    floating: Spread | None
    gap_float: Spread | None
    gap: Paired | None
    baseline: str
    published: tuple[Published, ...]
    notes: tuple[str, ...]
    picked: bool = False


@dataclass(frozen=True)
class Pick:
    """The row that validation picks among `candidates` that share `setting`, bits included, by `val`: over the `seeds`
    that all of them have finished. `incomplete`: others, of which no seed has finished. `baseline`: of the baseline's
    row, the same as `val`, where it has these seeds. `setting` is that of a quantizer alone where there is no lambda.
    """

    setting: Mapping[str, Any]
    result: Result
    candidates: int
    incomplete: int
    seeds: tuple[int, ...]
    val: Spread
    baseline: Spread | None


@dataclass(frozen=True)
class Judged:
    """A cohort with its results, in the rows' order, its picks, and a line for each setting that none was
    picked in."""

    cohort: Cohort
    results: tuple[Result, ...]
    picks: tuple[Pick, ...]
    unpicked: tuple[str, ...]


def judge(cohort: Cohort) -> Judged:
    partners = baselines(cohort.runs)
    gaps = corrected([_against_baseline(row, partners) for row in cohort.rows])
    method_of = {run.path: row.method for row in cohort.rows for run in row.runs}
    results = tuple(_judged_row(row, gap, partners, method_of) for row, gap in zip(cohort.rows, gaps, strict=True))
    picks, unpicked = _picks(results)
    chosen = {id(pick.result.row) for pick in picks if pick.candidates > 1}
    results = tuple(replace(result, picked=id(result.row) in chosen) for result in results)
    return Judged(cohort, results, picks, unpicked)


def baselines(runs: Sequence[ReportedRun]) -> dict[Path, ReportedRun]:
    """A run's folder -> the run of the same seed that it is compared with: its quantizer alone, and of another
    quantizer alone LSQ. LSQ runs themselves have none, unless their step sizes freeze and another's don't."""
    counted = sorted((run for run in runs if run.counts and run.config is not None), key=lambda run: run.name)
    found = partners([run.config for run in counted])
    return {counted[place].path: counted[partner] for place, partner in found.items()}


def row_label(result: Result) -> str:
    """The row in words: `W2A2, lambda_act 1, freeze_alpha true`."""
    return ", ".join(filter(None, [result.row.bits, in_words(result.row.settings, [result])]))


def in_words(settings: Mapping[str, Any], results: Sequence[Result]) -> str:
    """What `results` have in common, in words: of their `settings` those that are on, less the bits and what has no
    effect, `lambda_act 1, freeze_alpha true`; where methods differ behind the method, `LSQ + KURE, lambda_weight 1`, of
    several the longest, which adds to the others. Where all are off the lambdas of a regularizer, `lambda_act 0`, or
    else the method; nothing where there is no setting."""
    shown = {key: value for key, value in settings.items() if key not in BITS and value != NO_EFFECT}
    named = {key: f"{short(key)} {plain(value)}" for key, value in shown.items()}
    method = max((r.row.method for r in results), key=len)
    told = [word for key, word in named.items() if key not in PARTS and any(key not in r.row.off for r in results)]
    if methods_differ(settings):
        return ", ".join([method, *told])
    if not told and any(r.row.regularizer for r in results):
        told = [named[key] for key in LAMBDAS if key in named]
    return ", ".join(told) or (method if named else "")


def methods_differ(varied: Iterable[str]) -> bool:
    """Whether rows that differ in these keys are of several methods, beside what the lambdas tell."""
    return any(key in PARTS or is_below(key, OTHER_THAN_LSQ) for key in varied)


PARTS = (REGULARIZER, QUANTIZER)
"""What the method's name tells."""
WHOLE = ("float_optimizer", "qat_optimizer", *WAYS_TO_TRAIN)
"""Groups whose fields say too little by themselves."""


def short(key: str) -> str:
    """A key as a heading: `lambda_act` for `reg.lambda_act`, `model` for `model._target_`."""
    if key == REGULARIZER:
        return "regularizer"
    key = key.removesuffix("._target_")
    return key if key.startswith(WHOLE) else key.partition(".")[2] or key


def plain(value: Any) -> str:
    """A value as people type it: true, null, 0.1, and the last word of an import path of ours."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    return inert(text.rpartition(".")[2] if text.startswith(("brsweep.", "torch")) else text)


def inert(text: str) -> str:
    """A text of a run folder that does nothing in a spreadsheet or a terminal: one that would be taken for a formula
    has a quote before it, as spreadsheets themselves write a text; a number stays."""
    text = printable(text)
    if not text.lstrip().startswith(("=", "+", "-", "@")):
        return text
    try:
        return text if math.isfinite(float(text)) else f"'{text}"
    except ValueError:
        return f"'{text}"


def _judged_row(
    row: Row, gap: Paired | None, partners: Mapping[Path, ReportedRun], method_of: Mapping[Path, str]
) -> Result:
    runs = row.counted

    def over(key: str) -> Spread | None:
        return spread([run.number(key) for run in runs])

    to_float = [words.gap_to_float(run.number("test_accuracy"), run.number("float_test_accuracy")) for run in runs]
    methods = dict.fromkeys(method_of[partners[run.path].path] for run in runs if run.path in partners)
    figures = tuple(published(row.config, row.bits)) if row.config else ()
    return Result(
        row=row,
        val=over("val_accuracy"),
        test=over("test_accuracy"),
        test_last=over("test_accuracy_last"),
        floating=over("float_test_accuracy"),
        gap_float=spread(to_float),
        gap=gap,
        baseline=next(iter(methods), ""),
        published=figures,
        notes=tuple(_notes(row)),
    )


def _notes(row: Row) -> list[str]:
    notes = []
    counted = {run.seed for run in row.counted}
    for run in row.runs:
        if not run.counts:
            state = "no finite accuracy" if run.state == "finished" else run.state
            cause = f" ({run.status.cause})" if run.status.cause else ""
            notes.append(f"seed {run.seed}: {state}{cause}")
    again = len([run for run in row.runs if run.counts]) - len(row.counted)
    if again:
        notes.append(f"{again} more of the same configuration and seed: not counted twice")
    absent = sorted(set(row.seeds) - counted - {run.seed for run in row.runs})
    if absent:
        notes.append(f"no run with seed {', '.join(map(str, absent))}")
    if len(row.counted) == 1:
        notes.append("one seed: no spread")
    checkpoints = {(run.config or {}).get("pretrained") for run in row.counted}
    if len(row.counted) > 1 and len(checkpoints) == 1 and checkpoints != {None}:
        notes.append("all seeds begin at one pretrained checkpoint: the spread leaves pre-training out")
    collapsed = sum(bool((run.result or {}).get("collapse")) for run in row.counted)
    if collapsed:
        notes.append(f"collapsed: {collapsed} of {len(row.counted)}")
    return notes


def _against_baseline(row: Row, partners: Mapping[Path, ReportedRun]) -> Paired | None:
    pairs = [(run, partners[run.path]) for run in row.counted if run.path in partners]
    values = [(run.number("test_accuracy"), other.number("test_accuracy")) for run, other in pairs]
    gap = paired([own - other for own, other in values])
    return None if gap is None else replace(gap, correlation=correlation(values))


def distinct_settings(results: Sequence[Result], but: Sequence[str]) -> list[dict[str, Any]]:
    """The settings of `results` less the keys `but`, each once; one that another fills out is left to that."""
    settings = list({repr(setting(result, but)): setting(result, but) for result in results}.values())
    return [mine for mine in settings if not any(mine != other and covers(other, mine) for other in settings)]


def setting(result: Result, but: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in result.row.settings.items() if key not in but}


def covers(setting: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether `other` is this setting wherever its values have an effect."""
    return all(other.get(key) in (value, NO_EFFECT) for key, value in setting.items())


def validation(row: Row) -> dict[int, float]:
    """Seed -> validation accuracy."""
    found = {run.seed: run.number("val_accuracy") for run in row.counted}
    return {seed: value for seed, value in found.items() if value is not None}


def seeds_of_all(picks: Sequence[Pick]) -> tuple[int, ...]:
    """The seeds that all candidates of all `picks` have finished."""
    return tuple(sorted(set.intersection(*(set(pick.seeds) for pick in picks)))) if picks else ()


def best_pick(picks: Sequence[Pick]) -> Pick | None:
    """Of picks of several settings the one with the highest validation accuracy over the seeds that all candidates
    have; None where they have none in common."""
    seeds = seeds_of_all(picks)
    if not seeds:
        return None
    means = [fmean([validation(pick.result.row)[seed] for seed in seeds]) for pick in picks]
    return picks[means.index(max(means))]


def chosen(judged: Judged) -> list[Pick]:
    """For each bit-width the pick with the highest validation accuracy; all of them where they have no seed in
    common."""
    first: list[Pick] = []
    for bits in dict.fromkeys(pick.result.row.bits for pick in judged.picks):
        mine = [pick for pick in judged.picks if pick.result.row.bits == bits]
        best = best_pick(mine)
        first += mine if best is None else [best]
    return first


def _picks(results: Sequence[Result]) -> tuple[tuple[Pick, ...], tuple[str, ...]]:
    known = [result for result in results if result.row.config is not None]
    picks, unpicked = [], []
    for bits in dict.fromkeys(result.row.bits for result in known):
        mine = [r for r in known if r.row.bits == bits]
        regularized = [r for r in mine if r.row.regularizer]
        for frame in distinct_settings(regularized, LAMBDAS):
            rows = [r for r in regularized if covers(frame, setting(r, LAMBDAS))]
            alone = [r for r in mine if not r.row.regularizer and covers(frame, setting(r, LAMBDAS))]
            pick = _pick(frame, rows, alone)
            if pick is not None:
                picks.append(pick)
            elif sum(bool(validation(r.row)) for r in rows) > 1:
                label = ", ".join(filter(None, [bits, in_words(frame, rows)]))
                unpicked.append(f"{label}: none of {len(rows)} lambdas is picked, they have no finished seed in common")
        for result in mine:
            if not result.row.regularizer and not result.row.is_lsq:
                but = [key for key in result.row.settings if is_below(key, OTHER_THAN_LSQ)]
                lsq = [r for r in mine if r.row.is_lsq and covers(setting(result, but), setting(r, but))]
                pick = _pick(setting(result, ()), [result], lsq)
                picks += [pick] if pick else []
    return tuple(picks), tuple(unpicked)


def _pick(frame: Mapping[str, Any], rows: Sequence[Result], alone: Sequence[Result]) -> Pick | None:
    """None where the rows have no finished seed in common."""
    begun = [(result, of) for result in rows if (of := validation(result.row))]
    seeds = sorted(set.intersection(*(set(of) for _, of in begun))) if begun else []
    if not seeds:
        return None
    best, of = max(begun, key=lambda row: fmean([row[1][seed] for seed in seeds]))
    known = (validation(r.row) for r in alone)
    baseline = next((spread([of[seed] for seed in seeds]) for of in known if set(seeds) <= set(of)), None)
    val = spread([of[seed] for seed in seeds])
    return Pick(frame, best, len(begun), len(rows) - len(begun), tuple(seeds), val, baseline)
