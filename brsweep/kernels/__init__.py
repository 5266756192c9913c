"""The one op under brsweep: fake-quantize a tensor and, in the same pass, sum up its bins.

Every quantizer and every bin-wise penalty is built on `fake_quantize`. It knows nothing of modules, layers or losses:
it returns the fake-quantized values and, where asked, three numbers per bin, and its backward takes the gradients of
both. What a penalty makes of the sums is ordinary autograd over 2^bits numbers, so its cost does not grow with the
number of bins, and no second walk over the tensor is needed.

With v the values, a the step size and r_i = v_i - code_i * a (the code is a constant):

    code     = round(clamp(v / a, Qn, Qp))          ties to even; correctly rounded division
    output   = code * a
    n_k      = how many values have code k          S1_k = sum of their r          S2_k = sum of their r^2

    d output / d v = 0 if v/a <= Qn or v/a >= Qp, else 1                              (LSQ, straight-through)
    d output / d a = Qn if v/a <= Qn, Qp if v/a >= Qp, else code - v/a                (LSQ, eq. 3), times `grad_scale`
    d S1_k / d v_i = 1,  d S2_k / d v_i = 2 r_i                                       for v_i in bin k, whatever v/a
    d S1_k / d a   = -k n_k,  d S2_k / d a = -2 k S1_k                                times `sums_alpha_grad`

Sums of residuals, never of raw values: once the bins are sharp, raw sums of squares lose every digit in float32.

A ReLU before the quantizer is part of the pass where `ceiling` asks for it: v = min(max(values, 0), ceiling), and what
is cut off gets no gradient. An operator of its own would read and write every activation once more each way.

Implementations share two functions, `forward(values, alpha, options)` and `backward(values, alpha, options,
grad_quantized, grad_sums, wants_alpha)`; `op.py` puts autograd around them, `compiled.py` torch.compile's operator.
`use` chooses one for the process:

    reference    torch's eager operators, on any device and in float64; the others are held against it
    numba        one compiled pass each way, on CPUs (`cpu.py`)
    triton       one kernel each way, on CUDA devices (`cuda.py`)

Under torch.compile the implementation is called by a registered operator, opaque to the compiler (`compiled.py`).
Written out in operators that it can fuse, the op was slower on a CPU and took minutes to compile (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from brsweep.kernels import implementations
from brsweep.kernels.op import (
    ALL_VALUES,
    ALPHA_FLOOR,
    COUNT,
    INSIDE_VALUES,
    NO_SUMS,
    SQUARES,
    SUM,
    OpOptions,
    apply,
)

__all__ = [
    "ALL_VALUES", "ALPHA_FLOOR", "COUNT", "INSIDE_VALUES", "NO_SUMS", "SQUARES", "SUM", "available", "chosen",
    "fake_quantize", "use",
]  # fmt: skip

_choice = "auto"


def available() -> tuple[str, ...]:
    """Names that `use` takes on this machine."""
    return implementations.available()


def use(name: str, device_type: str | None = None) -> None:
    """Choose the implementation for this process: `auto` (the fastest that fits each tensor) or one by name.

    `numba` takes float32 and bfloat16 tensors on a CPU, `triton` those and float16 on a CUDA device; they refuse
    others, which `auto` gives to the reference.

    device_type: where a run will train ("cpu", "cuda"): the choice has to work there, for results that depend on it.
        `auto` then never stands for the reference because the device's own implementation cannot be had; without a
        device type it warns and falls back, tensor by tensor.

    Raises `BrsweepError`, and leaves the choice as it was, where the name is unknown or cannot be had.
    """
    global _choice
    implementations.check(name, device_type)
    _choice = name


@contextmanager
def using(name: str) -> Iterator[None]:
    """`use` inside the `with`, and the choice before it again behind it."""
    global _choice
    before = _choice
    use(name)
    try:
        yield
    finally:
        _choice = before


def chosen(device_type: str) -> str:
    """The implementation that float32 tensors on `device_type` get: for logs and result files."""
    return implementations.fastest(device_type) if _choice == "auto" else _choice


def fake_quantize(
    values: Tensor,
    alpha: Tensor,
    qn: int,
    qp: int,
    *,
    grad_scale: float,
    axis: int = 0,
    sums: str = NO_SUMS,
    sums_alpha_grad: float = 0.0,
    ceiling: float | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Fake-quantize `values` on the grid qn..qp with step size `alpha`; see the module's head for the formulas.

    values: any shape; float64, float32, or bfloat16/float16 (computed in float32, returned in the input's dtype).
    alpha: shape [] (per tensor) or [channels] (per channel, along `axis`); max(alpha, ALPHA_FLOOR) is used.
    grad_scale: LSQ's g, which multiplies the gradient that reaches alpha through the output.
    sums: NO_SUMS; ALL_VALUES, values beyond the range count to the end bins; INSIDE_VALUES, those with v/a outside
        [qn, qp] are left out.
    sums_alpha_grad: what multiplies the gradient that reaches alpha through the sums; 0 keeps them apart.
    ceiling: None takes the values as they are; a number puts a ReLU with this clip before, `math.inf` one without.

    Returns the fake-quantized values and the sums, float64, shape [3, bins] or [channels, 3, bins], rows COUNT, SUM
    and SQUARES, or None. NaN in a value gives NaN in the output and in the sums of the lowest bin; it never raises.
    """
    if torch.compiler.is_compiling():
        from brsweep.kernels import compiled

        choices = qn, qp, grad_scale, axis, sums, sums_alpha_grad, ceiling, _choice
        quantized, bin_sums = compiled.operator(values, alpha, *choices)
    else:
        options = OpOptions(qn, qp, grad_scale, axis, sums, sums_alpha_grad, ceiling)
        found = implementations.implementation(_choice, values.device.type, values.dtype)
        quantized, bin_sums = apply(values, alpha, options, found)
    return quantized, None if sums == NO_SUMS else bin_sums
