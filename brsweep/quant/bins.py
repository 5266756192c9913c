"""From a bin's sums to its mean and its variance: what penalties on bins and measurements of them share.

With r = v - level, a bin's n, S1 = sum of r and S2 = sum of r^2 give

    (mean - level)^2 = (S1 / n)^2
    variance         = S2 / n - (S1 / n)^2                 biased (1/n)
                       (S2 - S1^2 / n) / (n - 1)           unbiased; a bin of one value has variance 0
"""

from __future__ import annotations

import torch
from torch import Tensor

from brsweep.kernels import COUNT, SQUARES, SUM

VARIANCES = ("biased", "unbiased")


def bin_parts(sums: Tensor, variance: str = "biased") -> tuple[Tensor, Tensor]:
    """(mean - level)^2 and the variance for sums of shape [..., 3, bins]; both [..., bins].

    An empty bin gives 0 in both; a bin of one value has variance 0. Differentiable with respect to the sums.
    """
    n, s1, s2 = sums[..., COUNT, :], sums[..., SUM, :], sums[..., SQUARES, :]
    mean = s1 / n.clamp(min=1)
    spread = (s2 - s1 * mean).clamp(min=0)  # equal residuals may leave a negative rounding
    if variance == "biased":
        return mean * mean, spread / n.clamp(min=1)
    return mean * mean, torch.where(n > 1, spread / (n - 1).clamp(min=1), 0)
