"""KURE: the kurtosis of weights pulled to that of a uniform distribution (Shkolnik et al., "Robust Quantization: One
Model to Rule Them All", NeurIPS 2020).

    Kurt[X] = E[((X - mean) / std)^4]
    L_KURE  = mean over layers of (Kurt[W] - 1.8)^2

1.8 is the kurtosis of a uniform distribution, the one that the paper finds least sensitive to the step size. It leaves
out the first convolution; here the network's ends, the last layer too, unless `first_last` says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from brsweep.quant.sites import Collected
from brsweep.regularizers.regularizer import Regularizer, refuse_activations

UNIFORM = 1.8


class KURE(Regularizer):
    """Arguments as `Regularizer`'s; of weights alone, so `lambda_act` is 0. target: the kurtosis that is wanted."""

    def __init__(
        self,
        lambda_weight: float = 1.0,
        lambda_act: float = 0.0,
        ramp: Mapping[str, str] | None = None,
        first_last: bool = False,
        target: float = UNIFORM,
    ) -> None:
        super().__init__(lambda_weight, lambda_act, ramp, first_last)
        refuse_activations(self)
        self.target = target

    def penalty(self, collected: Collected) -> Tensor:
        centred = collected.values - collected.values.mean()
        squares = centred.square()
        variance = squares.mean().clamp(min=torch.finfo(squares.dtype).tiny ** 0.5)  # weights that are all equal
        return (squares.square().mean() / variance.square() - self.target).square()

    def penalties(self, collected: Mapping[str, Collected]) -> dict[str, Tensor]:
        """The mean over the sites."""
        return {kind: total / len(collected) for kind, total in super().penalties(collected).items()}
