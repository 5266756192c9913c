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
grad_quantized, grad_sums, wants_alpha)`, a file each; `function.py` puts autograd around them. `use` chooses one for
the process:

    reference    torch's eager operators, on any device and in float64; the others are held against it
    numba        one compiled pass each way, on CPUs (`cpu.py`)
    triton       one kernel each way, on CUDA devices (`cuda.py`)
"""

from __future__ import annotations

import functools
import math
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from brsweep.errors import BrsweepError

if TYPE_CHECKING:
    from types import ModuleType

    import torch
    from torch import Tensor

ALPHA_FLOOR = 2.0**-20
"""The smallest step size in use, about 1e-6: max(alpha, floor) is what quantizes, with the gradient passed through.
A power of two, so that the floor's own levels are exact. LSQ is silent on step sizes that a large gradient pushes
below zero; with the floor no training loop can reach one, and the gradient still leads back up."""

NO_SUMS = "none"
ALL_VALUES = "all"
INSIDE_VALUES = "inside"

COUNT, SUM, SQUARES = 0, 1, 2
"""Rows of the sums: n, sum of r, sum of r^2."""

_MODULES = {"reference": "reference", "numba": "cpu", "triton": "cuda"}
_FASTEST = {"cpu": "numba", "cuda": "triton"}
_choice = "auto"


class Options(NamedTuple):
    """What the op is asked for beside its tensors; `fake_quantize` says what each means."""

    qn: int
    qp: int
    grad_scale: float
    axis: int
    sums: str
    sums_alpha_grad: float
    ceiling: float | None = None

    @property
    def bins(self) -> int:
        return self.qp - self.qn + 1

    @property
    def bounds(self) -> tuple[float, float]:
        """What values are cut to. NaN where they are not: every comparison with it is false."""
        floor = math.nan if self.ceiling is None else 0.0
        return floor, math.nan if self.ceiling in (None, math.inf) else self.ceiling


def available() -> tuple[str, ...]:
    """Names that `use` takes on this machine."""
    return ("auto", *(name for name in _MODULES if _fault(name) is None))


def use(name: str) -> None:
    """Choose the implementation for this process: `auto` (the fastest that fits each tensor) or one by name.

    `numba` takes float32 and bfloat16 tensors on a CPU, `triton` those and float16 on a CUDA device; they refuse
    others, which `auto` gives to the reference.
    """
    global _choice
    if name not in ("auto", "reference") and name not in available():
        fault = f" ({_fault(name)})" if name in _MODULES else ""
        raise BrsweepError(f"kernels={name}: not available here{fault}; choose one of {', '.join(available())}")
    _choice = name


def chosen(device_type: str) -> str:
    """The implementation that float32 tensors on `device_type` get: for logs and result files."""
    if _choice != "auto":
        return _choice
    name = _FASTEST.get(device_type, "reference")
    return name if _fault(name) is None else "reference"


@functools.cache
def _fault(name: str) -> str | None:
    """Why an implementation cannot be had, or None: found out once, by trying it.

    A warning says so where the machine is one that it is made for.
    """
    try:
        fault = import_module(f"brsweep.kernels.{_MODULES[name]}").fault()
    except Exception as error:  # not installed, no compiler for this processor, versions that do not fit
        fault = f"{type(error).__name__}: {error}".splitlines()[0]
        if name == "numba" or _has_cuda():
            message = f"{name} does not work here, the slower reference is used: {fault}"
            warnings.warn(message, RuntimeWarning, stacklevel=3)
    return fault


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _implementation(values: Tensor) -> ModuleType:
    return _fitting(_choice, values.device.type, values.dtype)


@functools.cache
def _fitting(choice: str, device_type: str, dtype: torch.dtype) -> ModuleType:
    name = choice if choice != "auto" else _FASTEST.get(device_type, "reference")
    if name == "reference" or _fault(name) is not None:
        return import_module("brsweep.kernels.reference")
    module = import_module(f"brsweep.kernels.{_MODULES[name]}")
    if module.takes(device_type, dtype):
        return module
    if choice != "auto":
        raise BrsweepError(f"kernels={name}: takes no {dtype} on {device_type}; set kernels=auto")
    return import_module("brsweep.kernels.reference")


def _forget() -> None:
    """Find out anew what works here."""
    _fault.cache_clear()
    _fitting.cache_clear()


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
    from brsweep.kernels import function

    options = Options(qn, qp, grad_scale, axis, sums, sums_alpha_grad, ceiling)
    quantized, bin_sums = function.apply(values, alpha, options)
    return quantized, None if sums == NO_SUMS else bin_sums
