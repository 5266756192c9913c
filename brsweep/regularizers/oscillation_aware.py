"""Oscillation-aware bin regularization (Huang et al., "Quantization Variation: A New Perspective on Training
Transformers with Low-Bit Precision", TMLR 2024).

    L_OBR = sum over layers of (mean of (v - v_hat)^2 + sum over bins k of var_k)

Where Bin Regularization pulls each bin's mean to its level and so counts every bin alike, the first term here counts
every value alike; v_hat is a constant. A bin of fewer than two values has no variance. The paper is silent on which
variance it means: biased here, as in `brsweep.regularizers.bin`. Lambda rises by a cosine from 0.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from brsweep.kernels import COUNT, SQUARES
from brsweep.quant.bins import bin_parts
from brsweep.quant.sites import Collected, SumRequest
from brsweep.regularizers.regularizer import Regularizer, refuse_activations


class OscillationAware(Regularizer):
    """Arguments as `Regularizer`'s; of weights alone, so `lambda_act` is 0; the ramp is a cosine unless said."""

    def __init__(
        self,
        lambda_weight: float = 0.1,
        lambda_act: float = 0.0,
        ramp: Mapping[str, str] | None = None,
        first_last: bool = False,
    ) -> None:
        super().__init__(lambda_weight, lambda_act, {"weight": "cosine"} | dict(ramp or {}), first_last)
        refuse_activations(self)

    def request(self, kind: str) -> SumRequest:
        return SumRequest()

    def penalty(self, collected: Collected) -> Tensor:
        """Per channel the mean over channels."""
        sums = collected.sums
        distance = sums[..., SQUARES, :].sum(-1) / sums[..., COUNT, :].sum(-1)
        _, variance = bin_parts(sums)
        return (distance + variance.sum(-1)).mean()
