"""The fast implementation for CUDA devices: one Triton kernel each way.

Takes float32, bfloat16 and float16, and gives the reference's codes and outputs; only sums are added up in another
order. That order depends on the tensor's size alone: each program adds its tiles one after the other and writes sums of
its own, which one reduction then adds up; there are no atomics, so equal runs have equal bits. Nothing waits for the
device. Tensors are read in the order of storage, as on the CPU.

Under Triton's interpreter (TRITON_INTERPRET=1) it takes CPU tensors instead: that is how it is tested.

A kernel's programs are in one dimension, row by row; each walks `tiles` tiles of a row of `length` values, and each row
has a step size and tables of gradients of its own. `floor` and `ceiling` are those of a ReLU before it, NaN where there
is none. What keeps the answers those of the reference:

    codes       come from `div_rn`, which rounds correctly; the plain division of a GPU does not
    rounding    to even, by adding and taking away 1.5 * 2^23, exact for codes; only the sign of a zero differs
    residuals   by `fma`, in float32; a tile's sums too, then added up in float64
    NaN         passes through the clamp, because every comparison with it is false, and counts to the lowest bin
    bins        a tile is compared with all bins at once, [TILE, BINS], and summed over the tile: each thread keeps its
                bins to itself, so no two threads add to one place
"""

from __future__ import annotations

import sys

import torch
import triton
import triton.language as tl
from torch import Tensor

from brsweep.errors import BrsweepError
from brsweep.kernels import reference
from brsweep.kernels.op import ALL_VALUES, INSIDE_VALUES, NO_SUMS, OpOptions, step_size
from brsweep.kernels.storage import laid_out, laid_out_like

TAKEN_TYPES = (torch.float32, torch.bfloat16, torch.float16)
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
    options, alpha = OpOptions(-4, 3, 1.0, 0, ALL_VALUES, 0.0), torch.tensor(0.25, device=device)
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
    return device_type == ("cpu" if _interpreted() else "cuda") and dtype in TAKEN_TYPES


def forward(values: Tensor, alpha: Tensor, options: OpOptions) -> tuple[Tensor, Tensor]:
    values, quantized = laid_out(values, alpha, options.axis)
    with_sums = options.sums != NO_SUMS
    width = triton.next_power_of_2(options.bins)
    tile = min(TILE, max(16, MEMBERS // width)) if with_sums else TILE
    rows, length, programs, tiles = _divide(values, alpha, tile)
    by_program = values.new_zeros((rows, programs, 3, width), dtype=torch.float64) if with_sums else values
    with torch.cuda.device_of(values):
        quantize[(rows * programs,)](
            values, quantized, _alphas(alpha), by_program, length, programs, tiles, *options.bounds,
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
    options: OpOptions,
    grad_quantized: Tensor | None,
    grad_sums: Tensor | None,
    wants_alpha: bool,
) -> tuple[Tensor, Tensor]:
    """Both gradients, whether wanted or not: they fall out of one pass."""
    values, grad_values = laid_out(values, alpha, options.axis)
    grad_quantized = laid_out_like(values, grad_quantized)
    rows, length, programs, tiles = _divide(values, alpha, TILE)
    slopes = values.new_zeros((rows, programs), dtype=torch.float64)
    pulled = grad_sums is not None
    linear, square = _tables_by_bin(grad_sums, options.bins) if pulled else (values, values)
    with torch.cuda.device_of(values):
        gradients[(rows * programs,)](
            grad_quantized, values, grad_values, _alphas(alpha), linear, square, slopes,
            length, programs, tiles, *options.bounds,
            QN=options.qn, QP=options.qp, PULLED=pulled, INSIDE_ONLY=options.sums == INSIDE_VALUES, TILE=TILE,
        )  # fmt: skip
    return grad_values, slopes.sum(1).view(alpha.shape)


def _tables_by_bin(grad_sums: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """What each bin gives to its values: rows of `bins`, one per step size."""
    by_step = grad_sums.reshape(-1, 3, bins)
    return by_step[:, 1].float().contiguous(), (2 * by_step[:, 2]).float().contiguous()


def _divide(values: Tensor, alpha: Tensor, tile: int) -> tuple[int, int, int, int]:
    """Rows (a channel each, or one), their length, programs per row, and tiles per program."""
    rows = alpha.numel() if alpha.dim() else 1
    length = values.numel() // max(1, rows)
    programs = max(1, min(triton.cdiv(length, tile), MOST_PROGRAMS // max(1, rows)))
    return rows, length, programs, triton.cdiv(length, tile * programs)


def _alphas(alpha: Tensor) -> Tensor:
    return step_size(alpha, torch.float32).reshape(-1)


def _interpreted() -> bool:
    return triton.knobs.runtime.interpret


ROUNDER = tl.constexpr(12582912.0)


@triton.jit
def _place(programs):
    """This program's number among those of its row, and the row: all in one dimension, for the others end at 65,535."""
    number = tl.program_id(0).to(tl.int64)
    return number % programs, number // programs


@triton.jit
def _cut(value, floor, ceiling):
    value = tl.where(value < floor, floor, value)
    return tl.where(value > ceiling, ceiling, value)


@triton.jit
def _code(scaled, QN: tl.constexpr, QP: tl.constexpr):
    clamped = tl.where(scaled < QN, QN * 1.0, scaled)
    clamped = tl.where(clamped > QP, QP * 1.0, clamped)
    return (clamped + ROUNDER) - ROUNDER


@triton.jit
def _bin(code, QN: tl.constexpr):
    return (tl.where(code > QN, code, QN * 1.0) - QN).to(tl.int32)


@triton.jit
def quantize(
    values, out, alphas, by_program, length, programs, tiles, floor, ceiling,
    QN: tl.constexpr, QP: tl.constexpr, SUMS: tl.constexpr, INSIDE_ONLY: tl.constexpr,
    BINS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Writes `out`; with SUMS also n, sum r and sum r^2 of each bin, to by_program [rows, programs, 3, BINS]."""
    program, row = _place(programs)
    alpha = tl.load(alphas + row)
    bins = tl.arange(0, BINS)
    count, total, squares = tl.zeros([BINS], tl.int64), tl.zeros([BINS], tl.float64), tl.zeros([BINS], tl.float64)
    for tile in range(tiles):
        place = (program * tiles + tile) * TILE + tl.arange(0, TILE)
        present = place < length
        value = _cut(tl.load(values + row * length + place, mask=present, other=0.0).to(tl.float32), floor, ceiling)
        scaled = tl.div_rn(value, alpha)
        code = _code(scaled, QN, QP)
        tl.store(out + row * length + place, (code * alpha).to(out.dtype.element_ty), mask=present)
        if SUMS:
            if INSIDE_ONLY:
                present = present & ~((scaled < QN) | (scaled > QP))
            member = (_bin(code, QN)[:, None] == bins[None, :]) & present[:, None]
            residual = tl.where(member, tl.fma(-code, alpha, value)[:, None], 0.0)
            count += tl.sum(member.to(tl.int32), 0)
            total += tl.sum(residual, 0).to(tl.float64)
            squares += tl.sum(residual * residual, 0).to(tl.float64)
    if SUMS:
        table = by_program + (row * programs + program) * 3 * BINS + bins
        tl.store(table, count.to(tl.float64))
        tl.store(table + BINS, total)
        tl.store(table + 2 * BINS, squares)


@triton.jit
def gradients(
    grad, values, out, alphas, linear, square, slopes, length, programs, tiles, floor, ceiling,
    QN: tl.constexpr, QP: tl.constexpr, PULLED: tl.constexpr, INSIDE_ONLY: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Writes the values' gradient to `out` and each program's share of the step size's to slopes [rows, programs].

    PULLED: adds linear[row, bin] + square[row, bin] * r, what the sums' gradients give to each value.
    """
    program, row = _place(programs)
    alpha = tl.load(alphas + row)
    slope = tl.zeros([1], tl.float64)
    for tile in range(tiles):
        place = (program * tiles + tile) * TILE + tl.arange(0, TILE)
        present = place < length
        given = tl.load(values + row * length + place, mask=present, other=0.0).to(tl.float32)
        value = _cut(given, floor, ceiling)
        upstream = tl.load(grad + row * length + place, mask=present, other=0.0).to(tl.float32)
        scaled = tl.div_rn(value, alpha)
        code = _code(scaled, QN, QP)
        saturated = (scaled <= QN) | (scaled >= QP)
        slope += tl.sum(upstream * tl.where(saturated, code, code - scaled), 0).to(tl.float64)
        passed = tl.where(saturated, 0.0, upstream)
        if PULLED:
            entry = row * (QP - QN + 1) + _bin(code, QN)
            pull = tl.load(square + entry) * tl.fma(-code, alpha, value) + tl.load(linear + entry)
            if INSIDE_ONLY:
                pull = tl.where((scaled < QN) | (scaled > QP), 0.0, pull)
            passed += pull
        passed = tl.where((given <= floor) | (given >= ceiling), 0.0, passed)
        tl.store(out + row * length + place, passed.to(out.dtype.element_ty), mask=present)
    tl.store(slopes + row * programs + program + tl.arange(0, 1), slope)
