"""Layers that hold a latent float weight and compute with its fake-quantized value, and the activation's site.

Each module here stands where one of torch's stood, so `forward` calls its argument `input`, as they do.

A network's layer becomes a quantized one where it stands: the object stays, with its parameters, whoever else holds
them, its hooks and all that it carries; its class changes and it gets its quantizers.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from brsweep.errors import BrsweepError
from brsweep.quant.lsq import LSQQuantizer
from brsweep.quant.quantizer import Quantizer

QuantizerFactory = Callable[..., nn.Module]


class ClippedReLU(nn.Module):
    """min(max(v, 0), clip_value); without a clip, ReLU. The float network trains with the clip that QAT will have."""

    def __init__(self, clip_value: float | None = None) -> None:
        super().__init__()
        if clip_value is not None and clip_value <= 0:
            raise BrsweepError(f"clip_value={clip_value}: a clip is a positive number, or null for none")
        self.clip_value = clip_value

    def forward(self, input: Tensor) -> Tensor:
        return F.relu(input) if self.clip_value is None else F.hardtanh(input, 0.0, self.clip_value)

    def extra_repr(self) -> str:
        return f"clip_value={self.clip_value}"


class QuantizedClippedReLU(ClippedReLU):
    """ReLU, optional clip (None, 6.0, 1.0), then an unsigned quantizer: one activation site.

    Its step size starts from `init_from(values)`, where the values are those before the ReLU, or from `calibrate`.

    A quantizer with a fused pass takes the ReLU into it. Any other module that quantizes gets what the ReLU gives.
    """

    def __init__(
        self,
        bits: int,
        clip_value: float | None = None,
        count: str = "sample",
        quantizer: QuantizerFactory = LSQQuantizer,
    ) -> None:
        super().__init__(clip_value)
        self.quantizer = quantizer(bits=bits, signed=False, count=count)

    def init_from(self, values: Tensor) -> None:
        self.quantizer.init_from(super().forward(values))

    def forward(self, input: Tensor) -> Tensor:
        if isinstance(self.quantizer, Quantizer):
            return self.quantizer(input, ceiling=math.inf if self.clip_value is None else self.clip_value)
        return self.quantizer(super().forward(input))


class _QuantWeight:
    """What quantized layers share: a signed quantizer for the latent weight, and one for the input where asked."""

    channel_axis = 0
    weight_quantizer: nn.Module
    input_quantizer: nn.Module | None

    def __init__(
        self, *args, bits: int, per_channel: bool = False, quantizer: QuantizerFactory = LSQQuantizer, **kwargs
    ):
        super().__init__(*args, **kwargs)
        self._set_quantizers(bits, per_channel, quantizer)

    @classmethod
    def from_float(
        cls, layer: nn.Module, bits: int, per_channel: bool = False, quantizer: QuantizerFactory = LSQQuantizer
    ) -> nn.Module:
        """The quantized counterpart of a float layer: a copy of its weights, alpha initialised from them."""
        if quantized_kind(layer) is not cls:
            raise BrsweepError(f"{cls.__name__}: a {type(layer).__name__} is no layer of this kind")
        quantized = copy.deepcopy(layer)
        quantize_layer(quantized, bits, per_channel, quantizer)
        return quantized

    def _quantize_input(self, values: Tensor) -> Tensor:
        return values if self.input_quantizer is None else self.input_quantizer(values)

    def _set_quantizers(self, bits: int, per_channel: bool, quantizer: QuantizerFactory) -> None:
        axis = self.channel_axis
        self.weight_quantizer = quantizer(
            bits=bits, signed=True, per_channel=per_channel, channels=self.weight.shape[axis], axis=axis
        )
        self.input_quantizer = None


class _QuantConv(_QuantWeight):
    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(self._quantize_input(input), self.weight_quantizer(self.weight), self.bias)


class QuantConv1d(_QuantConv, nn.Conv1d):
    """`nn.Conv1d` whose weight [out, in/groups, k] is fake-quantized (signed) in every forward pass."""


class QuantConv2d(_QuantConv, nn.Conv2d):
    """`nn.Conv2d` whose weight [out, in/groups, kh, kw] is fake-quantized (signed) in every forward pass."""


class QuantConv3d(_QuantConv, nn.Conv3d):
    """`nn.Conv3d` whose weight [out, in/groups, kd, kh, kw] is fake-quantized (signed) in every forward pass."""


class _QuantConvTranspose(_QuantWeight):
    """Per channel there is a step size per output channel of a group, which all groups share: the weight's axis 1."""

    channel_axis = 1

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        dims = len(self.kernel_size)
        size = (self.stride, self.padding, self.kernel_size, dims, self.dilation)
        output_padding = self._output_padding(input, output_size, *size)
        operator = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]
        values, weight = self._quantize_input(input), self.weight_quantizer(self.weight)
        return operator(
            values, weight, self.bias, self.stride, self.padding, output_padding, self.groups, self.dilation
        )


class QuantConvTranspose1d(_QuantConvTranspose, nn.ConvTranspose1d):
    """`nn.ConvTranspose1d` whose weight [in, out/groups, k] is fake-quantized (signed) in every forward pass."""


class QuantConvTranspose2d(_QuantConvTranspose, nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` whose weight [in, out/groups, kh, kw] is fake-quantized (signed) in every forward pass."""


class QuantConvTranspose3d(_QuantConvTranspose, nn.ConvTranspose3d):
    """`nn.ConvTranspose3d` whose weight [in, out/groups, kd, kh, kw] is fake-quantized in every forward pass."""


class QuantLinear(_QuantWeight, nn.Linear):
    """`nn.Linear` whose weight [out, in] is fake-quantized (signed) in every forward pass."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(self._quantize_input(input), self.weight_quantizer(self.weight), self.bias)


KINDS = {
    nn.Conv1d: QuantConv1d,
    nn.Conv2d: QuantConv2d,
    nn.Conv3d: QuantConv3d,
    nn.ConvTranspose1d: QuantConvTranspose1d,
    nn.ConvTranspose2d: QuantConvTranspose2d,
    nn.ConvTranspose3d: QuantConvTranspose3d,
    nn.Linear: QuantLinear,
}
"""torch's layer -> its quantized counterpart."""


def keeps_forward(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module computes as `kind`, torch's class of which it is an instance, does."""
    methods = [name for name in ("forward", "_conv_forward", "_output_padding", "__call__") if hasattr(kind, name)]
    return all(getattr(type(module), name) is getattr(kind, name) and name not in vars(module) for name in methods)


def quantized_kind(layer: nn.Module) -> type[nn.Module] | None:
    """The quantized class for a layer that holds its weight as a parameter and computes as torch's class does."""
    for kind, quantized in KINDS.items():
        if isinstance(layer, kind) and keeps_forward(layer, kind) and layer._parameters.get("weight") is not None:
            return quantized
    return None


def quantize_layer(layer: nn.Module, bits: int, per_channel: bool, quantizer: QuantizerFactory) -> None:
    """Make a float layer a quantized one where it stands; alpha is initialised from its weight."""
    layer.__class__ = _beside(quantized_kind(layer), type(layer))
    layer._set_quantizers(bits, per_channel, quantizer)
    layer.weight_quantizer.to(layer.weight).train(layer.training)
    layer.weight_quantizer.init_from(layer.weight)


@functools.cache
def _beside(quantized: type[nn.Module], own: type[nn.Module]) -> type[nn.Module]:
    """The quantized class; for a layer of a subclass one that keeps the subclass's other methods."""
    return quantized if own in KINDS else type(f"Quant{own.__name__}", (quantized, own), {})
