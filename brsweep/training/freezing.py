"""Weights that oscillate are frozen, one by one, while the others train on (Nagel et al., "Overcoming Oscillations in
Quantization-Aware Training", ICML 2022, section 5.2 and algorithm 1).

After each update, with the code of a weight now and one step before:

    o = 1 where the code moved, and against its last move;  f <- m o + (1 - m) f;  e <- m code + (1 - m) e
    frozen from here on where f > f_th, at the code round(e)

f_th falls as a cosine from `threshold` to `threshold_end`. As in the paper nothing freezes in the first quarter of the
training; the paper trains from a quantized network that has settled, so here that is the stage behind the warm-up. The
two averages begin anew with the stage, e at the first codes.

A frozen weight sits on its level, code * alpha, whatever the optimizer's momentum, weight decay and alpha do: it is put
back there after each update, and the network computes with that code exactly. So LSQ's gradient of alpha,
code - v/alpha, is 0 there; the paper leaves open what a frozen weight tells alpha.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from brsweep.errors import BrsweepError
from brsweep.quant.quantizer import Quantizer
from brsweep.quant.sites import Site

BEGIN = 0.25
"""The share of the stage in which nothing freezes."""


@dataclass
class _Weights:
    """Of one layer's weights, all of the weight's shape. heading: the sign of the last move, 0 before the first."""

    codes: Tensor
    heading: Tensor
    frequency: Tensor
    average: Tensor
    frozen: Tensor
    frozen_codes: Tensor


class WeightFreezing:
    """Of the weights at the low bit-width among `sites` of `model`. Nothing here waits for the device but `record`.

    threshold, threshold_end: f_th, in oscillations per step, at the stage's beginning and end. momentum: m.
    """

    def __init__(
        self, model: nn.Module, sites: Iterable[Site], threshold: float, threshold_end: float, momentum: float
    ) -> None:
        self.ends, self.momentum = (threshold, threshold_end), momentum
        found = low_weights(sites, "freeze_weights.threshold")
        self.layers = {site.name: (model.get_submodule(site.name), site.quantizer) for site in found}
        self.state = {name: _begin(*layer) for name, layer in self.layers.items()}

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Look at the codes after an update, and hold what is frozen. progress: the share of the stage that is done."""
        threshold = self.threshold(progress)
        for name, (layer, quantizer) in self.layers.items():
            of, weight = self.state[name], layer.weight
            codes = torch.where(of.frozen, of.frozen_codes, quantizer.codes(weight))
            move = (codes - of.codes).sign_()
            turned = move * of.heading < 0
            of.frequency.mul_(1 - self.momentum).add_(turned, alpha=self.momentum)
            of.average.mul_(1 - self.momentum).add_(codes, alpha=self.momentum)
            of.heading = torch.where(move == 0, of.heading, move)
            newly = (of.frequency > threshold) & ~of.frozen
            of.frozen |= newly
            of.frozen_codes = torch.where(newly, of.average.round().to(codes.dtype), of.frozen_codes)
            of.codes = torch.where(of.frozen, of.frozen_codes, codes)
            weight.copy_(torch.where(of.frozen, _values(quantizer, of.frozen_codes, weight), weight))

    def threshold(self, progress: float) -> float:
        if progress < BEGIN:
            return math.inf
        first, last = self.ends
        return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2

    def record(self) -> dict[str, float]:
        """The share of these weights that is frozen, for an epoch's record. Waits for the device."""
        frozen = torch.stack([of.frozen.sum() for of in self.state.values()]).sum()
        return {"frozen_share": int(frozen) / sum(of.frozen.numel() for of in self.state.values())}

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        return {name: dict(vars(of)) for name, of in self.state.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        for name, of in self.state.items():
            self.state[name] = _Weights(**{key: state[name][key].to(value) for key, value in vars(of).items()})


def low_weights(sites: Iterable[Site], key: str) -> list[Site]:
    """The sites of weights at the low bit-width, for what `key` asks for. Raises `BrsweepError`, naming it, where there
    are none, or one's quantizer has no levels that stand still while the weights move."""
    low = [site for site in sites if site.kind == "weight" and site.low]
    if not low:
        raise BrsweepError(f"{key}: no weight is at the low bit-width, so it would do nothing; take 0")
    for site in low:
        if not isinstance(site.quantizer, Quantizer) or site.quantizer.alpha is None:
            kind = type(site.quantizer).__name__
            raise BrsweepError(f"{key}: {site.name}: {kind} has no step size, so no levels of its own; take 0")
    return low


@torch.no_grad()
def _begin(layer: nn.Module, quantizer: Quantizer) -> _Weights:
    codes = quantizer.codes(layer.weight)
    still = torch.zeros_like(codes, dtype=torch.bool)
    return _Weights(codes, torch.zeros_like(codes), torch.zeros_like(layer.weight), codes.float(), still, codes.clone())


def _values(quantizer: Quantizer, codes: Tensor, weight: Tensor) -> Tensor:
    """The levels of `codes`, in the weight's dtype."""
    values = codes * quantizer.along_axis(quantizer.step_size, weight)
    if quantizer.offset is not None:
        values = values + quantizer.along_axis(quantizer.offset, weight)
    return values.to(weight.dtype)
