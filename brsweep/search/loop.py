"""The search: ask for a point, do its run, tell how it went, until the trials are as many as wanted.

One process, one trial after the other, each an ordinary run in the sweep's folder: float stages and, where the points
agree on what they depend on, warm-ups come from the store.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from brsweep.errors import BrsweepError
from brsweep.runs.run import Run
from brsweep.search.settings import Question, Search
from brsweep.search.space import Space, in_words, lowest, read_space
from brsweep.search.study import FAILED, FILE, PRUNED, counted, open_study, requeue_killed
from brsweep.tracking.console import Console
from brsweep.training.schedule import seed_of

SEEDS = 3
"""What it takes to say more of a point than that one seed liked it."""
FINISHED = "finished"


def search(question: Question) -> None:
    """Search until `search.trials` trials have ended, then say the best point. Needs no torch where they have."""
    settings = question.settings
    space = read_space(settings.space, question.configured)
    first = question.configured(lowest(space))
    if not first["data"]["val_fraction"]:
        raise BrsweepError(
            "data.val_fraction=0: a search goes by validation accuracy, the test set chooses nothing; leave it a share"
        )
    run = Run.of(first)
    folder, console = run.folder.path.parent, Console(None)
    if not (folder / FILE).exists():
        _check_parts(first)
    options = {"force": first["force"], "stale": first["stale"], "warn": console.warn}
    with open_study(folder, _asked(run, space, settings), run.code, **options) as study:
        killed = requeue_killed(study, space.keys())
        console.say(_opening(run, space, settings, len(counted(study)), killed))
        while len(counted(study)) < settings.trials:
            _one_trial(study, space, question, first["seed"], console)
        for line in _closing(counted(study), question, first["seed"]):
            console.say(line)


def _one_trial(study: optuna.Study, space: Space, question: Question, seed: int, console: Console) -> None:
    from brsweep.search.trial import run_trial

    settings, number = question.settings, len(counted(study))
    own = seed_of(seed, "search", number) % 2**32
    study.sampler = optuna.samplers.TPESampler(n_startup_trials=settings.random_trials, seed=own)
    study.pruner = _pruner(settings)
    trial = study.ask(space)
    head = f"trial {number + 1}/{settings.trials}"
    console.banner(f"{head}: {' '.join(f'{key}={_short(value)}' for key, value in trial.params.items())}")
    value = run_trial(trial, question)
    told = study.tell(trial, value, TrialState.PRUNED if value is None else TrialState.COMPLETE)
    if value is not None:
        console.say(f"{head}: validation {value:.2%}, best so far {study.best_value:.2%}")
    elif _end(told) == PRUNED:
        console.say(f"{head}: pruned")
    else:
        console.warn(f"{head}: failed: {told.user_attrs[FAILED]}")


def _end(trial: FrozenTrial) -> str:
    if trial.state == TrialState.COMPLETE:
        return FINISHED
    return FAILED if FAILED in trial.user_attrs else PRUNED


def _pruner(settings: Search) -> optuna.pruners.BasePruner:
    if not settings.prune:
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(settings.prune_after_trials)


def _check_parts(config: Mapping[str, Any]) -> None:
    """Refuse parts that can't be made before the study's file is."""
    from brsweep.stages.preflight import check_parts

    check_parts(config)


def _asked(run: Run, space: Space, settings: Search) -> dict[str, Any]:
    """Whatever must be equal for trials to be of one search, flat: all that a run depends on less what is searched."""
    seen: dict[str, Any] = {}
    for stage in run.stages:
        seen |= _flat(stage.spec["config"])
    seen = {key: value for key, value in seen.items() if not any(f"{key}.".startswith(f"{k}.") for k in space)}
    seen |= {f"search.space.{key}": in_words(key, distribution) for key, distribution in space.items()}
    options = ("random_trials", "prune", "prune_after_trials", "prune_after_epochs")
    return seen | {f"search.{name}": getattr(settings, name) for name in options}


def _flat(node: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= _flat(value, f"{path}{key}.") if isinstance(value, Mapping) else {f"{path}{key}": value}
    return flat


def _opening(run: Run, space: Space, settings: Search, done: int, killed: int) -> str:
    words = ", ".join(in_words(key, distribution) for key, distribution in space.items())
    again = f"; {killed} killed, tried again first" if killed else ""
    return f"search {run.folder.path.parent}: {done} of {settings.trials} trials done{again}; {words}"


def _closing(trials: list[FrozenTrial], question: Question, seed: int) -> list[str]:
    """The best point and the commands for it. Raises `BrsweepError` where no trial finished."""
    count = Counter(_end(trial) for trial in trials)
    ends = ", ".join(f"{count[word]} {word}" for word in (FINISHED, PRUNED, FAILED) if count[word])
    finished = [trial for trial in trials if _end(trial) == FINISHED]
    if not finished:
        causes = " | ".join(dict.fromkeys(trial.user_attrs[FAILED] for trial in trials))
        raise BrsweepError(f"no trial finished ({ends}): {causes}")
    best = max(finished, key=lambda trial: trial.value)
    point = " ".join(f"{key}={_short(value)}" for key, value in best.params.items())
    seeds = [seed + i for i in range(SEEDS)]
    return [
        f"best of {len(trials)} trials ({ends}): validation {best.value:.2%} at {point}",
        f"its run: {shlex.join(question.command(best.params))}",
        f"one seed ({seed}) chose it among {len(finished)}, which flatters it; under {SEEDS} seeds: "
        f"{shlex.join(question.command(best.params, seeds))}",
    ]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
