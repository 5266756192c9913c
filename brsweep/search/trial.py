"""One trial: an ordinary run, watched. Its value is the validation accuracy at the run's best epoch."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import optuna

from brsweep.errors import BrsweepError
from brsweep.runs.execution import Pruned, execute
from brsweep.runs.run import Run
from brsweep.search.settings import Question
from brsweep.search.study import FAILED, PRUNED, RUN
from brsweep.sweep.manifest import add_to_manifest
from brsweep.training.loop import Diverged


class TrialReport:
    """Reports a run's last stage to the study, epoch by epoch, and prunes it where the study's pruner says so.

    safe_until: the epoch up to which nothing is pruned. command: the plain one that goes on with the run.
    """

    def __init__(self, trial: optuna.Trial, safe_until: int, command: list[str]) -> None:
        self._trial, self._safe_until, self._command = trial, safe_until, command
        self._seen: dict[int, float] = {}

    def __call__(self, record: Mapping[str, Any]) -> None:
        self.report(record)
        open_to_it = self._safe_until <= record["epoch"] < record["epochs"]
        if open_to_it and self._trial.should_prune():
            raise Pruned(
                f"after epoch {record['epoch']}/{record['epochs']}: validation {max(self._seen.values()):.2%} at best, "
                f"below the median of the finished trials; to go on with it: {shlex.join(self._command)}"
            )

    def report(self, record: Mapping[str, Any]) -> None:
        if record["epoch"] not in self._seen:
            self._seen[record["epoch"]] = record["val_accuracy"]
            self._trial.report(record["val_accuracy"], record["epoch"])


def run_trial(trial: optuna.Trial, question: Question) -> float | None:
    """Do the trial's run; its value, or None where it was pruned or failed, which the trial's attributes then say.

    A point that the configuration refuses, or that diverges, fails; what else goes wrong is not the point's fault and
    is raised.
    """
    try:
        run = Run.of(question.configured(trial.params))
    except BrsweepError as error:
        return trial.set_user_attr(FAILED, str(error))
    trial.set_user_attr(RUN, run.name)
    _note(run, trial, question)
    safe_until = run.config["schedule"]["warmup_epochs"] + question.settings.prune_after_epochs
    watch = TrialReport(trial, safe_until, question.command(trial.params))
    try:
        result = execute(run.config, watch)
    except Pruned as error:
        return trial.set_user_attr(PRUNED, str(error))
    except Diverged as error:
        return trial.set_user_attr(FAILED, str(error))
    for record in run.folder.records():  # a run that was finished before has shown none
        if record["stage"] == run.stages[-1].name:
            watch.report(record)
    return result["val_accuracy"]


def _note(run: Run, trial: optuna.Trial, question: Question) -> None:
    """Let the sweep's manifest name the run: status shows its point, and its stages stay in the store."""
    about = {
        "name": run.name,
        "overrides": [f"{key}={value}" for key, value in trial.params.items()],
        "epochs": sum(stage.epochs for stage in run.stages),
        "stages": [stage.signature for stage in run.stages[:-1]],
    }
    add_to_manifest(run.folder.path.parent, run.config["sweep_name"], shlex.join(question.typed), [about])
