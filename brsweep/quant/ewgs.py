"""EWGS: gradients scaled element by element (Lee, Kim and Ham, "Network Quantization with Element-wise Gradient
Scaling", CVPR 2021).

The straight-through estimator hands a level's gradient on to every value of its bin alike. EWGS makes it larger for a
value that has to pass the level to follow the gradient, and smaller for one that is beyond it already:

    dL/dx_n = dL/dx_q * (1 + delta * sign(dL/dx_q) * (x_n - x_q))

x_n is the clipped value and x_q its level, both with the range as the unit. Here they sit on LSQ's grid: v_hat, its
range and the gradient of alpha are LSQ's, and the distance is that in steps over Qp - Qn. delta = 0 is LSQ.

The paper estimates delta from the Hessian's trace, epoch by epoch, or keeps it constant; constant here, and its value
is chosen.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from brsweep.errors import BrsweepError
from brsweep.quant.lsq import LSQQuantizer
from brsweep.quant.quantizer import at_least_float32


class EWGSQuantizer(LSQQuantizer):
    """delta: how much a value's distance to its level counts; 0 or more. Other arguments as `Quantizer`'s."""

    def __init__(
        self,
        bits: int,
        signed: bool,
        per_channel: bool = False,
        channels: int = 1,
        axis: int = 0,
        count: str = "tensor",
        delta: float = 0.2,
    ) -> None:
        super().__init__(bits, signed, per_channel, channels, axis, count)
        if not 0 <= delta < math.inf:
            raise BrsweepError(f"quant.quantizer.delta={delta}: give a number of 0 or more")
        self.delta = delta

    def forward(self, values: Tensor) -> Tensor:
        steps = self.scaled(at_least_float32(values)).clamp(self.grid.qn, self.grid.qp)
        distance = (steps - steps.round()) / (self.grid.qp - self.grid.qn)
        return super().forward(_ScaledGradient.apply(values, distance, self.delta))


class _ScaledGradient(torch.autograd.Function):
    """The values themselves; their gradient times 1 + delta * sign(gradient) * distance."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, distance: Tensor, delta: float) -> Tensor:
        ctx.save_for_backward(distance)
        ctx.delta = delta
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (distance,) = ctx.saved_tensors
        scaled = gradient * (1 + ctx.delta * gradient.sign() * distance)
        return scaled.to(gradient.dtype), None, None
