"""The fast implementation for CUDA devices: one Triton kernel each way.

Takes float32, bfloat16 and float16, and gives the reference's codes and outputs; only sums are added up in another
order. That order depends on the tensor's size alone: each program adds its tiles one after the other and writes sums of
its own, which one reduction then adds up; there are no atomics, so equal runs have equal bits. Nothing waits for the
device. Tensors are read in the order of storage, as on the CPU.

A small network's step is hundreds of launches, so what the host could do beside a kernel is done in it: the step size's
floor, the gradients of the sums as they come, LSQ's gradient scale.

Under Triton's interpreter (TRITON_INTERPRET=1) it takes CPU tensors instead: that is how it is tested.

A kernel's programs are in one dimension, row by row; each walks `tiles` tiles of a row of `length` values, and each row
has a step size and tables of gradients of its own. `floor` and `ceiling` are those of a ReLU before it, NaN where there
is none. What keeps the answers those of the reference:

    codes       come from `div_rn`, which rounds correctly; the plain division of a GPU does not
    rounding    to even, by adding and taking away 1.5 * 2^23, exact for codes; only the sign of a zero differs
    residuals   by `fma`, in float32
    NaN         passes through the clamp, because every comparison with it is false, and counts to the lowest bin

How sums are added up: a tile is [LANES, PER], a row of it one thread's, which adds its values to sums of its own, in
float32, at most MOST_TILES times; what the threads have is added up in float64 once, when the program ends. So threads
wait for each other at no tile.

    up to FEW_BINS    a value is compared with each bin, and added under a mask to the sums of the thread in registers
    more              a bin's number is written as two digits of 16; a tile's sums are the product of the matrices that
                      say which value has which digit, one of them carrying the values: [16, TILE] x [TILE, 16], on the
                      tensor cores, a float32 as two tf32. A program is one warp, since its threads exchange the
                      matrices at each tile. Where a square leaves float32's range, it would reach all bins of its digit
                      by 0 * inf: such values, which lie far beyond the grid, are added to the end bins apart
"""

from __future__ import annotations

import math
import sys

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from brsweep.errors import BrsweepError
from brsweep.kernels import reference
from brsweep.kernels.op import ALL_VALUES, ALPHA_FLOOR, INSIDE_VALUES, NO_SUMS, OpOptions
from brsweep.kernels.storage import laid_out, laid_out_like

TAKEN_TYPES = (torch.float32, torch.bfloat16, torch.float16)
LANES, PER = 128, 8
"""Threads of a program, and a tile's values for each: two loads of 16 bytes in float32."""
PER_WITH_SUMS = 4
"""Fewer, where the sums of the bins take registers too."""
FEW_BINS = 16
TABLE_TILE, TABLE_WARPS = 32, 1
MOST_PROGRAMS = 1024
MOST_TILES = 128
"""Of a program: what bounds the rounding of float32 sums. A tensor for which MOST_PROGRAMS are too few gets more."""
TABLE_PROGRAMS = 4 * MOST_PROGRAMS
"""Of one warp each; they add up in float64, whatever the number of tiles."""
ADDED_COLUMNS, ADDED_TILE, ADDED_WARPS = 4, 4096, 8
"""What the programs of a kernel wrote is added up by a program for each four columns, in float64 the 32 bytes that a
card reads at least, so many sums at a time: mostly all of them at once. One program for all columns would wait for
memory again and again, with the rest of the card idle: 4 bits have 48 columns."""


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
        if not torch.allclose(got.to(wanted.dtype), wanted, rtol=1e-4, atol=1e-4):
            raise BrsweepError("its answers on this device are not the reference's")
    return None


def takes(device_type: str, dtype: torch.dtype) -> bool:
    return device_type == ("cpu" if _interpreted() else "cuda") and dtype in TAKEN_TYPES


def forward(values: Tensor, alpha: Tensor, options: OpOptions) -> tuple[Tensor, Tensor]:
    values, quantized = laid_out(values, alpha, options.axis)
    with_sums = options.sums != NO_SUMS
    width, few = triton.next_power_of_2(options.bins), options.bins <= FEW_BINS
    by_table, per = with_sums and not few, PER_WITH_SUMS if with_sums else PER
    division = _divide(values, alpha, TABLE_TILE, TABLE_PROGRAMS) if by_table else _divide(values, alpha, LANES * per)
    rows, length, programs, tiles = division
    shape = (rows, programs, 3, width if few else FEW_BINS**2)
    by_program = values.new_empty(shape, dtype=torch.float64) if with_sums else values
    given = (values, quantized, _alphas(alpha), by_program, length, programs, tiles, *options.bounds)
    fixed = {"QN": options.qn, "QP": options.qp, "INSIDE_ONLY": options.sums == INSIDE_VALUES}
    with torch.cuda.device_of(values):
        if by_table:
            quantize_to_table[(rows * programs,)](*given, **fixed, TILE=TABLE_TILE, num_warps=TABLE_WARPS)
        else:
            quantize[(rows * programs,)](*given, **fixed, SUMS=with_sums, BINS=width, LANES=LANES, PER=per)
        if not with_sums:
            return quantized, torch.empty(0, dtype=torch.float64, device=values.device)
        sums = _added_up(by_program, 1.0, torch.float64)
    sums = sums[..., : options.bins]
    return quantized, (sums if alpha.dim() else sums[0]).contiguous()


def backward(
    values: Tensor,
    alpha: Tensor,
    options: OpOptions,
    grad_quantized: Tensor | None,
    grad_sums: Tensor | None,
    wants_alpha: bool,
) -> tuple[Tensor, Tensor]:
    """Both gradients, whether wanted or not: they fall out of one pass. That of the step size in its own dtype."""
    values, grad_values = laid_out(values, alpha, options.axis)
    grad_quantized = laid_out_like(values, grad_quantized)
    rows, length, programs, tiles = _divide(values, alpha, LANES * PER)
    slopes = values.new_empty((rows, programs, 1), dtype=torch.float64)
    pulled = grad_sums is not None
    pulls = grad_sums.contiguous() if pulled else values
    with torch.cuda.device_of(values):
        gradients[(rows * programs,)](
            grad_quantized, values, grad_values, _alphas(alpha), pulls, slopes,
            length, programs, tiles, *options.bounds,
            QN=options.qn, QP=options.qp, PULLED=pulled, INSIDE_ONLY=options.sums == INSIDE_VALUES,
            LANES=LANES, PER=PER,
        )  # fmt: skip
        return grad_values, _added_up(slopes, options.grad_scale, alpha.dtype).view(alpha.shape)


def _added_up(by_program: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """[rows, programs, ...] in float64 -> [rows, ...] in `dtype`, added up over the programs and multiplied."""
    rows, programs, *rest = by_program.shape
    columns = math.prod(rest)
    out = by_program.new_empty((rows, *rest), dtype=dtype)
    high = float(np.float32(scale))  # a number goes to a kernel in float32: two of them are a float64 to 48 bits
    width = min(triton.next_power_of_2(columns), ADDED_COLUMNS)
    height = min(triton.next_power_of_2(programs), ADDED_TILE // width)
    blocks = triton.cdiv(columns, width)
    add_up[(rows * blocks,)](
        by_program, out, programs, columns, blocks, high, scale - high,
        HEIGHT=height, WIDTH=width, num_warps=ADDED_WARPS,
    )  # fmt: skip
    return out


def _divide(values: Tensor, alpha: Tensor, tile: int, most: int = MOST_PROGRAMS) -> tuple[int, int, int, int]:
    """Rows (a channel each, or one), their length, programs per row, and tiles per program."""
    rows = alpha.numel() if alpha.dim() else 1
    length = values.numel() // max(1, rows)
    every = triton.cdiv(length, tile)
    enough = triton.cdiv(every, MOST_TILES) if tile != TABLE_TILE else 1
    programs = max(1, min(every, most // max(1, rows)), enough)
    return rows, length, programs, triton.cdiv(length, tile * programs)


def _alphas(alpha: Tensor) -> Tensor:
    """One after the other; each kernel sees to their floor."""
    return alpha.reshape(-1)


def _interpreted() -> bool:
    return triton.knobs.runtime.interpret


ROUNDER = tl.constexpr(12582912.0)
FLOOR = tl.constexpr(ALPHA_FLOOR)


@triton.jit
def _place(programs):
    """This program's number among those of its row, and the row: all in one dimension, for the others end at 65,535."""
    number = tl.program_id(0).to(tl.int64)
    return number % programs, number // programs


@triton.jit
def _step_size(alphas, row):
    alpha = tl.load(alphas + row).to(tl.float32)
    return tl.where(alpha < FLOOR, FLOOR, alpha)


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
def _load(pointer, place, present):
    return tl.load(pointer + place, mask=present, other=0.0).to(tl.float32)


@triton.jit
def quantize(
    values, out, alphas, by_program, length, programs, tiles, floor, ceiling,
    QN: tl.constexpr, QP: tl.constexpr, INSIDE_ONLY: tl.constexpr, SUMS: tl.constexpr,
    BINS: tl.constexpr, LANES: tl.constexpr, PER: tl.constexpr,
):  # fmt: skip
    """Writes `out`; with SUMS also n, sum r and sum r^2 of each bin, to by_program [rows, programs, 3, BINS]."""
    program, row = _place(programs)
    alpha = _step_size(alphas, row)
    within = tl.arange(0, LANES)[:, None] * PER + tl.arange(0, PER)[None, :]
    counts = (tl.zeros([LANES], tl.int32),) * BINS
    totals = (tl.zeros([LANES], tl.float32),) * BINS
    squares = (tl.zeros([LANES], tl.float32),) * BINS
    for tile in range(tiles):
        place = (program * tiles + tile) * (LANES * PER) + within
        present = place < length
        value = _cut(_load(values + row * length, place, present), floor, ceiling)
        scaled = tl.div_rn(value, alpha)
        code = _code(scaled, QN, QP)
        tl.store(out + row * length + place, (code * alpha).to(out.dtype.element_ty), mask=present)
        if SUMS:
            if INSIDE_ONLY:
                present = present & ~((scaled < QN) | (scaled > QP))
            residual, number = tl.fma(-code, alpha, value), tl.where(present, _bin(code, QN), -1)
            n, s1, s2 = (), (), ()
            for k in tl.static_range(BINS):
                member = number == k
                mine = tl.where(member, residual, 0.0)
                n += (counts[k] + tl.sum(member.to(tl.int32), 1),)
                s1 += (totals[k] + tl.sum(mine, 1),)
                s2 += (squares[k] + tl.sum(mine * mine, 1),)
            counts, totals, squares = n, s1, s2
    if SUMS:
        table = by_program + (row * programs + program) * 3 * BINS
        for k in tl.static_range(BINS):
            tl.store(table + k, tl.sum(counts[k], 0).to(tl.float64))
            tl.store(table + BINS + k, tl.sum(totals[k].to(tl.float64), 0))
            tl.store(table + 2 * BINS + k, tl.sum(squares[k].to(tl.float64), 0))


LARGEST = tl.constexpr(3.0e38)
DIGIT = tl.constexpr(16)


@triton.jit
def _sums_by_digits(row_of, column_of, amount):
    """[16, 16]: the amounts of a tile, added up by both digits. tf32 keeps 11 bits of a float32's 24, so the amounts go
    in as two of them, to 1 part in 2^22."""
    high = (amount.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
    sums = tl.dot(row_of, column_of * (amount - high)[:, None], input_precision="tf32")
    return tl.dot(row_of, column_of * high[:, None], sums, input_precision="tf32")


@triton.jit
def quantize_to_table(
    values, out, alphas, by_program, length, programs, tiles, floor, ceiling,
    QN: tl.constexpr, QP: tl.constexpr, INSIDE_ONLY: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """As `quantize` with sums, for up to 256 bins: by_program is [rows, programs, 3, 256]."""
    program, row = _place(programs)
    alpha = _step_size(alphas, row)
    digits = tl.arange(0, DIGIT)
    count = tl.zeros([DIGIT, DIGIT], tl.float64)
    total, squares = count, count
    far = tl.zeros([TILE], tl.float32)
    far_low, far_high, far_low_squares, far_high_squares = far, far, far, far
    for tile in range(tiles):
        place = (program * tiles + tile) * TILE + tl.arange(0, TILE)
        present = place < length
        value = _cut(_load(values + row * length, place, present), floor, ceiling)
        scaled = tl.div_rn(value, alpha)
        code = _code(scaled, QN, QP)
        tl.store(out + row * length + place, (code * alpha).to(out.dtype.element_ty), mask=present)
        if INSIDE_ONLY:
            present = present & ~((scaled < QN) | (scaled > QP))
        residual, number = tl.fma(-code, alpha, value), _bin(code, QN)
        square = residual * residual
        near = square < LARGEST
        beyond, low = present & ~near, number == 0
        far_low += tl.where(beyond & low, residual, 0.0)
        far_high += tl.where(beyond & ~low, residual, 0.0)
        far_low_squares += tl.where(beyond & low, square, 0.0)
        far_high_squares += tl.where(beyond & ~low, square, 0.0)
        first = ((number // DIGIT)[None, :] == digits[:, None]) & present[None, :]
        second = (number % DIGIT)[:, None] == digits[None, :]
        row_of, column_of = first.to(tl.float32), second.to(tl.float32)
        count += tl.dot(row_of, column_of, input_precision="tf32").to(tl.float64)
        total += _sums_by_digits(row_of, column_of, tl.where(near, residual, 0.0)).to(tl.float64)
        squares += _sums_by_digits(row_of, column_of, tl.where(near, square, 0.0)).to(tl.float64)
    number = digits[:, None] * DIGIT + digits[None, :]
    lowest, highest = number == 0, number == QP - QN
    total += tl.where(lowest, tl.sum(far_low.to(tl.float64), 0), 0.0)
    total += tl.where(highest, tl.sum(far_high.to(tl.float64), 0), 0.0)
    squares += tl.where(lowest, tl.sum(far_low_squares.to(tl.float64), 0), 0.0)
    squares += tl.where(highest, tl.sum(far_high_squares.to(tl.float64), 0), 0.0)
    table = by_program + (row * programs + program) * 3 * DIGIT * DIGIT + number
    tl.store(table, count)
    tl.store(table + DIGIT * DIGIT, total)
    tl.store(table + 2 * DIGIT * DIGIT, squares)


@triton.jit
def gradients(
    grad, values, out, alphas, pulls, slopes, length, programs, tiles, floor, ceiling,
    QN: tl.constexpr, QP: tl.constexpr, PULLED: tl.constexpr, INSIDE_ONLY: tl.constexpr,
    LANES: tl.constexpr, PER: tl.constexpr,
):  # fmt: skip
    """Writes the values' gradient to `out` and each program's share of the step size's to slopes [rows, programs].

    PULLED: adds what the sums' gradients, pulls [rows, 3, bins], give to each value: that of sum r, and 2 r times that
    of sum r^2.
    """
    program, row = _place(programs)
    alpha = _step_size(alphas, row)
    within = tl.arange(0, LANES)[:, None] * PER + tl.arange(0, PER)[None, :]
    totals = pulls + (row * 3 + 1) * (QP - QN + 1)
    squares = totals + (QP - QN + 1)
    slope = tl.zeros([LANES], tl.float32)
    for tile in range(tiles):
        place = (program * tiles + tile) * (LANES * PER) + within
        present = place < length
        given = _load(values + row * length, place, present)
        value = _cut(given, floor, ceiling)
        upstream = _load(grad + row * length, place, present)
        scaled = tl.div_rn(value, alpha)
        code = _code(scaled, QN, QP)
        saturated = (scaled <= QN) | (scaled >= QP)
        slope += tl.sum(upstream * tl.where(saturated, code, code - scaled), 1)
        passed = tl.where(saturated, 0.0, upstream)
        if PULLED:
            number = _bin(code, QN)
            square = 2.0 * tl.load(squares + number).to(tl.float32)
            pull = square * tl.fma(-code, alpha, value) + tl.load(totals + number).to(tl.float32)
            if INSIDE_ONLY:
                pull = tl.where((scaled < QN) | (scaled > QP), 0.0, pull)
            passed += pull
        passed = tl.where((given <= floor) | (given >= ceiling), 0.0, passed)
        tl.store(out + row * length + place, passed.to(out.dtype.element_ty), mask=present)
    tl.store(slopes + row * programs + program, tl.sum(slope.to(tl.float64), 0))


@triton.jit
def add_up(by_program, out, programs, columns, blocks, high, low, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """out[row] = (high + low) times the sum of by_program [rows, programs, columns] over the programs, in float64; each
    program of this kernel adds up a block of WIDTH columns of a row."""
    block, row = _place(blocks)
    column = block * WIDTH + tl.arange(0, WIDTH)
    sums = tl.zeros([HEIGHT, WIDTH], tl.float64)
    for first in range(0, programs, HEIGHT):
        place = (first + tl.arange(0, HEIGHT))[:, None]
        present = (place < programs) & (column < columns)[None, :]
        sums += tl.load(by_program + (row * programs + place) * columns + column[None, :], mask=present, other=0.0)
    total = tl.sum(sums, 0) * (tl.full([WIDTH], high, tl.float64) + tl.full([WIDTH], low, tl.float64))
    tl.store(out + row * columns + column, total.to(out.dtype.element_ty), mask=column < columns)
