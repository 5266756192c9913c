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
from torch import Tensor, nn

from brsweep.errors import BrsweepError
from brsweep.kernels import ALPHA_FLOOR, NO_SUMS, fake_quantize
from brsweep.quant.grid import Grid

if TYPE_CHECKING:
    from brsweep.quant.sites import Tap

COUNTS = ("tensor", "sample")


class LSQQuantizer(nn.Module):
    """Values of any shape -> fake-quantized values of the same shape and dtype, in training and in evaluation alike.

    bits, signed: the grid. LSQ divides by sqrt(Qp), so signed grids need 2 bits or more.
    per_channel: one step size per channel along `axis`; `channels` says how many.
    count: what N in the gradient scale counts. "tensor": all values (for weights, the paper's number of weights; per
        channel, those of one channel). "sample": the values of one sample, dimension 0 being the batch: the paper says
        "features in a layer", and counting the batch as well would tie alpha's learning rate to the batch size.

    `alpha` is a parameter of shape [] or [channels], in the unit of the values, and NaN until `init_from` or a loaded
    state sets it; `forward` before that raises. `forward` changes no state. What quantizes is max(alpha, ALPHA_FLOOR).
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
        super().__init__()
        self.grid = Grid(bits, signed)
        if self.grid.qp == 0:
            raise BrsweepError(
                "LSQ has no signed 1-bit grid: its Qp is 0, and LSQ divides by sqrt(Qp); use 2 bits or more"
            )
        if count not in COUNTS:
            raise BrsweepError(f"count={count!r}: choose one of {', '.join(COUNTS)}")
        self.per_channel, self.axis, self.count = per_channel, axis, count
        self.alpha = nn.Parameter(torch.full((channels,) if per_channel else (), math.nan))
        self.initialised = False
        self.tap: Tap | None = None  # set by `collect` while it is open

    @torch.no_grad()
    def init_from(self, values: Tensor) -> None:
        """Set alpha to 2 * mean|v| / sqrt(Qp), per channel where asked; where all values are zero, to the floor."""
        if values.numel() == 0 or not torch.isfinite(values).all():
            raise BrsweepError("LSQQuantizer.init_from: the values are empty or not finite, so they set no step size")
        magnitude = values.detach().abs().to(torch.float64)
        if self.per_channel:
            magnitude = magnitude.movedim(self.axis, 0).flatten(1).mean(1)
            if magnitude.shape != self.alpha.shape:
                raise BrsweepError(
                    f"LSQQuantizer.init_from: {magnitude.numel()} channels along axis {self.axis}, "
                    f"made for {self.alpha.numel()}"
                )
        else:
            magnitude = magnitude.mean()
        self.alpha.copy_((2 * magnitude / math.sqrt(self.grid.qp)).clamp(min=ALPHA_FLOOR))
        self.initialised = True

    def grad_scale(self, values: Tensor) -> float:
        """LSQ's g = 1 / sqrt(N * Qp) for a tensor of this shape."""
        n = values.numel()
        if self.count == "sample" and values.dim():
            n //= max(values.shape[0], 1)
        if self.per_channel:
            n //= values.shape[self.axis]
        return 1.0 / math.sqrt(max(n, 1) * self.grid.qp)

    def forward(self, values: Tensor, ceiling: float | None = None) -> Tensor:
        """ceiling: a ReLU with this clip (`math.inf`: with none) before, in the same pass."""
        if not self.initialised:
            raise BrsweepError(
                "LSQQuantizer: alpha has no value yet; call init_from(values), or calibrate(model, batches) for a "
                "whole network, or load a state that has it"
            )
        grid, scale, tap = self.grid, self.grad_scale(values), self.tap
        quantized, sums = fake_quantize(
            values,
            self.alpha,
            grid.qn,
            grid.qp,
            grad_scale=scale,
            axis=self.axis,
            sums=tap.request.sums if tap else NO_SUMS,
            sums_alpha_grad=tap.request.alpha_factor(scale) if tap else 0.0,
            ceiling=ceiling,
        )
        if tap:
            tap.add(self, sums)
        return quantized

    def _load_from_state_dict(self, state_dict, prefix, *rest) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        alpha = state_dict.get(prefix + "alpha")
        if alpha is not None:
            self.initialised = not bool(torch.isnan(alpha).any())

    def extra_repr(self) -> str:
        sign = "signed" if self.grid.signed else "unsigned"
        return f"bits={self.grid.bits}, {sign}" + (", per channel" if self.per_channel else "")
