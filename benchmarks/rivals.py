"""Other libraries' quantizers with the same learned step size, where they are installed (extra `bench`).

    Brevitas    `IntQuant` with `RoundSte` and `TensorClamp`, and the step size as its scale
    torchao     `_fake_quantize_affine`, one block per tensor, and the step size as its scale

Both leave gradients to autograd. Values are LSQ's. Step sizes' gradients are scaled as in `TextbookLSQ`.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor

from benchmarks.textbook import TextbookLSQ


class BrevitasLSQ(TextbookLSQ):
    def __init__(self, *args, **options) -> None:
        from brevitas.core.function_wrapper import Identity, RoundSte, TensorClamp
        from brevitas.core.quant import IntQuant

        super().__init__(*args, **options)
        parts = {"float_to_int_impl": RoundSte(), "tensor_clamp_impl": TensorClamp(), "input_view_impl": Identity()}
        self.int_quant = IntQuant(narrow_range=False, signed=self.grid.signed, **parts)
        for name, value in (("zero_point", 0.0), ("bit_width", float(self.grid.bits))):
            self.register_buffer(name, torch.tensor(value), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        return self.int_quant(self.scaled_alpha(values), self.zero_point, self.bit_width, values)


class TorchaoLSQ(TextbookLSQ):
    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self.register_buffer("zero_point", torch.zeros(1, dtype=torch.int32), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        from torchao.quantization.quant_primitives import _fake_quantize_affine

        scale, shape = self.scaled_alpha(values).view(1), tuple(values.shape)
        return _fake_quantize_affine(values, shape, scale, self.zero_point, torch.int32, self.grid.qn, self.grid.qp)


RIVALS = {"Brevitas": BrevitasLSQ, "torchao": TorchaoLSQ}


def installed() -> dict[str, str]:
    """Name -> version of those that can be measured."""
    found = {}
    for name in RIVALS:
        try:
            found[name] = version(name.lower())
        except PackageNotFoundError:
            continue
    return found
