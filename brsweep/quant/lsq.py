"""LSQ: fake quantization with a learned step size (Esser et al., "Learned Step Size Quantization", ICLR 2020).

    v_hat = round(clamp(v / alpha, Qn, Qp)) * alpha                                   (paper, eqs. 1 and 2)
    gradient of alpha: eq. 3, multiplied by g = 1 / sqrt(N * Qp)                      (section 2.2)
    init: alpha = 2 * mean|v| / sqrt(Qp)                                              (section 2.1)

Both g and the init use Qp, never max(|Qn|, Qp): at 2 signed bits that mistake is a factor of sqrt(2) in each.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from brsweep.errors import BrsweepError
from brsweep.kernels import ALPHA_FLOOR, NO_SUMS, fake_quantize
from brsweep.quant.quantizer import Quantizer

if TYPE_CHECKING:
    from brsweep.quant.sites import SumRequest


class LSQQuantizer(Quantizer):
    """Arguments as `Quantizer`'s. LSQ divides by sqrt(Qp), so signed grids need 2 bits or more.

    What quantizes is max(alpha, ALPHA_FLOOR), with the gradient passed through.
    """

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
        if self.grid.qp == 0:
            raise BrsweepError(
                "LSQ has no signed 1-bit grid: its Qp is 0, and LSQ divides by sqrt(Qp); use 2 bits or more"
            )

    @torch.no_grad()
    def init_from(self, values: Tensor) -> None:
        """Set alpha to 2 * mean|v| / sqrt(Qp), per channel where asked; where all values are zero, to the floor."""
        name = type(self).__name__
        if values.numel() == 0 or not torch.isfinite(values).all():
            raise BrsweepError(f"{name}.init_from: the values are empty or not finite, so they set no step size")
        magnitude = values.detach().abs().to(torch.float64)
        if self.per_channel:
            magnitude = magnitude.movedim(self.axis, 0).flatten(1).mean(1)
            if magnitude.shape != self.alpha.shape:
                raise BrsweepError(
                    f"{name}.init_from: {magnitude.numel()} channels along axis {self.axis}, "
                    f"made for {self.alpha.numel()}"
                )
        else:
            magnitude = magnitude.mean()
        self.alpha.copy_((2 * magnitude / math.sqrt(self.grid.qp)).clamp(min=ALPHA_FLOOR))

    def forward(self, values: Tensor) -> Tensor:
        return self.fused_forward(values)[0]

    def fused_forward(
        self, values: Tensor, ceiling: float | None = None, request: SumRequest | None = None
    ) -> tuple[Tensor, Tensor | None]:
        scale = self.grad_scale(values)
        return fake_quantize(
            values,
            self.alpha,
            self.grid.qn,
            self.grid.qp,
            grad_scale=scale,
            axis=self.axis,
            sums=NO_SUMS if request is None else request.sums,
            sums_alpha_grad=0.0 if request is None else request.alpha_factor(scale),
            ceiling=ceiling,
        )
