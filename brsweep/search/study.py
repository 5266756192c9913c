"""The study on disk, and what a kill leaves of it.

    runs/<sweep_name>/study.db      Optuna's: each trial's point, its epochs' accuracies, value and state
    runs/<sweep_name>/.study.lock   held, by an OS lock, by the process that searches

Whoever holds the lock knows that a trial in state running was killed: it is marked so, and its point is tried again
first, in the run folder that it has. A killed trial counts for nothing. The sampler's seed is that of the number of
trials that count, so a search that was killed proposes what an undisturbed one would. For the same reason a damaged
file costs little: a new one asks for the same points, and their finished runs answer.

Optuna's state FAIL means killed here. Its samplers leave such trials out, so a point that diverged would be proposed
again and again; it is told as pruned, with the attribute `failed`, and the sampler keeps away from it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from brsweep.errors import BrsweepError
from brsweep.stages.store import os_lock

FILE, LOCK, NAME = "study.db", ".study.lock", "search"
ASKED, CODE = "asked", "code"
"""Attributes of the study: what its trials have in common, and the training code's digest."""
RUN, PRUNED, FAILED, REPEATS = "run", "pruned", "failed", "repeats"
"""Attributes of a trial: its run's name; why it was pruned or failed; the number of the killed one that it repeats."""
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)


@contextmanager
def open_study(
    folder: Path, asked: Mapping[str, Any], code: str, *, force: bool, stale: str, warn: Callable[[str], None]
) -> Iterator[optuna.Study]:
    """The study of `folder`, held against other processes.

    asked: all that its trials have in common, flat; code: the digest of the training code. Raises `BrsweepError` where
    the file is of another search or of other code (`stale` as for a run; `force` begins anew).
    """
    path, asked = folder / FILE, json.loads(json.dumps(asked))
    with _held(folder), _in_one_line(path):
        damage = _damage(path)
        if damage:
            warn(f"{path}: damaged ({damage}), set aside; the same points are asked for again, finished runs answer")
            _set_aside(path, "damaged")
        elif force:
            _set_aside(path, "old")
        with _connected(path) as study:
            outdated = _outdated(path, study, asked, code, stale)
        if outdated:
            _set_aside(path, "old")
        with _connected(path) as study:
            if ASKED not in study.user_attrs:
                study.set_user_attr(CODE, code)
                study.set_user_attr(ASKED, asked)
            yield study


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that came to an end of their own: finished, pruned or failed."""
    return study.get_trials(deepcopy=False, states=COUNTED)


def requeue_killed(study: optuna.Study, keys: Set[str]) -> int:
    """Mark the trials that a dead process left running and queue their points, once each; how many there were.

    keys: those of a whole point. A trial that was killed before it had one is not queued: the next trial is asked for
    with the same seed. Killed in here, at whatever line, it does the rest when called again.
    """
    left = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for trial in left:
        study.tell(trial.number, state=TrialState.FAIL)
    trials = study.get_trials(deepcopy=False)
    repeated = {trial.user_attrs.get(REPEATS) for trial in trials}
    for trial in trials:
        point = trial.system_attrs.get("fixed_params", {}) | trial.params
        if trial.state == TrialState.FAIL and trial.number not in repeated and point.keys() == keys:
            study.enqueue_trial(point, user_attrs={REPEATS: trial.number})
    return len(left)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(os_lock(folder / LOCK))
        except BlockingIOError:
            line = f"{folder}: another process searches here; wait for it, or take another sweep_name"
            raise BrsweepError(line) from None
        yield


@contextmanager
def _in_one_line(path: Path) -> Iterator[None]:
    try:
        yield
    except (StorageInternalError, SQLAlchemyError, sqlite3.Error) as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        raise BrsweepError(f"{path}: can't be used ({cause}); free the disk, or take another sweep_name") from None


@contextmanager
def _connected(path: Path) -> Iterator[optuna.Study]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{path.resolve()}")
    except RuntimeError as error:  # written by a version of Optuna that this one can't read
        raise BrsweepError(f"{path}: {' '.join(str(error).split())}") from None
    try:
        yield optuna.create_study(storage=storage, study_name=NAME, direction="maximize", load_if_exists=True)
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _damage(path: Path) -> str | None:
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(path)) as connection:
            answer = connection.execute("PRAGMA quick_check").fetchone()[0]
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if answer == "ok" else " ".join(answer.split())


def _set_aside(path: Path, word: str) -> None:
    if path.exists():
        path.replace(path.with_name(f"{path.name}.{word}"))
    path.with_name(f"{path.name}-journal").unlink(missing_ok=True)  # sqlite would take it for the new file's


def _outdated(path: Path, study: optuna.Study, asked: Mapping[str, Any], code: str, stale: str) -> bool:
    """Whether the study was made by other code and is to begin anew. Raises where it can't go on."""
    there = study.user_attrs.get(ASKED)
    if there is None:
        return False
    for key in sorted(there.keys() | asked.keys()):
        if there.get(key) != asked.get(key):
            raise BrsweepError(
                f"{path}: holds another search, {key}={there.get(key)} there and {asked.get(key)} here; take another "
                f"sweep_name, or force=true to begin this one anew"
            )
    if study.user_attrs[CODE] == code or stale == "keep":
        return False
    if stale == "retrain":
        return True
    raise BrsweepError(
        f"{path}: made under other training code ({study.user_attrs[CODE]}, this is {code}); stale=keep goes on with "
        f"its trials, stale=retrain begins anew"
    )
