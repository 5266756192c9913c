"""Weights that move as fast as their codes may change (Lee et al., "Scheduling Weight Transitions for
Quantization-Aware Training", ICCV 2025, arXiv 2404.19248, section 4.2).

A small learning rate need not mean small changes: latent weights gather at the borders between codes, where any update
turns many of them over. So not the learning rate of the weights is scheduled but the share of their codes that changes
in a step, and the rate follows. Before each update, with k the share of codes that the update before has changed (5):

    K <- m K + (1 - m) k                   the running transition rate                             eq. 10
    U <- max(0, U + eta (R - K))           the transition-adaptive learning rate                    eq. 11
    w <- w - U g                           g: what the optimizer would subtract at a rate of 1      eq. 12

R is `factor` sqrt(bits of the weights), times the share of the learning rate that its schedule has in force: where that
rises at first, R does. U starts at the first step's learning rate; eta is `gain` times the base rate. The paper's
section 4.2 leaves open where U starts, eta and sqrt(bits); they, m = 0.99 and factor = 0.005 are what summaries of its
supplement give, with a gain of 1, and its trainings take some 80,000 steps. In a hundredth of those U goes a hundredth
as far, and K no longer follows R: a short training wants a gain that much larger.

The paper trains step sizes of activations alone: with one of weights that moves, codes change though no weight does. It
writes K and U for a single layer; here one of each serves all layers, as one learning rate does. The optimizer takes
its step at its base rate, and the share U / base rate of that way is gone, which is eq. 12 for each optimizer whose
update is proportional to its rate. Nothing waits for the device. Weights at the ends, biases, norms and step sizes keep
the learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from brsweep.errors import BrsweepError
from brsweep.quant.quantizer import Quantizer
from brsweep.quant.sites import Site
from brsweep.training.freezing import low_weights
from brsweep.training.optim import check_partition

KEY = "transition_rate.factor"
LATENT = "latent"
"""The optimizer's group of the weights that follow U."""
PROPORTIONAL = ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop")
"""Of torch.optim: those whose update is proportional to their learning rate."""


class TransitionRate:
    """Moves the weights at the low bit-width among `sites` of `model` by U in each `step`, which takes the place of the
    optimizer's, and everything else as the optimizer does.

    factor, gain: as above. momentum: m. The weights get a group of their own in the optimizer, so make this before the
    optimizer's state is loaded. Raises `BrsweepError` as `moved` does.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Iterable[Site],
        optimizer: torch.optim.Optimizer,
        factor: float,
        momentum: float,
        gain: float,
    ) -> None:
        self.optimizer, self.momentum = optimizer, momentum
        self.moved = moved(model, sites)
        _split(optimizer, [weight for weight, _ in self.moved])
        check_partition(optimizer, model)
        self.base_rate = _group(optimizer)["initial_lr"]
        self.eta = gain * self.base_rate
        self.target = self.first_target = factor * _root_bits(self.moved)
        device = self.moved[0][0].device
        self.running = torch.zeros((), dtype=torch.float64, device=device)
        self.rate = torch.zeros((), dtype=torch.float64, device=device)
        self.begun = False
        self.codes = [quantizer.codes(weight) for weight, quantizer in self.moved]

    @torch.no_grad()
    def step(self) -> None:
        """Eq. 10 and 11, the optimizer's step, and eq. 12."""
        group = _group(self.optimizer)
        scheduled, group["lr"] = group["lr"], self.base_rate
        self.target = self.first_target * scheduled / self.base_rate
        self._follow(scheduled)
        before = [weight.clone() for weight, _ in self.moved]
        self.optimizer.step()
        way = self.rate / self.base_rate
        for (weight, _), old in zip(self.moved, before, strict=True):
            weight.copy_(old.lerp(weight, way.to(old.dtype)))
        group["lr"] = scheduled

    def _follow(self, scheduled: float) -> None:
        if not self.begun:
            self.rate.fill_(scheduled)
            self.begun = True
        codes = [quantizer.codes(weight) for weight, quantizer in self.moved]
        changed = sum((now != then).sum() for now, then in zip(codes, self.codes, strict=True))
        share = changed.double() / sum(then.numel() for then in codes)
        self.running.mul_(self.momentum).add_((1 - self.momentum) * share)
        self.rate.add_(self.eta * (self.target - self.running)).clamp_(min=0)
        self.codes = codes

    def record(self) -> dict[str, float]:
        """R, K and U of the last step, for an epoch's record. Waits for the device."""
        names = ("transition_target", "transition_rate", "transition_lr")
        return dict(zip(names, (self.target, float(self.running), float(self.rate)), strict=True))

    def state_dict(self) -> dict[str, Any]:
        state = {"running": self.running.clone(), "rate": self.rate.clone(), "codes": list(self.codes)}
        return state | {"begun": self.begun}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.running.copy_(state["running"])
        self.rate.copy_(state["rate"])
        self.codes = [then.to(now) for then, now in zip(state["codes"], self.codes, strict=True)]
        self.begun = state["begun"]


def moved(model: nn.Module, sites: Iterable[Site]) -> list[tuple[nn.Parameter, Quantizer]]:
    """The trained weights at the low bit-width, each once, with its quantizer; of one that layers share, the first's.
    Raises `BrsweepError` where there are none, or one's quantizer has no levels that stand still."""
    found: dict[int, tuple[nn.Parameter, Quantizer]] = {}
    for site in low_weights(sites, KEY):
        weight = model.get_submodule(site.name).weight
        if weight.requires_grad:
            found.setdefault(id(weight), (weight, site.quantizer))
    if not found:
        raise BrsweepError(f"{KEY}: no weight at the low bit-width trains, so it would do nothing; take 0")
    return list(found.values())


def check_transitions(model: nn.Module, sites: Iterable[Site], lr: float, factor: float) -> None:
    """Raise `BrsweepError` unless there are weights that can follow, a learning rate for them to start from, and a
    target that can be reached."""
    target = factor * _root_bits(moved(model, sites))
    if not lr:
        raise BrsweepError(
            f"{KEY}: the weights' rate starts at qat_optimizer.lr and changes in proportion to it, so at 0 they would "
            f"never move; give one above 0"
        )
    if target >= 1:
        raise BrsweepError(f"{KEY}={factor}: {target:.3g} of the codes can't change in a step; take a smaller factor")


def hold_step_sizes(sites: Iterable[Site]) -> int:
    """Let the step sizes of weights at the low bit-width stand still; returns of how many layers. Call it before their
    optimizer is made."""
    held = low_weights(sites, KEY)
    for site in held:
        for parameter in site.quantizer.level_parameters():
            parameter.requires_grad_(False)
    return len(held)


def other_optimizer_line(optimizer: torch.optim.Optimizer) -> str | None:
    """One line for an optimizer that is not known to move in proportion to its rate; else None."""
    kind = type(optimizer)
    if any(kind is getattr(torch.optim, name) for name in PROPORTIONAL):
        return None
    return (
        f"transition_rate: {kind.__name__} is not known to move weights in proportion to its learning rate; the rates "
        f"told are then shares of its own steps"
    )


def _root_bits(moved: Iterable[tuple[Tensor, Quantizer]]) -> float:
    """sqrt(bits), the mean over weights where layers have bits of their own."""
    counted = [(weight.numel(), math.sqrt(quantizer.grid.bits)) for weight, quantizer in moved]
    return sum(count * root for count, root in counted) / sum(count for count, _ in counted)


def _split(optimizer: torch.optim.Optimizer, weights: Iterable[Tensor]) -> None:
    """Move `weights` from the group "weights" into one of their own, behind it or in its place."""
    groups, latent = optimizer.param_groups, {id(weight) for weight in weights}
    place = next(i for i, group in enumerate(groups) if group["name"] == "weights")
    every = groups[place]["params"]
    groups.insert(place + 1, {**groups[place], "name": LATENT, "params": [w for w in every if id(w) in latent]})
    groups[place]["params"] = [w for w in every if id(w) not in latent]
    if not groups[place]["params"]:
        del groups[place]


def _group(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return next(group for group in optimizer.param_groups if group["name"] == LATENT)
