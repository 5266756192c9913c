"""The compiled passes of the CPU implementation: one walk over the tensor forward, one backward.

A pass sees a tensor as rows of `length` values in the order of storage; row i takes its step size, and its tables of
gradients, from entry i modulo their number. So per tensor (many rows, one step size) and per channel (a row each) are
one loop. `limits` are qn, qp, and the floor and ceiling of a ReLU before it, NaN where there is none. A call walks the
rows first..last, and each row writes its own sums, so that a result does not depend on who walked which row.

Each has one signature, and is compiled where it is first asked for.
"""

from __future__ import annotations

import functools

import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from brsweep.kernels import cpu_blocks as blocks
from brsweep.kernels.cpu_blocks import BLOCK, COMPARED_BINS, COPIES, LEAVES_IN_PLACE
from brsweep.kernels.cpu_cache import compiled
from brsweep.kernels.cpu_words import load, room, store

INFINITE = np.float32(np.inf)


def _quantize(values, out, length, steps, limits, first, last):
    wide, ready = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    qn, qp, floor, ceiling = limits
    for row in range(first, last):
        step, end = steps[row % steps.shape[0]], min((row + 1) * length, values.shape[0])
        for start in range(row * length, end, BLOCK):
            n = min(BLOCK, end - start)
            block = room(out, start, n, ready)
            blocks.quantize_block(load(values, start, n, wide), block, step, qn, qp, floor, ceiling)
            store(out, start, block)


def _quantize_and_sum(values, out, length, steps, limits, inside_only, sums, first, last):
    wide, ready = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    bins, residuals = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.float32)
    count = sums.shape[2]
    table = np.empty((COPIES if count <= 64 else COPIES // 2, count + 1, 4))
    qn, qp, floor, ceiling = limits
    low, high = (qn, qp) if inside_only else (-INFINITE, INFINITE)
    for row in range(first, last):
        step, end = steps[row % steps.shape[0]], min((row + 1) * length, values.shape[0])
        table[:] = 0
        for start in range(row * length, end, BLOCK):
            n = min(BLOCK, end - start)
            x, block = load(values, start, n, wide), room(out, start, n, ready)
            blocks.bins_block(x, block, bins[:n], residuals[:n], step, qn, qp, floor, ceiling, low, high)
            store(out, start, block)
            if count <= COMPARED_BINS:
                blocks.sum_by_comparison(bins[:n], residuals[:n], sums[row])
            else:
                blocks.sum_by_table(bins[:n], residuals[:n], table)
        if count > COMPARED_BINS:
            for copy in range(table.shape[0]):
                for i in range(3):
                    for k in range(count):
                        sums[row, i, k] += table[copy, k, i]


def _gradients(grad, values, out, length, steps, limits, slopes, first, last):
    upstream, wide, ready = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    qn, qp, floor, ceiling = limits
    for row in range(first, last):
        step, end = steps[row % steps.shape[0]], min((row + 1) * length, values.shape[0])
        for start in range(row * length, end, BLOCK):
            n = min(BLOCK, end - start)
            g, x, block = load(grad, start, n, upstream), load(values, start, n, wide), room(out, start, n, ready)
            slopes[row] += blocks.gradients_block(g, x, block, step, qn, qp, floor, ceiling)
            store(out, start, block)


def _gradients_with_selects(width, linear_width):
    def passing(grad, values, out, length, steps, limits, inside_only, linear, square, slopes, first, last):
        upstream, wide, ready = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
        bins, residuals = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.float32)
        qn, qp, floor, ceiling = limits
        low, high = (qn, qp) if inside_only else (-INFINITE, INFINITE)
        for row in range(first, last):
            step, end = steps[row % steps.shape[0]], min((row + 1) * length, values.shape[0])
            by_bin = to_fixed_tuple(square[row % steps.shape[0]], width)
            constant = to_fixed_tuple(linear[row % steps.shape[0]], linear_width)
            for start in range(row * length, end, BLOCK):
                n = min(BLOCK, end - start)
                g, x, block = load(grad, start, n, upstream), load(values, start, n, wide), room(out, start, n, ready)
                if width <= LEAVES_IN_PLACE:
                    slopes[row] += blocks.gradients_and_pull_block(
                        g, x, block, step, qn, qp, floor, ceiling, low, high, constant, by_bin
                    )
                else:
                    slopes[row] += blocks.gradients_and_bins_block(
                        g, x, block, bins[:n], residuals[:n], step, qn, qp, floor, ceiling, low, high
                    )
                    blocks.pull_by_selects(block, bins[:n], residuals[:n], constant, by_bin)
                store(out, start, block)

    return passing


def _gradients_with_lookup(grad, values, out, length, steps, limits, inside_only, linear, square, slopes, first, last):
    upstream, wide, ready = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    bins, residuals, found = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    qn, qp, floor, ceiling = limits
    low, high = (qn, qp) if inside_only else (-INFINITE, INFINITE)
    for row in range(first, last):
        entry = row % steps.shape[0]
        step, end = steps[entry], min((row + 1) * length, values.shape[0])
        for start in range(row * length, end, BLOCK):
            n = min(BLOCK, end - start)
            g, x, block = load(grad, start, n, upstream), load(values, start, n, wide), room(out, start, n, ready)
            slopes[row] += blocks.gradients_and_bins_block(
                g, x, block, bins[:n], residuals[:n], step, qn, qp, floor, ceiling, low, high
            )
            blocks.pull_by_lookup(block, bins[:n], residuals[:n], linear[entry], square[entry], found[:n])
            store(out, start, block)


LIMITS = "UniTuple(float32, 4)"


@functools.cache
def quantize(dtype: str):
    """(values, out, length, steps, limits, first, last); `dtype` is float32, or uint16 for the bits of bfloat16."""
    return compiled(_quantize, f"quantize_{dtype}", f"{dtype}[::1], {dtype}[::1], int64, float32[::1], {LIMITS}")


@functools.cache
def quantize_and_sum(dtype: str):
    """(values, out, length, steps, limits, inside_only, sums [rows, 3, bins], first, last)"""
    given = f"{dtype}[::1], {dtype}[::1], int64, float32[::1], {LIMITS}, boolean, float64[:, :, ::1]"
    return compiled(_quantize_and_sum, f"quantize_and_sum_{dtype}", given)


@functools.cache
def gradients(dtype: str):
    """(grad, values, out, length, steps, qn, qp, slopes [rows], first, last); slopes is what goes to the step size."""
    flat = f"{dtype}[::1]"
    given = f"{flat}, {flat}, {flat}, int64, float32[::1], {LIMITS}, float64[::1]"
    return compiled(_gradients, f"gradients_{dtype}", given)


@functools.cache
def gradients_and_pull(dtype: str, width: int, linear_width: int):
    """The same with inside_only, linear and square after limits: tables [entries, width] of what each bin gives.

    width: up to SELECTED_BINS a power of two, no less than the number of bins; else 0: the tables have one entry more
    than there are bins, 0, for the values that are left out. linear_width: 1 where `linear` is zero, else like width.
    """
    flat = f"{dtype}[::1]"
    table = "float32[:, ::1]"
    given = f"{flat}, {flat}, {flat}, int64, float32[::1], {LIMITS}, boolean, {table}, {table}, float64[::1]"
    if not width:
        return compiled(_gradients_with_lookup, f"gradients_with_lookup_{dtype}", given)
    passing = _gradients_with_selects(width, linear_width)
    return compiled(passing, f"gradients_with_selects_{dtype}_{width}_{linear_width}", given)
