"""LSQ+: LSQ with a learned offset for activations (Bhalgat et al., "LSQ+: Improving low-bit quantization through
learnable offsets and better initialization", CVPR Workshops 2020).

    v_hat = round(clamp((v - beta) / s, Qn, Qp)) * s + beta
    gradient of s: LSQ's, of (v - beta) / s
    gradient of beta: 0 inside the range, 1 beyond it
    init of weights: s = max(|mean - 3 std|, |mean + 3 std|) / 2^(b-1)
    init of activations: s and beta of the least mean squared error

Weights are symmetric and have no offset. The paper is silent on a gradient scale for beta, and on how the least squares
are found: beta's is LSQ's g here, and the search is that of `brsweep.quant.least_squares`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from brsweep.errors import BrsweepError
from brsweep.kernels import ALPHA_FLOOR
from brsweep.quant.least_squares import least_squares_range
from brsweep.quant.lsq import LSQQuantizer
from brsweep.quant.quantizer import at_least_float32


class LSQPlusQuantizer(LSQQuantizer):
    """Arguments as `Quantizer`'s. Unsigned grids have an `offset`, a parameter beside alpha."""

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
        if not signed:
            self.offset = nn.Parameter(torch.full_like(self.alpha.data, math.nan))

    @torch.no_grad()
    def init_from(self, values: Tensor) -> None:
        """Set alpha, and the offset of activations, as in the paper; values that are all zero give the floor, and 0."""
        if values.numel() == 0 or not torch.isfinite(values).all():
            name = type(self).__name__
            raise BrsweepError(f"{name}.init_from: the values are empty or not finite, so they set no step size")
        if self.offset is not None:
            step, offset = least_squares_range(values, self.grid)
            self.alpha.fill_(step)
            self.offset.fill_(offset)
            return
        channels = values.detach().double()
        channels = channels.movedim(self.axis, 0).flatten(1) if self.per_channel else channels.flatten()
        mean, std = channels.mean(-1), channels.std(-1, correction=0)
        widest = torch.maximum((mean - 3 * std).abs(), (mean + 3 * std).abs())
        self.alpha.copy_((widest / -self.grid.qn).clamp(min=ALPHA_FLOOR))

    def forward(self, values: Tensor) -> Tensor:
        if self.offset is None:
            return super().forward(values)
        scale = self.grad_scale(values)
        offset = self.offset * scale + (self.offset - self.offset * scale).detach()
        return (super().forward(at_least_float32(values) - offset) + offset).to(values.dtype)
