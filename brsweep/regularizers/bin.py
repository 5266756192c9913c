"""Bin Regularization (Han et al., "Improving Low-Precision Network Quantization via Bin Regularization", ICCV 2021).

    L_BR = sum over non-empty bins k of (mean_k - k * alpha)^2 + var_k                         (paper, eq. 5)

over the values of one tensor, each in the bin of its code; the assignment to bins is a constant. With r = v - k * alpha
it is a closed form of three sums per bin (n, S1 = sum of r, S2 = sum of r^2), which the quantizer's own pass gives:

    biased (1/n):         S2 / n                                     which is (mean - level)^2 + variance, exactly
    unbiased (1/(n - 1)): m^2 + (S2 - n m^2) / (n - 1),  m = S1 / n;  a bin of one value has variance 0

Values beyond the range belong to the end bins, or are left out (`saturated`): the paper regularizes weights alone and
is silent on activations, where saturated values make most of the penalty. The paper says neither which variance it
means; biased is the default here.

The sum over bins and tensors grows with both, and has the unit of the values squared, so that one lambda means another
pull in every network. Taken as a mean (`reduction`) and in steps (`unit`), values that are spread evenly within their
bins cost 1/12 whatever the tensor, the network and the bits: the mean of r^2 over [-1/2, 1/2].
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from brsweep.errors import BrsweepError
from brsweep.kernels import ALL_VALUES, ALPHA_FLOOR, COUNT, INSIDE_VALUES, SQUARES, fake_quantize
from brsweep.quant.bins import VARIANCES, bin_parts
from brsweep.quant.grid import Grid

SATURATED = {"pull": ALL_VALUES, "ignore": INSIDE_VALUES}
UNITS = ("value", "step")
REDUCTIONS = ("sum", "mean")


def bin_penalty(sums: Tensor, variance: str = "biased", reduction: str = "sum") -> Tensor:
    """Eq. 5 over the bins of sums [..., 3, bins]: shape [...]. reduction: "sum" or "mean" of the bins with a value."""
    if variance == "biased":  # S2 / n by itself: the parts would first take the mean out and then put it back
        return over_bins(sums[..., SQUARES, :] / sums[..., COUNT, :].clamp(min=1), sums, reduction)
    return over_bins(torch.add(*bin_parts(sums, variance)), sums, reduction)


def over_bins(by_bin: Tensor, sums: Tensor, reduction: str) -> Tensor:
    """The sum or the mean of by_bin [..., bins] over the bins that hold a value: shape [...]."""
    total = by_bin.sum(-1)
    return total if reduction == "sum" else total / (sums[..., COUNT, :] > 0).sum(-1).clamp(min=1)


class BinRegularizer:
    """The penalty of values on one grid, for any tensor and any training loop.

    bits, signed: the grid; signed for weights, unsigned for activations.
    variance: "biased" or "unbiased".
    saturated: "pull", values with v/alpha outside [Qn, Qp] count to the end bins; "ignore", they are left out.
    unit: "value", the penalty has the unit of the values squared; "step", residuals are divided by a detached alpha,
        which makes lambda comparable between layers and bit-widths. A step size at its floor has no penalty then.
    reduction: "sum" over bins and tensors, as in the paper; "mean", over the bins that hold a value and over tensors.
    """

    def __init__(
        self,
        bits: int,
        signed: bool,
        variance: str = "biased",
        saturated: str = "pull",
        unit: str = "value",
        reduction: str = "sum",
    ) -> None:
        self.grid = Grid(bits, signed)
        check_options(variance, saturated, unit, reduction)
        self.variance, self.saturated, self.unit, self.reduction = variance, saturated, unit, reduction

    def compute_bin_loss(self, values: Tensor, alpha: Tensor, backprop_to_alpha: bool = False, axis: int = 0) -> Tensor:
        """The penalty of one tensor: 0-d, >= 0, in the dtype of `values`, 0 when every counted value is on its level.

        values: any shape. alpha: [] or [channels] along `axis`, per channel the penalty is the mean over channels.
        backprop_to_alpha: whether the gradient reaches alpha (the levels then move towards the values as well).
        """
        sums = self._sums(values, alpha, backprop_to_alpha, axis)
        return self.from_sums(sums, alpha).mean().to(values.dtype)

    def compute_total_loss(
        self, values_by_name: Mapping[str, Tensor], alpha_by_name: Mapping[str, Tensor], backprop_to_alpha: bool = False
    ) -> tuple[Tensor, dict[str, dict[str, Tensor]]]:
        """The sum (or mean) of the penalties of several tensors on this grid, and what it consists of.

        Returns (0-d loss, info), info[name] = {"loss", "mean", "variance"} as detached 0-d tensors in the penalty's
        unit and "count" [bins] or [channels, bins]. Raises `BrsweepError` where a name has no alpha.
        """
        missing = sorted(set(values_by_name) - set(alpha_by_name))
        if missing:
            raise BrsweepError(f"compute_total_loss: no alpha for {', '.join(missing)}")
        if not values_by_name:
            return torch.zeros(()), {}
        losses, info = [], {}
        for name, values in values_by_name.items():
            alpha = alpha_by_name[name]
            sums = self._sums(values, alpha, backprop_to_alpha, 0)
            losses.append(self.from_sums(sums, alpha).mean().to(values.dtype))
            by_bin = bin_parts(sums.detach(), self.variance)
            mean, variance = (over_bins(part, sums, self.reduction) / self._unit(alpha) for part in by_bin)
            parts = {"loss": losses[-1].detach(), "mean": mean.mean(), "variance": variance.mean()}
            info[name] = parts | {"count": sums.detach()[..., COUNT, :]}
        total = torch.stack(losses)
        return total.sum() if self.reduction == "sum" else total.mean(), info

    def from_sums(self, sums: Tensor, alpha: Tensor) -> Tensor:
        """The penalty from a quantizer's sums [..., 3, bins] and its alpha [...]: shape [...]."""
        penalty = bin_penalty(sums, self.variance, self.reduction)
        if self.unit == "step":  # 0 where alpha is at its floor: values are no number of steps there, but millions
            penalty = torch.where(alpha.detach() > ALPHA_FLOOR, penalty, 0.0)
        return penalty / self._unit(alpha)

    def _sums(self, values: Tensor, alpha: Tensor, backprop_to_alpha: bool, axis: int) -> Tensor:
        _, sums = fake_quantize(
            values,
            alpha,
            self.grid.qn,
            self.grid.qp,
            grad_scale=1.0,
            axis=axis,
            sums=SATURATED[self.saturated],
            sums_alpha_grad=1.0 if backprop_to_alpha else 0.0,
        )
        return sums

    def _unit(self, alpha: Tensor) -> Tensor | float:
        return 1.0 if self.unit == "value" else alpha.detach().clamp(min=ALPHA_FLOOR).double() ** 2


def check_options(variance: str, saturated: str, unit: str, reduction: str) -> None:
    """Raise `BrsweepError` for an option that does not exist, listing those that do."""
    for name, value, allowed in (
        ("variance", variance, VARIANCES),
        ("saturated", saturated, tuple(SATURATED)),
        ("unit", unit, UNITS),
        ("reduction", reduction, REDUCTIONS),
    ):
        if value not in allowed:
            raise BrsweepError(f"{name}={value}: choose one of {', '.join(allowed)}")
