"""What a quantizer is: an abstract module, so that whoever tries a new one writes its numerics and nothing else.

    class Mine(Quantizer):
        def init_from(self, values):              # the step size, from the values that it will meet
            self.alpha.data.fill_(values.abs().mean() / self.grid.qp)

        def forward(self, values):                # values -> fake-quantized values of the same shape and dtype
            ...

Everything around it is here: calibration, Bin Regularization, freezing, optimizer groups, measurements and snapshots
see a quantizer through its grid, its step size `alpha` and, where it has one, its `offset`. Bin sums are computed
beside the numerics from these, unless the quantizer gives them from its own pass (`fused_forward`).

A subclass of a finished quantizer that writes another `forward`, the usual way to try an estimator, gets all of it too:
its parent's fused pass is that of the parent's numerics, and is no longer used.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from brsweep.errors import BrsweepError
from brsweep.kernels import ALPHA_FLOOR, fake_quantize
from brsweep.quant.grid import Grid

if TYPE_CHECKING:
    from brsweep.quant.sites import SiteCollector, SumRequest

COUNTS = ("tensor", "sample")


class Quantizer(nn.Module, ABC):
    """Values of any shape -> fake-quantized values of the same shape and dtype, in training and in evaluation alike.

    To write: `init_from` and `forward`. `forward` changes no state; it sees values after the ReLU and its clip. Let it
    use `step_size`, which no training loop can make zero or negative.

    bits, signed: the grid; signed for weights, unsigned for activations behind a ReLU.
    per_channel: one step size per channel along `axis`; `channels` says how many.
    count: what N in LSQ's gradient scale counts; see `grad_scale`.

    Weights' quantizers are made with bits, signed, per_channel, channels and axis, activations' with bits, signed and
    count, all by name, and with the arguments of the YAML.

    alpha: the step size, a parameter of shape [] or [channels], in the unit of the values, and NaN until `init_from` or
        a loaded state sets it; a call before that raises `BrsweepError`. A quantizer without a step size sets it to
        None in its constructor: it trains, and regularizers that need levels refuse it.
    offset: None, or the value of code 0, a parameter shaped as alpha: level = code * alpha + offset.
    """

    fused: ClassVar[bool] = False
    """Whether `fused_forward` does what `forward` does; kept by the class itself."""

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
        if count not in COUNTS:
            raise BrsweepError(f"count={count!r}: choose one of {', '.join(COUNTS)}")
        self.per_channel, self.axis, self.count = per_channel, axis, count
        self.alpha: nn.Parameter | None = nn.Parameter(torch.full((channels,) if per_channel else (), math.nan))
        self.register_parameter("offset", None)
        self.collector: SiteCollector | None = None  # set by `collect` while it is open
        self._has_alpha = False

    def __init_subclass__(cls, **options) -> None:
        super().__init_subclass__(**options)
        written = [name for name in FINAL if name in vars(cls)]
        if written:
            raise BrsweepError(
                f"{cls.__name__}: overrides {written[0]}, which belongs to Quantizer; the numerics go into `forward`"
            )
        if "forward" in vars(cls):
            cls.fused = "fused_forward" in vars(cls)

    # --- to write -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def init_from(self, values: Tensor) -> None:
        """Set alpha, and offset where there is one, from values as the quantizer will meet them: the weight, or the
        calibration batches' activations. Values that are all zero give the floor, ALPHA_FLOOR."""

    @abstractmethod
    def forward(self, values: Tensor) -> Tensor:
        """The fake-quantized values, with the gradients that the method has."""

    def fused_forward(
        self, values: Tensor, ceiling: float | None = None, request: SumRequest | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Optional: `forward`, and in the same pass a ReLU before it and the bins' sums.

        ceiling: the ReLU's clip, `math.inf` for none; None for no ReLU. request: the sums that are wanted, or None.
        Returns the fake-quantized values and the sums, as `brsweep.kernels.fake_quantize` gives them.
        """
        raise NotImplementedError

    def level_parameters(self) -> Iterable[nn.Parameter]:
        """The parameters that set the levels: they are the optimizer's group `alphas`, and freeze with freeze_alpha.
        All of the module's own, unless a quantizer says otherwise."""
        return self.parameters(recurse=False)

    # --- what every quantizer has -------------------------------------------------------------------------------------

    @property
    def initialised(self) -> bool:
        """Whether alpha has a value. Waits for the device until it has, and never afterwards."""
        if not self._has_alpha:
            self._has_alpha = self.alpha is None or not bool(torch.isnan(self.alpha).any())
        return self._has_alpha

    @property
    def step_size(self) -> Tensor:
        """max(alpha, ALPHA_FLOOR), with the gradient passed through to alpha wherever the floor is in force. Raises
        `BrsweepError` where there is no step size, as all do that asks for levels."""
        self.check_levels()
        return self.alpha + (self.alpha.clamp(min=ALPHA_FLOOR) - self.alpha).detach()

    @final
    def __call__(self, values: Tensor, ceiling: float | None = None) -> Tensor:
        """ceiling: a ReLU with this clip before (`math.inf`: with none); None for no ReLU.

        Hooks see what is quantized, so where there are any the ReLU is an operator of its own. The bits are the same.
        """
        if not self.initialised:
            raise BrsweepError(
                f"{type(self).__name__}: alpha has no value yet; call init_from(values), or calibrate(model, batches) "
                f"for a whole network, or load a state that has it"
            )
        collector = self.collector
        if self.fused and not self._is_watched():
            quantized, sums = self.fused_forward(values, ceiling, collector.sum_request if collector else None)
            if collector is not None:
                collector.add(self, sums)
            return quantized
        if ceiling is not None:
            values = F.relu(values) if ceiling == math.inf else F.hardtanh(values, 0.0, ceiling)
        quantized = super().__call__(values)
        if collector is not None:
            collector.add_beside(self, values)
        return quantized

    @final
    def bin_sums(self, values: Tensor, request: SumRequest) -> Tensor:
        """The bins' sums of values on this grid, step size and offset: float64, [3, bins] or [channels, 3, bins]."""
        scale = self.grad_scale(values)
        if self.offset is not None:
            offset = self.offset if request.alpha_factor(scale) else self.offset.detach()
            values = values - self.along_axis(offset, values)
        _, sums = fake_quantize(
            values,
            self.alpha,
            self.grid.qn,
            self.grid.qp,
            grad_scale=1.0,
            axis=self.axis,
            sums=request.sums,
            sums_alpha_grad=request.alpha_factor(scale),
        )
        return sums

    @final
    def scaled(self, values: Tensor) -> Tensor:
        """(v - offset) / max(alpha, floor), without a gradient: integers are levels."""
        self.check_levels()
        values = values.detach()
        if self.offset is not None:
            values = values - self.along_axis(self.offset.detach().to(values.dtype), values)
        return values / self.along_axis(self.alpha.detach().to(values.dtype).clamp(min=ALPHA_FLOOR), values)

    @final
    def codes(self, values: Tensor) -> Tensor:
        """The integer in [Qn, Qp] of each value, int16."""
        return self.scaled(values).clamp(self.grid.qn, self.grid.qp).round().to(torch.int16)

    @final
    def grad_scale(self, values: Tensor) -> float:
        """LSQ's g = 1 / sqrt(N * Qp) for a tensor of this shape (Esser et al., section 2.2).

        N counts, by `count`: "tensor": all values (for weights, the paper's number of weights; per channel, those of
        one channel). "sample": the values of one sample, dimension 0 being the batch: the paper says "features in a
        layer", and counting the batch as well would tie alpha's learning rate to the batch size.
        """
        n = values.numel()
        if self.count == "sample" and values.dim():
            n //= max(values.shape[0], 1)
        if self.per_channel:
            n //= values.shape[self.axis]
        return 1.0 / math.sqrt(max(n, 1) * self.grid.qp)

    @final
    def along_axis(self, per_channel: Tensor, values: Tensor) -> Tensor:
        """A tensor of shape [] or [channels] in a form that broadcasts against `values`."""
        if not per_channel.dim():
            return per_channel
        shape = [1] * values.dim()
        shape[self.axis] = -1
        return per_channel.view(shape)

    @final
    def check_levels(self) -> None:
        """Raise `BrsweepError` where there is no step size."""
        if self.alpha is None:
            raise BrsweepError(
                f"{type(self).__name__} has no step size, so its values have no bins and no levels; take another "
                f"quantizer, or a regularizer that asks for none"
            )

    def _is_watched(self) -> bool:
        collector = self.collector
        hooks = self._forward_hooks or self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks
        return bool(hooks) or _has_any_global_hook() or (collector is not None and collector.sum_request is None)

    def _load_from_state_dict(self, state_dict, prefix, *rest) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._has_alpha = False  # looked at again

    def extra_repr(self) -> str:
        sign = "signed" if self.grid.signed else "unsigned"
        return f"bits={self.grid.bits}, {sign}" + (", per channel" if self.per_channel else "")


def at_least_float32(values: Tensor) -> Tensor:
    """For numerics in plain operators: values of half precision as float32, others as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


FINAL = ("__call__", "bin_sums", "scaled", "codes", "grad_scale", "along_axis", "check_levels")
