"""Weights that move as fast as their codes may change (Lee et al., "Scheduling Weight Transitions for
Quantization-Aware Training", ICCV 2025, arXiv 2404.19248, section 4.2).

A small learning rate need not mean small changes: latent weights gather at the borders between codes, where any update
turns many of them over. So not the learning rate of the weights is scheduled but the share of their codes that changes
in a step, and the rate follows. Before each update, with k the share of codes that the update before has changed:

    K <- m K + (1 - m) k                   the running transition rate                             eq. 10
    U <- max(0, U + eta (R - K))           the transition-adaptive learning rate                    eq. 11
    w <- w - U g                           g: what the optimizer would subtract at a rate of 1      eq. 12

R starts at factor * sqrt(bits of the weights) and falls to 0 with the learning rate's schedule. U starts at the
optimizer's learning rate, and eta is `gain` times that rate; 1 in the paper (both from its supplement, as others tell
it), which trains for some 80,000 steps. In a hundredth of them U goes a hundredth of that way, and K no longer follows
R: a short training wants a gain that much larger.

The paper trains step sizes of activations alone: with one of weights that moves, codes change though no weight does. It
writes K and U for a single layer; here one of each serves all layers, as one learning rate does. The optimizer takes
its step at its own rate, and U / rate of that way is gone: the same for each optimizer whose update is proportional to
its rate (SGD, Adam and AdamW are such), and nothing waits for the device. Weights at the ends, biases, norms and
step sizes keep the learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from brsweep.errors import BrsweepError
from brsweep.quant.sites import Site
from brsweep.training.freezing import low_weights

LATENT = "latent"
"""The optimizer's group of the weights that follow U."""


class TransitionRate:
    """Makes `optimizer` move the weights at the low bit-width among `sites` of `model` by U, from its next step on.

    factor: R at the beginning, over the square root of `bits`, the weights' bit-width. momentum: m. gain: eta over the
    learning rate.
    The weights get a group of their own in the optimizer, so make this before its state is loaded.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Iterable[Site],
        optimizer: torch.optim.Optimizer,
        bits: int,
        factor: float,
        momentum: float,
        gain: float,
    ) -> None:
        found = low_weights(sites, "transition_rate.factor")
        self.layers = [(model.get_submodule(site.name), site.quantizer) for site in found]
        self.first_target, self.momentum = factor * math.sqrt(bits), momentum
        _split(optimizer, [layer.weight for layer, _ in self.layers])
        self.first_rate = _group(optimizer)["initial_lr"]
        self.eta = gain * self.first_rate
        device = self.layers[0][0].weight.device
        self.running = torch.zeros((), dtype=torch.float64, device=device)
        self.rate = torch.full((), self.first_rate, dtype=torch.float64, device=device)
        self.codes = [quantizer.codes(layer.weight) for layer, quantizer in self.layers]
        self._before: list[Tensor] = []
        self._scheduled, self.target = self.first_rate, self.first_target
        optimizer.register_step_pre_hook(self._before_step)
        optimizer.register_step_post_hook(self._after_step)

    @torch.no_grad()
    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        group = _group(optimizer)
        self._scheduled, group["lr"] = group["lr"], self.first_rate
        codes = [quantizer.codes(layer.weight) for layer, quantizer in self.layers]
        changed = sum((now != then).sum() for now, then in zip(codes, self.codes, strict=True))
        share = changed.double() / sum(then.numel() for then in codes)
        self.target = self.first_target * self._scheduled / self.first_rate
        self.running.mul_(self.momentum).add_((1 - self.momentum) * share)
        self.rate.add_(self.eta * (self.target - self.running)).clamp_(min=0)
        self.codes, self._before = codes, [layer.weight.clone() for layer, _ in self.layers]

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        way = self.rate / self.first_rate
        for (layer, _), before in zip(self.layers, self._before, strict=True):
            layer.weight.copy_(before.lerp(layer.weight, way.to(before.dtype)))
        self._before = []
        _group(optimizer)["lr"] = self._scheduled

    def record(self) -> dict[str, float]:
        """R, K and U of the last step, for an epoch's record. Waits for the device."""
        names = ("transition_target", "transition_rate", "transition_lr")
        return dict(zip(names, (self.target, float(self.running), float(self.rate)), strict=True))

    def state_dict(self) -> dict[str, Any]:
        return {"running": self.running.clone(), "rate": self.rate.clone(), "codes": list(self.codes)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.running.copy_(state["running"])
        self.rate.copy_(state["rate"])
        self.codes = [then.to(now) for then, now in zip(state["codes"], self.codes, strict=True)]


def check_transitions(sites: Iterable[Site], lr: float) -> None:
    """Raise `BrsweepError` unless there are weights at the low bit-width whose quantizers have step sizes, and a
    learning rate for them to start from."""
    low_weights(sites, "transition_rate.factor")
    if not lr:
        raise BrsweepError("transition_rate.factor: qat_optimizer.lr=0 is where the rate starts and what moves it")


def hold_step_sizes(sites: Iterable[Site]) -> int:
    """Let the step sizes of weights at the low bit-width stand still; how many quantizers that are. Call it before
    their optimizer is made."""
    held = low_weights(sites, "transition_rate.factor")
    for site in held:
        for parameter in site.quantizer.level_parameters():
            parameter.requires_grad_(False)
    return len(held)


def _split(optimizer: torch.optim.Optimizer, weights: Sequence[Tensor]) -> None:
    """Move `weights` from the group "weights" into one of their own, in its place or behind it."""
    groups, latent = optimizer.param_groups, {id(weight) for weight in weights}
    place = next(i for i, group in enumerate(groups) if group["name"] == "weights")
    rest = [weight for weight in groups[place]["params"] if id(weight) not in latent]
    groups.insert(place + 1, {**groups[place], "name": LATENT, "params": list(weights)})
    groups[place]["params"] = rest
    if not rest:
        del groups[place]


def _group(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return next(group for group in optimizer.param_groups if group["name"] == LATENT)
