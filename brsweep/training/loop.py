"""Epochs: train, look, evaluate, hand the record on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from brsweep.data.tables import Tables
from brsweep.errors import BrsweepError
from brsweep.training.evaluate import evaluate
from brsweep.training.graphs import Recorded
from brsweep.training.measure import CodeChanges, Probe, penalty_totals
from brsweep.training.optim import set_lr
from brsweep.training.schedule import lr_factor, seed_of
from brsweep.training.step import EpochTotals, Learner, Totals, train_step


class Diverged(BrsweepError):
    """The loss is no longer a number."""


@dataclass(frozen=True)
class Span:
    """Which epochs a stage trains, out of those that its learning rate's cosine spans.

    name: the stage's. first, last: the epochs [first, last), counted from 0 within `epochs`.
    """

    name: str
    first: int
    last: int
    epochs: int
    lr_warmup_epochs: int = 0


@dataclass
class Progress:
    """How far a stage is: epochs done in the span's counting, and the records so far, those of earlier stages first."""

    done: int
    history: list[dict[str, Any]] = field(default_factory=list)
    layers: list[dict[str, Any]] = field(default_factory=list)


Advance = Callable[[], None]
Bar = Callable[[str, int], Any]


def fit(
    learner: Learner,
    tables: Tables,
    span: Span,
    progress: Progress,
    *,
    seed: int,
    batch_size: int,
    probe: Probe | None,
    weight_decay: float,
    bar: Bar,
    after_epoch: Callable[[dict[str, Any]], None],
    say: Callable[[str], None],
) -> None:
    """Train the epochs of `span` that `progress` has not done, appending to its records.

    bar(description, steps): a context manager whose value has `advance()`. after_epoch(record) is called with each
    epoch's record when it is complete: the place to save and to log. say: is given what has to be read. Raises
    `Diverged` when a loss, a weight or a record's number is not finite; the epoch before is what `after_epoch` saved.
    """
    passes = Recorded(learner, say) if learner.graphs else None
    for epoch in range(progress.done, span.last):
        began = time.perf_counter()
        changes = CodeChanges(probe, tables.train.steps(batch_size)) if probe else None
        epoch_seed = seed_of(seed, span.name, epoch)
        totals, lambdas = _train_epoch(learner, tables, span, epoch, epoch_seed, batch_size, bar, changes, passes)
        if totals.first_bad_step >= 0 or not _is_finite(learner.model):
            raise Diverged(_where_it_diverged(learner, span, epoch, totals))
        layers = probe.layers(changes, lambdas, weight_decay) if probe else {}
        record = {
            "stage": span.name,
            "epoch": epoch + 1,
            "epochs": span.epochs,
            "lr": learner.optimizer.param_groups[0]["lr"],
            "train_loss": totals.loss,
            "train_accuracy": totals.accuracy,
            "task_loss": totals.task_loss,
            **_accuracies(learner, tables),
            **_penalties(learner, layers, totals, lambdas),
            **{key: value for companion in learner.companions.values() for key, value in companion.record().items()},
            "time_s": time.perf_counter() - began,
        }
        if endless := _endless(record):
            raise Diverged(_where_it_diverged(learner, span, epoch, totals, endless))
        if layers:
            progress.layers.append({"stage": span.name, "epoch": epoch + 1} | layers)
        progress.history.append(record)
        progress.done = epoch + 1
        after_epoch(record)


def _train_epoch(
    learner: Learner,
    tables: Tables,
    span: Span,
    epoch: int,
    seed: int,
    batch_size: int,
    bar: Bar,
    changes: CodeChanges | None,
    passes: Recorded | None = None,
) -> tuple[EpochTotals, Mapping[str, float]]:
    steps = tables.train.steps(batch_size)
    totals, lambdas = Totals(next(learner.model.parameters()).device), {}
    torch.manual_seed(seed)  # dropout, where a network has it
    learner.model.train()
    if passes is not None:
        passes.begin_epoch()
    with bar(f"{span.name} {epoch + 1}/{span.epochs}", steps) as shown:
        for step, (images, labels) in enumerate(tables.train.augmented(batch_size, seed)):
            done = epoch * steps + step
            set_lr(learner.optimizer, lr_factor(done, span.epochs * steps, span.lr_warmup_epochs * steps))
            progress = (done - span.first * steps) / ((span.last - span.first) * steps)
            if learner.regularizer is not None:
                lambdas = learner.regularizer.lambdas(progress)
            train_step(learner, images, labels, lambdas, totals, step, passes)
            if learner.freezing is not None:
                learner.freezing.after_step(progress)
            if changes is not None:
                changes.after_step(step)
            shown.advance()
    return totals.read(), lambdas


def _accuracies(learner: Learner, tables: Tables) -> dict[str, float | None]:
    batches = {"val": tables.val, "test": tables.test}
    return {
        f"{name}_accuracy": None if table is None else evaluate(learner, table.plain(), len(tables.classes)).accuracy
        for name, table in batches.items()
    }


def _penalties(learner: Learner, layers, totals: EpochTotals, lambdas: Mapping[str, float]) -> dict[str, float]:
    """penalty_*: L_BR as the paper has it, at the epoch's end; trained_penalty_*: the epoch's mean as trained."""
    if not layers:
        return {}
    plain = penalty_totals(layers)
    record = {"penalty_weight": plain["weight"], "penalty_act": plain["act"]}
    if learner.regularizer is not None:
        record |= {
            "trained_penalty_weight": totals.penalty_weight,
            "trained_penalty_act": totals.penalty_act,
            "lambda_weight": lambdas["weight"],
            "lambda_act": lambdas["act"],
        }
    return record


@torch.no_grad()
def _is_finite(model: nn.Module) -> bool:
    """Whether parameters and buffers are numbers: the last update of an epoch shows in no loss of it. One wait for the
    device."""
    values = [value for value in model.state_dict().values() if value.is_floating_point()]
    return bool(torch.stack([value.isfinite().all() for value in values]).all())


def _endless(record: Mapping[str, Any]) -> str:
    """The first number of a record that is not finite; "" where all are."""
    floats = ((key, value) for key, value in record.items() if isinstance(value, float))
    return next((key for key, value in floats if not math.isfinite(value)), "")


def _where_it_diverged(learner: Learner, span: Span, epoch: int, totals: EpochTotals, endless: str = "") -> str:
    """endless: the number of the epoch's record that is not finite, of weights that still are."""
    bad = [name for name, value in learner.model.state_dict().items() if not bool(value.isfinite().all())]
    where = f"; first parameter that is not finite: {bad[0]}" if bad else ""
    step = f"the loss is not a number since step {totals.first_bad_step} of"
    if totals.first_bad_step < 0:
        what = f"{endless} is beyond all numbers" if endless else "the network's weights are not a number"
        step = f"{what} after the last step of"
    return (
        f"{step} epoch {epoch + 1}/{span.epochs} in stage {span.name}{where}; the last checkpoint before it is kept: "
        f"lower the learning rate{'' if learner.regularizer is None else ' or the lambdas'}"
        f"{'' if learner.transitions is None else ', or transition_rate.gain'}"
    )
