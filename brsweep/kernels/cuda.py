"""The fast implementation for CUDA devices: one Triton kernel each way.

Takes float32, bfloat16 and float16, and gives the reference's codes and outputs; only sums are added up in another
order. That order depends on the tensor's size alone: each program adds its tiles one after the other and writes sums of
its own, which one reduction then adds up; there are no atomics, so equal runs have equal bits. Nothing waits for the
device. Tensors are read in the order of storage, as on the CPU.

Under Triton's interpreter (TRITON_INTERPRET=1) it takes CPU tensors instead: that is how it is tested.
"""

from __future__ import annotations

import sys

import torch
import triton
from torch import Tensor

from brsweep.errors import BrsweepError
from brsweep.kernels import ALL_VALUES, INSIDE_VALUES, NO_SUMS, Options, cuda_passes, reference
from brsweep.kernels.storage import laid_out, laid_out_like

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TILE = 1024
MEMBERS = 4096
"""A tile's values times the bins that they are compared with: what a program holds in registers."""
MOST_PROGRAMS = 1024


def fault() -> str | None:
    """Why it cannot be used here, or None. Raises `BrsweepError` where the device does not agree with the reference."""
    if not (_interpreted() or torch.cuda.is_available()):
        return "torch finds no CUDA device"
    draw = torch.Generator().manual_seed(0)
    device = "cpu" if _interpreted() else "cuda"
    options, alpha = Options(-4, 3, 1.0, 0, ALL_VALUES, 0.0), torch.tensor(0.25, device=device)
    values, grad = torch.randn(2, 3000, generator=draw).to(device)
    grad_sums = torch.randn(3, options.bins, generator=draw, dtype=torch.float64).to(device)
    answers = [
        (*module.forward(values, alpha, options), *module.backward(values, alpha, options, grad, grad_sums, True))
        for module in (sys.modules[__name__], reference)
    ]
    for got, wanted in zip(*answers, strict=True):  # sums of 3,000 float32 terms
        if not torch.allclose(got, wanted, rtol=1e-4, atol=1e-4):
            raise BrsweepError("its answers on this device are not the reference's")
    return None


def takes(device_type: str, dtype: torch.dtype) -> bool:
    return device_type == ("cpu" if _interpreted() else "cuda") and dtype in DTYPES


def forward(values: Tensor, alpha: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    values, quantized = laid_out(values, alpha, options.axis)
    with_sums = options.sums != NO_SUMS
    width = triton.next_power_of_2(options.bins)
    tile = min(TILE, max(16, MEMBERS // width)) if with_sums else TILE
    rows, length, programs, tiles = _walk(values, alpha, tile)
    by_program = values.new_zeros((rows, programs, 3, width), dtype=torch.float64) if with_sums else values
    with torch.cuda.device_of(values):
        cuda_passes.quantize[programs, rows](
            values, quantized, _steps(alpha), by_program, length, tiles, *options.bounds,
            QN=options.qn, QP=options.qp, SUMS=with_sums, INSIDE_ONLY=options.sums == INSIDE_VALUES,
            BINS=width, TILE=tile,
        )  # fmt: skip
    if not with_sums:
        return quantized, torch.empty(0, dtype=torch.float64, device=values.device)
    sums = by_program.sum(1)[..., : options.bins]
    return quantized, (sums if alpha.dim() else sums[0]).contiguous()


def backward(
    values: Tensor,
    alpha: Tensor,
    options: Options,
    grad_quantized: Tensor | None,
    grad_sums: Tensor | None,
    wants_alpha: bool,
) -> tuple[Tensor, Tensor]:
    """Both gradients, whether wanted or not: they fall out of one pass."""
    values, grad_values = laid_out(values, alpha, options.axis)
    grad_quantized = laid_out_like(values, grad_quantized)
    rows, length, programs, tiles = _walk(values, alpha, TILE)
    slopes = values.new_zeros((rows, programs), dtype=torch.float64)
    pulled = grad_sums is not None
    linear, square = _tables(grad_sums, options.bins) if pulled else (values, values)
    with torch.cuda.device_of(values):
        cuda_passes.gradients[programs, rows](
            grad_quantized, values, grad_values, _steps(alpha), linear, square, slopes, length, tiles,
            *options.bounds,
            QN=options.qn, QP=options.qp, PULLED=pulled, INSIDE_ONLY=options.sums == INSIDE_VALUES, TILE=TILE,
        )  # fmt: skip
    return grad_values, slopes.sum(1).view(alpha.shape)


def _tables(grad_sums: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """What each bin gives to its values: rows of `bins`, one per step size."""
    by_step = grad_sums.reshape(-1, 3, bins)
    return by_step[:, 1].float().contiguous(), (2 * by_step[:, 2]).float().contiguous()


def _walk(values: Tensor, alpha: Tensor, tile: int) -> tuple[int, int, int, int]:
    """Rows (a channel each, or one), their length, programs per row, and tiles per program."""
    rows = alpha.numel() if alpha.dim() else 1
    length = values.numel() // max(1, rows)
    programs = max(1, min(triton.cdiv(length, tile), MOST_PROGRAMS // max(1, rows)))
    return rows, length, programs, triton.cdiv(length, tile * programs)


def _steps(alpha: Tensor) -> Tensor:
    return reference.step_size(alpha, torch.float32).reshape(-1)


def _interpreted() -> bool:
    return triton.knobs.runtime.interpret
