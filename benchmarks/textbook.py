"""LSQ and Bin Regularization as they are usually written, to measure against: eager operators, a loop over the bins.

The same values and gradients as brsweep's, by the detach tricks of the LSQ paper's appendix and boolean masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from brsweep.quant import LSQQuantizer
from brsweep.quant.sites import Site
from brsweep.regularizers import ActivationHookManager


class TextbookLSQ(LSQQuantizer):
    """LSQ by operators of torch, each with its own backward."""

    def scaled_alpha(self, values: Tensor) -> Tensor:
        """alpha, whose gradient will be multiplied by LSQ's g."""
        scale = self.grad_scale(values)
        return (self.alpha - self.alpha * scale).detach() + self.alpha * scale

    def forward(self, values: Tensor) -> Tensor:
        alpha = self.scaled_alpha(values)
        steps = torch.clamp(values.float() / alpha, self.grid.qn, self.grid.qp)
        return ((steps.round() - steps).detach() + steps) * alpha


def loop_penalty(values: Tensor, alpha: Tensor, qn: int, qp: int) -> Tensor:
    """Eq. 5: over the bins that are not empty, (mean - level)^2 + biased variance, alpha detached."""
    alpha = alpha.detach()
    codes = torch.clamp(values.detach() / alpha, qn, qp).round()
    total = values.new_zeros(())
    for code in range(qn, qp + 1):
        inside = values[codes == code]
        if inside.numel():
            total = total + (inside.mean() - code * alpha).square() + inside.var(correction=0)
    return total


class LoopRegularization:
    """What `brsweep.training.step.train_step` asks of a regularizer, with `loop_penalty` at every low site."""

    def __init__(self, model: torch.nn.Module, kinds: tuple[str, ...]) -> None:
        self.model, self.kinds = model, kinds

    @contextmanager
    def collect(self, sites: Sequence[Site]) -> Iterator[dict[str, Tensor]]:
        self.sites = [site for site in sites if site.low and site.kind in self.kinds]
        activations: dict[str, Tensor] = {}
        with ActivationHookManager(self.model) if "act" in self.kinds else nullcontext() as hooks:
            yield activations
            activations |= hooks.get_pre_quant_activations() if hooks else {}

    def penalties(self, activations: dict[str, Tensor]) -> dict[str, Tensor]:
        totals: dict[str, Tensor] = {}
        for site in self.sites:
            values = activations[site.name] if site.kind == "act" else self.model.get_submodule(site.name).weight
            quantizer = site.quantizer
            penalty = loop_penalty(values, quantizer.alpha, quantizer.grid.qn, quantizer.grid.qp)
            totals[site.kind] = totals[site.kind] + penalty if site.kind in totals else penalty
        return totals
