"""The compiled passes of the CPU implementation: one walk over the tensor forward, one backward.

A pass sees a tensor as rows of `length` values in the order of storage; row i takes its step size, and its tables of
gradients, from entry i modulo their number. So per tensor (many rows, one step size) and per channel (a row each) are
one loop. `limits` are qn, qp, and the floor and ceiling of a ReLU before it, NaN where there is none. A call walks the
rows first..last, and each row writes its own sums, so that a result does not depend on who walked which row.

Each has one signature, and is compiled where it is first asked for, or read from numba's cache. There it has a name of
its own, with a digest of the CPU implementation's sources and the processor: numba itself looks neither at other files
than the one that it compiles, nor for two processes that add to one entry at a time.
"""

from __future__ import annotations

import functools
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
from llvmlite import binding
from numba import njit
from numba.np.unsafe.ndarray import to_fixed_tuple

from brsweep.errors import BrsweepError
from brsweep.kernels import cpu_loops as loops
from brsweep.kernels.cpu_loops import (
    BLOCK,
    COMPARED_BINS,
    COMPILER_FLAGS,
    LEAVES_IN_PLACE,
    TABLE_COPIES,
    block_for,
    load_block,
    store_block,
)

INFINITE = np.float32(np.inf)


def _quantize(values, out, length, alphas, limits, first, last):
    wide, ready = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    qn, qp, floor, ceiling = limits
    for row in range(first, last):
        alpha, end = alphas[row % alphas.shape[0]], min((row + 1) * length, values.shape[0])
        for start in range(row * length, end, BLOCK):
            n = min(BLOCK, end - start)
            block = block_for(out, start, n, ready)
            loops.quantize_block(load_block(values, start, n, wide), block, alpha, qn, qp, floor, ceiling)
            store_block(out, start, block)


def _quantize_and_sum(values, out, length, alphas, limits, inside_only, sums, first, last):
    wide, ready = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    bins, residuals = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.float32)
    count = sums.shape[2]
    table = np.empty((TABLE_COPIES if count <= 64 else TABLE_COPIES // 2, count + 1, 4))
    qn, qp, floor, ceiling = limits
    low, high = (qn, qp) if inside_only else (-INFINITE, INFINITE)
    for row in range(first, last):
        alpha, end = alphas[row % alphas.shape[0]], min((row + 1) * length, values.shape[0])
        table[:] = 0
        for start in range(row * length, end, BLOCK):
            n = min(BLOCK, end - start)
            x, block = load_block(values, start, n, wide), block_for(out, start, n, ready)
            loops.bins_block(x, block, bins[:n], residuals[:n], alpha, qn, qp, floor, ceiling, low, high)
            store_block(out, start, block)
            if count <= COMPARED_BINS:
                loops.sum_by_comparison(bins[:n], residuals[:n], sums[row])
            else:
                loops.sum_by_table(bins[:n], residuals[:n], table)
        if count > COMPARED_BINS:
            for copy in range(table.shape[0]):
                for i in range(3):
                    for k in range(count):
                        sums[row, i, k] += table[copy, k, i]


def _gradients(grad, values, out, length, alphas, limits, slopes, first, last):
    upstream, wide, ready = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    qn, qp, floor, ceiling = limits
    for row in range(first, last):
        alpha, end = alphas[row % alphas.shape[0]], min((row + 1) * length, values.shape[0])
        for start in range(row * length, end, BLOCK):
            n = min(BLOCK, end - start)
            g, x = load_block(grad, start, n, upstream), load_block(values, start, n, wide)
            block = block_for(out, start, n, ready)
            slopes[row] += loops.gradients_block(g, x, block, alpha, qn, qp, floor, ceiling)
            store_block(out, start, block)


def _gradients_with_selects(width, linear_width):
    def passing(grad, values, out, length, alphas, limits, inside_only, linear, square, slopes, first, last):
        upstream, wide, ready = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
        bins, residuals = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.float32)
        qn, qp, floor, ceiling = limits
        low, high = (qn, qp) if inside_only else (-INFINITE, INFINITE)
        for row in range(first, last):
            alpha, end = alphas[row % alphas.shape[0]], min((row + 1) * length, values.shape[0])
            by_bin = to_fixed_tuple(square[row % alphas.shape[0]], width)
            constant = to_fixed_tuple(linear[row % alphas.shape[0]], linear_width)
            for start in range(row * length, end, BLOCK):
                n = min(BLOCK, end - start)
                g, x = load_block(grad, start, n, upstream), load_block(values, start, n, wide)
                block = block_for(out, start, n, ready)
                if width <= LEAVES_IN_PLACE:
                    slopes[row] += loops.gradients_and_pull_block(
                        g, x, block, alpha, qn, qp, floor, ceiling, low, high, constant, by_bin
                    )
                else:
                    slopes[row] += loops.gradients_and_bins_block(
                        g, x, block, bins[:n], residuals[:n], alpha, qn, qp, floor, ceiling, low, high
                    )
                    loops.pull_by_selects(block, bins[:n], residuals[:n], constant, by_bin)
                store_block(out, start, block)

    return passing


def _gradients_with_lookup(grad, values, out, length, alphas, limits, inside_only, linear, square, slopes, first, last):
    upstream, wide, ready = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    bins, residuals, found = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    qn, qp, floor, ceiling = limits
    low, high = (qn, qp) if inside_only else (-INFINITE, INFINITE)
    for row in range(first, last):
        entry = row % alphas.shape[0]
        alpha, end = alphas[entry], min((row + 1) * length, values.shape[0])
        for start in range(row * length, end, BLOCK):
            n = min(BLOCK, end - start)
            g, x = load_block(grad, start, n, upstream), load_block(values, start, n, wide)
            block = block_for(out, start, n, ready)
            slopes[row] += loops.gradients_and_bins_block(
                g, x, block, bins[:n], residuals[:n], alpha, qn, qp, floor, ceiling, low, high
            )
            loops.pull_by_lookup(block, bins[:n], residuals[:n], linear[entry], square[entry], found[:n])
            store_block(out, start, block)


LIMITS_TYPE = "UniTuple(float32, 4)"


@functools.cache
def quantize(dtype: str):
    """(values, out, length, alphas, limits, first, last); `dtype` is float32, or uint16 for the bits of bfloat16."""
    return compile_pass(
        _quantize, f"quantize_{dtype}", f"{dtype}[::1], {dtype}[::1], int64, float32[::1], {LIMITS_TYPE}"
    )


@functools.cache
def quantize_and_sum(dtype: str):
    """(values, out, length, alphas, limits, inside_only, sums [rows, 3, bins], first, last)"""
    given = f"{dtype}[::1], {dtype}[::1], int64, float32[::1], {LIMITS_TYPE}, boolean, float64[:, :, ::1]"
    return compile_pass(_quantize_and_sum, f"quantize_and_sum_{dtype}", given)


@functools.cache
def gradients(dtype: str):
    """(grad, values, out, length, alphas, limits, slopes [rows], first, last); slopes is what goes to the step size."""
    flat = f"{dtype}[::1]"
    given = f"{flat}, {flat}, {flat}, int64, float32[::1], {LIMITS_TYPE}, float64[::1]"
    return compile_pass(_gradients, f"gradients_{dtype}", given)


@functools.cache
def gradients_and_pull(dtype: str, width: int, linear_width: int):
    """The same with inside_only, linear and square after limits: tables [entries, width] of what each bin gives.

    width: up to SELECTED_BINS a power of two, no less than the number of bins; else 0: the tables have one entry more
    than there are bins, 0, for the values that are left out. linear_width: 1 where `linear` is zero, else like width.
    """
    flat = f"{dtype}[::1]"
    table = "float32[:, ::1]"
    given = f"{flat}, {flat}, {flat}, int64, float32[::1], {LIMITS_TYPE}, boolean, {table}, {table}, float64[::1]"
    if not width:
        return compile_pass(_gradients_with_lookup, f"gradients_with_lookup_{dtype}", given)
    passing = _gradients_with_selects(width, linear_width)
    return compile_pass(passing, f"gradients_with_selects_{dtype}_{width}_{linear_width}", given)


def compile_pass(function: Callable, name: str, arguments: str) -> Callable:
    """The function with the types `arguments` and the rows first..last, from the cache or into it under `name`."""
    function.__qualname__ = f"{name}_{_digest()}"  # numba names the files of its cache after it
    signature = f"void({arguments}, int64, int64)"
    _find_folder(function)
    try:
        return njit(signature, cache=True, **COMPILER_FLAGS)(function)
    except Exception:  # a full disk, a damaged entry: whatever is wrong with the cache, do without
        pass
    try:
        return njit(signature, **COMPILER_FLAGS)(function)
    except Exception as error:  # some passes are first asked for in the middle of a training
        why = f"{type(error).__name__}: {error}".splitlines()[0].removesuffix(": ")
        raise BrsweepError(f"numba cannot compile {name} ({why}); mend that, or set kernels=reference") from error


@functools.cache
def _digest() -> str:
    sources = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("cpu*.py"))]
    processor = f"{binding.get_host_cpu_name()} {binding.get_host_cpu_features().flatten()}"
    return hashlib.sha256(b"\0".join([*sources, processor.encode()])).hexdigest()[:12]


def _find_folder(function: Callable) -> None:
    """Where numba may write neither beside the source nor under the home, send it to a folder of this user's own.

    It is left alone if anyone else could have written there: what the cache holds is run.
    """
    try:
        njit(cache=True)(function)  # looks for a folder, compiles nothing
        return
    except RuntimeError:
        folder = Path(tempfile.gettempdir()) / f"brsweep-kernels-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
        numba.config.CACHE_DIR = str(folder)
