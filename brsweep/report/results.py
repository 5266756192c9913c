"""What a cohort's table says: per row the spread over seeds, the gaps, and which lambda validation picks.

The gap to LSQ is paired: each run against the LSQ run that differs from it in nothing but the regularizer (and a step
size that trains on where the run's is frozen), of the same seed. A lambda is picked among rows that are complete, by
mean validation accuracy; the test set chooses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from brsweep.report.published import Published, published
from brsweep.report.rows import BITS, LAMBDAS, NO_EFFECT, Cohort, Row, identity_but
from brsweep.report.runs import ReportedRun
from brsweep.report.spread import Paired, Spread, corrected, paired, spread


@dataclass(frozen=True)
class Result:
    """Accuracies and gaps in [0, 1]. `picked`: validation prefers this lambda to the others of its setting."""

    row: Row
    val: Spread | None
    test: Spread | None
    test_last: Spread | None
    floating: Spread | None
    gap_float: Spread | None
    gap_lsq: Paired | None
    published: tuple[Published, ...]
    notes: tuple[str, ...]
    picked: bool = False


@dataclass(frozen=True)
class Pick:
    """The row that validation picks among `candidates` that share `setting`, bits included; `rivals` are incomplete."""

    setting: Mapping[str, Any]
    result: Result
    candidates: int
    incomplete: int
    lsq: Result | None


@dataclass(frozen=True)
class Judged:
    """A cohort with its results, in the rows' order, and its picks."""

    cohort: Cohort
    results: tuple[Result, ...]
    picks: tuple[Pick, ...]


def judge(cohort: Cohort) -> Judged:
    partners = lsq_partners(cohort.runs)
    gaps = corrected([_against_lsq(row, partners) for row in cohort.rows])
    results = tuple(_result(row, gap) for row, gap in zip(cohort.rows, gaps, strict=True))
    picks = _picks(results)
    chosen = {id(pick.result.row) for pick in picks if pick.candidates > 1}
    results = tuple(replace(result, picked=id(result.row) in chosen) for result in results)
    return Judged(cohort, results, picks)


def lsq_partners(runs: Sequence[ReportedRun]) -> dict[str, ReportedRun]:
    """Run name -> the LSQ run of the same seed that it is compared with; LSQ runs themselves have none, unless their
    step sizes freeze and another's don't."""
    found: dict[str, ReportedRun] = {}
    counted = [run for run in runs if run.counts and run.config is not None]
    baselines = [run for run in counted if _is_lsq(run)]
    baselines.sort(key=lambda run: bool(run.config["schedule"]["freeze_alpha"]), reverse=True)
    by_key = {_baseline_key(run): run for run in baselines}  # of two, the one whose alpha stays free
    for run in counted:
        partner = by_key.get(_baseline_key(run))
        if partner is not None and partner is not run:
            found[run.name] = partner
    return found


def row_label(result: Result) -> str:
    """The row in words: `W2A2, lambda_act 1, freeze_alpha true`."""
    return ", ".join(filter(None, [result.row.bits, in_words(result.row.settings)]))


def in_words(settings: Mapping[str, Any]) -> str:
    """Settings less the bits and what has no effect: `lambda_act 1, freeze_alpha true`."""
    shown = {k: v for k, v in settings.items() if k not in BITS and v != NO_EFFECT}
    return ", ".join(f"{short(key)} {plain(value)}" for key, value in shown.items())


def short(key: str) -> str:
    """A key as a heading: `lambda_act` for `reg.lambda_act`, `model` for `model._target_`."""
    key = key.removesuffix("._target_")
    return key if key.startswith(("float_optimizer", "qat_optimizer")) else key.partition(".")[2] or key


def plain(value: Any) -> str:
    """A value as people type it: true, null, 0.1, and the last word of an import path."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    return text.rpartition(".")[2] if text.startswith(("brsweep.", "torch")) else text


def _result(row: Row, gap_lsq: Paired | None) -> Result:
    runs = row.counted

    def over(key: str) -> Spread | None:
        return spread([run.number(key) for run in runs])

    both = [(run.number("test_accuracy"), run.number("float_test_accuracy")) for run in runs]
    gaps = [test - floating for test, floating in both if floating is not None]
    figures = tuple(published(row.config, row.bits)) if row.config else ()
    return Result(
        row=row,
        val=over("val_accuracy"),
        test=over("test_accuracy"),
        test_last=over("test_accuracy_last"),
        floating=over("float_test_accuracy"),
        gap_float=spread(gaps),
        gap_lsq=gap_lsq,
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


def _is_lsq(run: ReportedRun) -> bool:
    return not (run.config["reg"].get("lambda_weight") or run.config["reg"].get("lambda_act"))


def _baseline_key(run: ReportedRun) -> str:
    return identity_but(run.config, "reg", "schedule.freeze_alpha") + str(run.config.get("pretrained"))


def _against_lsq(row: Row, partners: Mapping[str, ReportedRun]) -> Paired | None:
    pairs = [(run, partners[run.name]) for run in row.counted if run.name in partners]
    return paired([run.number("test_accuracy") - lsq.number("test_accuracy") for run, lsq in pairs])


def distinct_settings(results: Sequence[Result], but: Sequence[str]) -> list[dict[str, Any]]:
    """The settings of `results` less the keys `but`, each once; one that another fills out is left to that."""
    settings = list({repr(setting(result, but)): setting(result, but) for result in results}.values())
    return [mine for mine in settings if not any(mine != other and covers(other, mine) for other in settings)]


def setting(result: Result, but: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in result.row.settings.items() if key not in but}


def covers(setting: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether `other` is this setting wherever its values have an effect."""
    return all(other.get(key) in (value, NO_EFFECT) for key, value in setting.items())


def _picks(results: Sequence[Result]) -> tuple[Pick, ...]:
    known = [result for result in results if result.row.config is not None]
    picks = []
    for bits in dict.fromkeys(result.row.bits for result in known):
        regularized = [r for r in known if r.row.bits == bits and not r.row.is_lsq]
        for frame in distinct_settings(regularized, LAMBDAS):
            rows = [r for r in regularized if covers(frame, setting(r, LAMBDAS))]
            fit = [r for r in rows if r.row.complete and r.val is not None]
            lsq = [r for r in known if r.row.bits == bits and r.row.is_lsq and covers(frame, setting(r, LAMBDAS))]
            if fit:
                best = max(fit, key=lambda r: r.val.mean)
                baseline = next((r for r in lsq if r.val is not None), None)
                picks.append(Pick(frame, best, len(fit), len(rows) - len(fit), baseline))
    return tuple(picks)
