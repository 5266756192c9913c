"""PACT for activations, DoReFa for weights: the usual baseline.

Activations (Choi et al., "PACT: Parameterized Clipping Activation for Quantized Neural Networks", 2018), c learned:

    y = clamp(v, 0, c),  v_hat = round(y * (2^k - 1) / c) * c / (2^k - 1)            (paper, eqs. 1 and 2)
    dv_hat/dc = 1 where v >= c, else 0;  dv_hat/dv = 1 where v < c, else 0           (eq. 3)

The step size is alpha = c / (2^k - 1). Its gradient is c's over 2^k - 1, so that c moves under SGD as if it were the
parameter itself. The paper decays c as it does weights: `qat_optimizer.alpha_weight_decay`. It starts c at a constant;
here c is that of the least squared error on the calibration batches, since a trained float network comes before.

Weights (Zhou et al., "DoReFa-Net", 2016, eq. 9, with more than one bit):

    w_hat = 2 * round((2^k - 1) * (tanh w / (2 max|tanh w|) + 1/2)) / (2^k - 1) - 1

straight through the rounding. That fills [-1, 1] whatever w was; here it is multiplied by a constant that gives the
first w_hat the standard deviation of w, so that a float network's batch norms keep their meaning (chosen). The levels
are even in tanh w and not in w, so weights have no step size and no bins.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from brsweep.errors import BrsweepError
from brsweep.kernels import ALPHA_FLOOR
from brsweep.quant.least_squares import least_squares_range
from brsweep.quant.quantizer import Quantizer, at_least_float32


class PACTQuantizer(Quantizer):
    """PACT on unsigned grids, DoReFa on signed ones. Arguments as `Quantizer`'s; per channel is refused."""

    def __init__(
        self,
        bits: int,
        signed: bool,
        per_channel: bool = False,
        channels: int = 1,
        axis: int = 0,
        count: str = "tensor",
    ) -> None:
        super().__init__(bits, signed, per_channel, channels, axis, count)
        if per_channel:
            raise BrsweepError("quant.per_channel=true: DoReFa has one range per tensor; take per_channel=false")
        if signed:
            if bits == 1:
                raise BrsweepError("weight_bits=1: this is DoReFa with more than one bit; take 2 or more")
            self.alpha = None
            self.register_buffer("scale", torch.tensor(math.nan))

    @torch.no_grad()
    def init_from(self, values: Tensor) -> None:
        """Set the clip of the least squared error, or the scale of the weights; where all are zero, to the floor."""
        if values.numel() == 0 or not torch.isfinite(values).all():
            name = type(self).__name__
            raise BrsweepError(f"{name}.init_from: the values are empty or not finite, so they set no range")
        if self.grid.signed:
            unscaled = _dorefa(values.double(), self.grid.bins - 1).std(correction=0)
            self.scale.copy_(values.double().std(correction=0) / unscaled.clamp(min=ALPHA_FLOOR))
        else:
            self.alpha.fill_(least_squares_range(values, self.grid)[0])

    def forward(self, values: Tensor) -> Tensor:
        if self.grid.signed:
            return (_dorefa(at_least_float32(values), self.grid.bins - 1) * self.scale).to(values.dtype)
        step, qp = self.step_size, self.grid.qp
        clip = _scaled_gradient(step, 1 / qp**2) * qp
        inside = at_least_float32(values).clamp(min=0)
        clipped = torch.where(inside < clip, inside, clip)
        return (clipped + ((clipped / step).round() * step - clipped).detach()).to(values.dtype)


def _dorefa(weight: Tensor, steps: int) -> Tensor:
    """In [-1, 1]; a weight that is all zero stays in the middle."""
    squashed = weight.tanh()
    unit = squashed / (2 * squashed.abs().max()).clamp(min=ALPHA_FLOOR) + 0.5
    return 2 * (unit + ((unit * steps).round() / steps - unit).detach()) - 1


def _scaled_gradient(value: Tensor, factor: float) -> Tensor:
    return value * factor + (value - value * factor).detach()
