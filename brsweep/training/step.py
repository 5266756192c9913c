"""One training step. Nothing in it waits for the device; `Totals.read` is the one place that does, once an epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brsweep.quant.sites import Site
from brsweep.training.freezing import WeightFreezing
from brsweep.training.transitions import TransitionRate


@dataclass(frozen=True)
class Learner:
    """What a stage trains with. `regularizer` is None in the float and warm-up stages, and for LSQ alone.

    graphs: whether the passes are recorded as a CUDA graph (`brsweep.training.graphs`).
    teacher: the float network in evaluation mode, whose soft labels count with distill_weight at temperature.
    freezing: what holds weights that oscillate, after each step; transitions: what takes the optimizer's step and moves
    weights by how many codes change. None where nothing does.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    sites: Sequence[Site] = ()
    regularizer: Any | None = None
    precision: str = "float32"
    gradient_clip: float | None = None
    compile: bool = False
    graphs: bool = False
    teacher: nn.Module | None = None
    distill_weight: float = 0.0
    temperature: float = 1.0
    freezing: WeightFreezing | None = None
    transitions: TransitionRate | None = None

    @property
    def companions(self) -> dict[str, WeightFreezing | TransitionRate]:
        """What goes along with the optimizer, by the name of its field: its state is part of a checkpoint, its numbers
        of an epoch's record."""
        both = {"freezing": self.freezing, "transitions": self.transitions}
        return {name: companion for name, companion in both.items() if companion is not None}

    @cached_property
    def forward(self) -> Callable[[Tensor], Tensor]:
        """The model as a training step calls it: itself, or compiled at the first call. Evaluation stays eager."""
        return torch.compile(self.model, dynamic=False) if self.compile else self.model

    def autocast(self, device_type: str) -> AbstractContextManager:
        """bf16: networks in bfloat16, quantizers in float32 inside (see `brsweep.kernels`), parameters in float32."""
        return torch.autocast(device_type, torch.bfloat16) if self.precision == "bf16" else nullcontext()


# ------------------------------------------------------------------------------------------------------------------
def train_step(
    learner: Learner,
    images: Tensor,
    labels: Tensor,
    lambdas: Mapping[str, float],
    totals: Totals,
    step: int,
    passes: Callable[..., Passes] | None = None,
) -> None:
    """Forward, backward and update for one batch: images [B, C, H, W], labels [B]. passes: `gradients`, or what
    replays it."""
    made = (passes or gradients)(learner, images, labels, lambdas)
    if learner.gradient_clip is not None:
        nn.utils.clip_grad_norm_(learner.model.parameters(), learner.gradient_clip)
    (learner.transitions or learner.optimizer).step()
    totals.add(made, labels, step)


def gradients(learner: Learner, images: Tensor, labels: Tensor, lambdas: Mapping[str, float | Tensor]) -> Passes:
    """Forward and backward: each parameter's gradient is set anew."""
    regularizer = learner.regularizer
    with learner.autocast(images.device.type):
        if regularizer is None:
            logits, penalties = learner.forward(images), {}
        else:
            with regularizer.collect(learner.sites) as seen:
                logits = learner.forward(images)
            penalties = regularizer.penalties(seen)
        soft = None if learner.teacher is None else soft_labels(learner, images)
    task_loss = distilled_loss(learner, logits.float(), labels, soft)
    loss = task_loss
    for kind, penalty in penalties.items():
        loss = loss + (lambdas[kind] * penalty).to(loss.dtype)
    learner.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    detached = {kind: penalty.detach() for kind, penalty in penalties.items()}
    return Passes(loss.detach(), task_loss.detach(), detached, logits.detach())


# ------------------------------------------------------------------------------------------------------------------


class Passes(NamedTuple):
    """What a forward and a backward pass leave beside gradients: 0-d losses, penalties by kind before their lambda,
    and logits [B, classes]; none with a graph."""

    loss: Tensor
    task_loss: Tensor
    penalties: Mapping[str, Tensor]
    logits: Tensor


@torch.no_grad()
def soft_labels(learner: Learner, images: Tensor) -> Tensor:
    """The teacher's log-probabilities [B, classes] at the temperature."""
    return (learner.teacher(images).float() / learner.temperature).log_softmax(1)


def distilled_loss(learner: Learner, logits: Tensor, labels: Tensor, soft: Tensor | None) -> Tensor:
    """(1 - w) * cross entropy + w * T^2 * KL(teacher || student), both at temperature T in the second term (Hinton,
    Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015); without a teacher the cross entropy."""
    loss = F.cross_entropy(logits, labels)
    if soft is None:
        return loss
    own = (logits / learner.temperature).log_softmax(1)
    distance = F.kl_div(own, soft, reduction="batchmean", log_target=True) * learner.temperature**2
    return (1 - learner.distill_weight) * loss + learner.distill_weight * distance


class EpochTotals(NamedTuple):
    """Means over the epoch's images (accuracy in [0, 1]); first_bad_step: the first with a loss not finite, or -1."""

    loss: float
    task_loss: float
    accuracy: float
    penalty_weight: float
    penalty_act: float
    first_bad_step: int


class Totals:
    """An epoch's sums, kept on the device."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(6, dtype=torch.float64, device=device)
        self._bad = torch.full((), -1, dtype=torch.int64, device=device)
        self._zero = torch.zeros((), dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, passes: Passes, labels: Tensor, step: int) -> None:
        weight, act = (passes.penalties.get(kind, self._zero) for kind in ("weight", "act"))
        row = torch.stack([t.double() for t in (passes.loss, passes.task_loss, weight, act)])
        self._sums[:4] += row * labels.numel()
        self._sums[4] += (passes.logits.argmax(1) == labels).sum()
        self._sums[5] += labels.numel()
        self._bad = torch.where((self._bad < 0) & ~passes.loss.isfinite(), step, self._bad)

    def read(self) -> EpochTotals:
        """The means. Waits for the device."""
        loss, task, weight, act, correct, count = self._sums.tolist()
        count = max(count, 1.0)
        return EpochTotals(loss / count, task / count, correct / count, weight / count, act / count, int(self._bad))
