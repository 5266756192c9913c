"""The Triton kernels of the CUDA implementation: one walk over the tensor forward, one backward.

Program (p, row) walks `tiles` tiles of a row of `length` values in the order of storage; each row has a step size and
tables of gradients of its own. `floor` and `ceiling` are those of a ReLU before it, NaN where there is none. What keeps
the answers those of the reference:

    codes       come from `div_rn`, which rounds correctly; the plain division of a GPU does not
    rounding    to even, by adding and taking away 1.5 * 2^23, exact for codes; only the sign of a zero differs
    residuals   by `fma`, in float32; a tile's sums too, then added up in float64
    NaN         passes through the clamp, because every comparison with it is false, and counts to the lowest bin
    bins        a tile is compared with all bins at once, [TILE, BINS], and summed over the tile: each thread keeps its
                bins to itself, so no two threads add to one place
"""

from __future__ import annotations

import triton
import triton.language as tl

ROUNDER = tl.constexpr(12582912.0)


@triton.jit
def _cut(value, floor, ceiling):
    value = tl.where(value < floor, floor, value)
    return tl.where(value > ceiling, ceiling, value)


@triton.jit
def _code(steps, QN: tl.constexpr, QP: tl.constexpr):
    clamped = tl.where(steps < QN, QN * 1.0, steps)
    clamped = tl.where(clamped > QP, QP * 1.0, clamped)
    return (clamped + ROUNDER) - ROUNDER


@triton.jit
def _bin(code, QN: tl.constexpr):
    return (tl.where(code > QN, code, QN * 1.0) - QN).to(tl.int32)


@triton.jit
def quantize(
    values, out, steps, by_program, length, tiles, floor, ceiling,
    QN: tl.constexpr, QP: tl.constexpr, SUMS: tl.constexpr, INSIDE_ONLY: tl.constexpr,
    BINS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Writes `out`; with SUMS also n, sum r and sum r^2 of each bin, to by_program [rows, programs, 3, BINS]."""
    program, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    step = tl.load(steps + row)
    bins = tl.arange(0, BINS)
    count, total, squares = tl.zeros([BINS], tl.int64), tl.zeros([BINS], tl.float64), tl.zeros([BINS], tl.float64)
    for tile in range(tiles):
        place = (program.to(tl.int64) * tiles + tile) * TILE + tl.arange(0, TILE)
        present = place < length
        value = _cut(tl.load(values + row * length + place, mask=present, other=0.0).to(tl.float32), floor, ceiling)
        quotient = tl.div_rn(value, step)
        code = _code(quotient, QN, QP)
        tl.store(out + row * length + place, (code * step).to(out.dtype.element_ty), mask=present)
        if SUMS:
            if INSIDE_ONLY:
                present = present & ~((quotient < QN) | (quotient > QP))
            member = (_bin(code, QN)[:, None] == bins[None, :]) & present[:, None]
            residual = tl.where(member, tl.fma(-code, step, value)[:, None], 0.0)
            count += tl.sum(member.to(tl.int32), 0)
            total += tl.sum(residual, 0).to(tl.float64)
            squares += tl.sum(residual * residual, 0).to(tl.float64)
    if SUMS:
        table = by_program + (row * tl.num_programs(0) + program) * 3 * BINS + bins
        tl.store(table, count.to(tl.float64))
        tl.store(table + BINS, total)
        tl.store(table + 2 * BINS, squares)


@triton.jit
def gradients(
    grad, values, out, steps, linear, square, slopes, length, tiles, floor, ceiling,
    QN: tl.constexpr, QP: tl.constexpr, PULLED: tl.constexpr, INSIDE_ONLY: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Writes the values' gradient to `out` and each program's share of the step size's to slopes [rows, programs].

    PULLED: adds linear[row, bin] + square[row, bin] * r, what the sums' gradients give to each value.
    """
    program, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    step = tl.load(steps + row)
    slope = tl.zeros([1], tl.float64)
    for tile in range(tiles):
        place = (program.to(tl.int64) * tiles + tile) * TILE + tl.arange(0, TILE)
        present = place < length
        given = tl.load(values + row * length + place, mask=present, other=0.0).to(tl.float32)
        value = _cut(given, floor, ceiling)
        upstream = tl.load(grad + row * length + place, mask=present, other=0.0).to(tl.float32)
        quotient = tl.div_rn(value, step)
        code = _code(quotient, QN, QP)
        saturated = (quotient <= QN) | (quotient >= QP)
        slope += tl.sum(upstream * tl.where(saturated, code, code - quotient), 0).to(tl.float64)
        passed = tl.where(saturated, 0.0, upstream)
        if PULLED:
            entry = row * (QP - QN + 1) + _bin(code, QN)
            pull = tl.load(square + entry) * tl.fma(-code, step, value) + tl.load(linear + entry)
            if INSIDE_ONLY:
                pull = tl.where((quotient < QN) | (quotient > QP), 0.0, pull)
            passed += pull
        passed = tl.where((given <= floor) | (given >= ceiling), 0.0, passed)
        tl.store(out + row * length + place, passed.to(out.dtype.element_ty), mask=present)
    tl.store(slopes + row * tl.num_programs(0) + program + tl.arange(0, 1), slope)
