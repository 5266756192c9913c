"""Bin Regularization of a network in training: weights and activations, each with its own lambda.

    L = L_CE + lambda_weight * sum over weights of L_BR + lambda_act * sum over activation sites of L_BR

The paper regularizes weights; this applies the same penalty to the activations before their quantization as well, on
the unsigned grid. The bins' sums come out of the quantizers' own pass (`brsweep.quant.sites.collect`).

A regularizer that trains with brsweep is any class with the three methods of `BinRegularization`: `collect` opens what
it wants to see of a forward pass, `penalties` turns that into two numbers, `lambdas` weighs them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from brsweep.errors import BrsweepError
from brsweep.quant.grid import Grid
from brsweep.quant.sites import DETACHED, LSQ_SCALED, RAW, Seen, Site, SumRequest, collect
from brsweep.regularizers.bin import SATURATED, BinRegularizer, check_options

KINDS = ("weight", "act")


def ramp(kind: str, progress: float) -> float:
    """The share of lambda in force at `progress` in [0, 1] of the stage: 1, or rising from 0 to 1 (linear, cosine)."""
    if kind == "constant":
        return 1.0
    if kind == "linear":
        return progress
    if kind == "cosine":
        return 0.5 - 0.5 * math.cos(math.pi * progress)
    raise BrsweepError(f"reg.ramp={kind}: choose one of constant, linear, cosine")


class BinRegularization:
    """BR on the sites at the low bit-width, and on the network's ends only with `first_last`.

    lambda_weight, lambda_act: >= 0; a kind at 0 costs nothing.
    backprop_to_alpha: whether BR's gradient reaches alpha; alpha_grad_scale: as it is ("raw", sqrt(N * Qp) times
        stronger in proportion than the task's), or multiplied by LSQ's g ("lsq").
    variance: "biased" or "unbiased". ramp, saturated, unit: one option per kind, {"weight": ..., "act": ...}; see
        `ramp` and `BinRegularizer`.
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
        first_last: bool = False,
    ) -> None:
        if not (0 <= lambda_weight < math.inf and 0 <= lambda_act < math.inf):
            raise BrsweepError(
                f"lambda_weight={lambda_weight}, lambda_act={lambda_act}: a lambda is 0 or more, and finite"
            )
        if alpha_grad_scale not in (RAW, LSQ_SCALED):
            raise BrsweepError(f"reg.alpha_grad_scale={alpha_grad_scale}: choose one of {RAW}, {LSQ_SCALED}")
        self.strength = {"weight": lambda_weight, "act": lambda_act}
        self.alpha_grad = alpha_grad_scale if backprop_to_alpha else DETACHED
        self.variance, self.first_last = variance, first_last
        self.ramp = _by_kind("ramp", ramp, "constant")
        self.saturated = _by_kind("saturated", saturated, "pull")
        self.unit = _by_kind("unit", unit, "value")
        for kind in KINDS:
            check_options(variance, self.saturated[kind], self.unit[kind])
        self._by_grid: dict[tuple[str, Grid], BinRegularizer] = {}
        self.lambdas(0.0)  # refuses an unknown ramp

    def collect(self, sites: Sequence[Site]) -> AbstractContextManager[Mapping[str, Seen]]:
        """Have the quantizers give their sums for the forward passes inside the `with`."""
        requests = {
            kind: SumRequest(SATURATED[self.saturated[kind]], self.alpha_grad) if self.strength[kind] else None
            for kind in KINDS
        }
        wanted = [site for site in sites if site.low or self.first_last]
        return collect(wanted, weights=requests["weight"], activations=requests["act"])

    def penalties(self, seen: Mapping[str, Seen]) -> dict[str, Tensor]:
        """The penalty of the weights and of the activations: 0-d float64 tensors, before lambda; no host sync.

        A kind that was not collected is absent.
        """
        groups: dict[tuple[str, Grid, torch.Size], list[Seen]] = {}
        for entry in seen.values():
            groups.setdefault((entry.site.kind, entry.grid, entry.sums.shape), []).append(entry)
        totals: dict[str, list[Tensor]] = {}
        for (kind, grid, _), entries in groups.items():
            sums = torch.stack([entry.sums for entry in entries])
            alpha = torch.stack([entry.alpha.detach() for entry in entries])
            by_site = self._regularizer(kind, grid).from_sums(sums, alpha).view(len(entries), -1).mean(1)
            totals.setdefault(kind, []).append(by_site.sum())
        return {kind: torch.stack(parts).sum() for kind, parts in totals.items()}

    def lambdas(self, progress: float) -> dict[str, float]:
        """Each kind's lambda at `progress` in [0, 1] of the regularized stage."""
        return {kind: self.strength[kind] * ramp(self.ramp[kind], progress) for kind in KINDS}

    def _regularizer(self, kind: str, grid: Grid) -> BinRegularizer:
        if (kind, grid) not in self._by_grid:
            options = (self.variance, self.saturated[kind], self.unit[kind])
            self._by_grid[kind, grid] = BinRegularizer(grid.bits, grid.signed, *options)
        return self._by_grid[kind, grid]


def _by_kind(option: str, chosen: Mapping[str, str] | None, otherwise: str) -> dict[str, str]:
    """The option for each kind, `otherwise` where it is not chosen."""
    unknown = sorted(set(chosen or {}) - set(KINDS))
    if unknown:
        raise BrsweepError(f"reg.{option} sets {unknown}: choose from {', '.join(KINDS)}")
    return dict.fromkeys(KINDS, otherwise) | dict(chosen or {})
