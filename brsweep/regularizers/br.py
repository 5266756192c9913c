"""Bin Regularization of a network in training: weights and activations, each with its own lambda.

    L = L_CE + lambda_weight * sum over weights of L_BR + lambda_act * sum over activation sites of L_BR

(or the mean over sites, where `reduction` says so).

The paper regularizes weights; this applies the same penalty to the activations before their quantization as well, on
the unsigned grid. The bins' sums come out of the quantizers' own pass (`brsweep.quant.sites.collect`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from brsweep.errors import BrsweepError
from brsweep.quant.grid import Grid
from brsweep.quant.sites import DETACHED, LSQ_SCALED, RAW, Collected, SumRequest
from brsweep.regularizers.bin import SATURATED, BinRegularizer, check_options
from brsweep.regularizers.regularizer import KINDS, Regularizer, by_kind


class BinRegularization(Regularizer):
    """BR on the sites at the low bit-width, and on the network's ends only with `first_last`.

    lambda_weight, lambda_act: >= 0; a kind at 0 costs nothing.
    backprop_to_alpha: whether BR's gradient reaches alpha; alpha_grad_scale: as it is ("raw", sqrt(N * Qp) times
        stronger in proportion than the task's), or multiplied by LSQ's g ("lsq").
    variance: "biased" or "unbiased". ramp, saturated, unit, reduction: one option per kind, {"weight": ..., "act":
        ...}; see `Regularizer` and `BinRegularizer`. A mean is over bins and over the sites of the kind.
    scale: what both penalties are multiplied by, so that a lambda of 1 is a fair first try in their form.
    """

    def __init__(
        self,
        lambda_weight: float = 1.0,
        lambda_act: float = 1.0,
        backprop_to_alpha: bool = False,
        alpha_grad_scale: str = RAW,
        variance: str = "biased",
        ramp: Mapping[str, str] | None = None,
        saturated: Mapping[str, str] | None = None,
        unit: Mapping[str, str] | None = None,
        reduction: Mapping[str, str] | None = None,
        first_last: bool = False,
        scale: float = 1.0,
    ) -> None:
        super().__init__(lambda_weight, lambda_act, ramp, first_last)
        if not 0 < scale < math.inf:
            raise BrsweepError(f"reg.scale={scale}: the unit of both lambdas is above 0, and finite")
        self.scale = scale
        if alpha_grad_scale not in (RAW, LSQ_SCALED):
            raise BrsweepError(f"reg.alpha_grad_scale={alpha_grad_scale}: choose one of {RAW}, {LSQ_SCALED}")
        self.alpha_grad = alpha_grad_scale if backprop_to_alpha else DETACHED
        self.variance = variance
        self.saturated = by_kind("saturated", saturated, "pull")
        self.unit = by_kind("unit", unit, "value")
        self.reduction = by_kind("reduction", reduction, "sum")
        for kind in KINDS:
            check_options(variance, self.saturated[kind], self.unit[kind], self.reduction[kind])
        self._by_grid: dict[tuple[str, Grid], BinRegularizer] = {}

    def request(self, kind: str) -> SumRequest:
        return SumRequest(SATURATED[self.saturated[kind]], self.alpha_grad)

    def penalty(self, collected: Collected) -> Tensor:
        """L_BR of one site; per channel the mean over channels."""
        regularizer = self._regularizer(collected.site.kind, collected.grid)
        return self.scale * regularizer.from_sums(collected.sums, collected.alpha.detach()).mean()

    def penalties(self, collected: Mapping[str, Collected]) -> dict[str, Tensor]:
        """The sum or the mean over the sites of each kind; sites of equal grid and shape in one go."""
        groups: dict[tuple[str, Grid, torch.Size], list[Collected]] = {}
        for entry in collected.values():
            groups.setdefault((entry.site.kind, entry.grid, entry.sums.shape), []).append(entry)
        totals: dict[str, list[Tensor]] = {}
        for (kind, grid, _), entries in groups.items():
            sums = torch.stack([entry.sums for entry in entries])
            alpha = torch.stack([entry.alpha.detach() for entry in entries])
            by_site = self._regularizer(kind, grid).from_sums(sums, alpha).view(len(entries), -1).mean(1)
            totals.setdefault(kind, []).append(by_site.sum())
        sites = Counter(entry.site.kind for entry in collected.values())
        over = {kind: 1 if self.reduction[kind] == "sum" else sites[kind] for kind in totals}
        return {kind: self.scale * torch.stack(parts).sum() / over[kind] for kind, parts in totals.items()}

    def _regularizer(self, kind: str, grid: Grid) -> BinRegularizer:
        if (kind, grid) not in self._by_grid:
            options = (self.variance, self.saturated[kind], self.unit[kind], self.reduction[kind])
            self._by_grid[kind, grid] = BinRegularizer(grid.bits, grid.signed, *options)
        return self._by_grid[kind, grid]
