"""Oscillation dampening (Nagel et al., "Overcoming Oscillations in Quantization-Aware Training", ICML 2022).

    L_dampen = sum over layers of ||v_hat - clamp(v, Qn alpha, Qp alpha)||^2

v_hat is a constant: no gradient reaches alpha. The clamp leaves saturated weights without a pull. As in the authors'
code, the squares are averaged within a kernel, which is what one output channel holds, and added over the kernels.
Their lambda rises by a cosine from 0 to 0.1 over the last three quarters of the steps; here over the regularized
stage, which follows the warm-up.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from brsweep.quant.sites import Collected
from brsweep.regularizers.regularizer import Regularizer, refuse_activations


class Dampening(Regularizer):
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

    def penalty(self, collected: Collected) -> Tensor:
        values, quantizer = collected.values, collected.site.quantizer
        steps, grid = quantizer.scaled(values), collected.grid
        step = quantizer.along_axis(quantizer.step_size.detach(), values)
        residual = values - steps.clamp(grid.qn, grid.qp).round() * step
        if quantizer.offset is not None:
            residual = residual - quantizer.along_axis(quantizer.offset.detach(), values)
        inside = (steps >= grid.qn) & (steps <= grid.qp)
        kernels = values.shape[quantizer.axis]
        return residual.where(inside, 0).square().sum() * (kernels / values.numel())
