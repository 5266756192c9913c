"""Layers that hold a latent float weight and compute with its fake-quantized value, and the activation's site.

Each module here stands where one of torch's stood, so `forward` calls its argument `input`, as they do.
"""

from __future__ import annotations

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

    weight_quantizer: nn.Module
    input_quantizer: nn.Module | None

    @classmethod
    def from_float(
        cls, layer: nn.Module, bits: int, per_channel: bool = False, quantizer: QuantizerFactory = LSQQuantizer
    ) -> nn.Module:
        """The quantized counterpart of a float layer: a copy of its weights, alpha initialised from them."""
        quantized = cls(**_arguments(layer), bits=bits, per_channel=per_channel, quantizer=quantizer)
        quantized.to(device=layer.weight.device, dtype=layer.weight.dtype)
        quantized.load_state_dict(layer.state_dict(), strict=False)
        for name, parameter in layer.named_parameters():
            quantized.get_parameter(name).requires_grad_(parameter.requires_grad)
        quantized.weight_quantizer.init_from(quantized.weight)
        return quantized.train(layer.training)

    def _quantize_input(self, values: Tensor) -> Tensor:
        return values if self.input_quantizer is None else self.input_quantizer(values)

    def _set_quantizers(self, bits: int, per_channel: bool, quantizer: QuantizerFactory) -> None:
        self.weight_quantizer = quantizer(
            bits=bits, signed=True, per_channel=per_channel, channels=self.weight.shape[0], axis=0
        )
        self.input_quantizer = None


class QuantConv2d(_QuantWeight, nn.Conv2d):
    """`nn.Conv2d` whose weight [out, in/groups, kh, kw] is fake-quantized (signed) in every forward pass."""

    def __init__(
        self, *args, bits: int, per_channel: bool = False, quantizer: QuantizerFactory = LSQQuantizer, **kwargs
    ):
        super().__init__(*args, **kwargs)
        self._set_quantizers(bits, per_channel, quantizer)

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(self._quantize_input(input), self.weight_quantizer(self.weight), self.bias)


class QuantLinear(_QuantWeight, nn.Linear):
    """`nn.Linear` whose weight [out, in] is fake-quantized (signed) in every forward pass."""

    def __init__(
        self, *args, bits: int, per_channel: bool = False, quantizer: QuantizerFactory = LSQQuantizer, **kwargs
    ):
        super().__init__(*args, **kwargs)
        self._set_quantizers(bits, per_channel, quantizer)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(self._quantize_input(input), self.weight_quantizer(self.weight), self.bias)


def _arguments(layer: nn.Module) -> dict:
    """The constructor arguments of a float layer, read back from it."""
    if isinstance(layer, nn.Linear):
        return {"in_features": layer.in_features, "out_features": layer.out_features, "bias": layer.bias is not None}
    names = ["in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"]
    return {name: getattr(layer, name) for name in names} | {"bias": layer.bias is not None}
