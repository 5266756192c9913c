"""The inner loops of the CPU implementation: what happens to one block of at most BLOCK values.

What makes them fast, and has to stay so for LLVM to turn them into vector instructions:

    slices and `range(n)`           an index that could wrap around from below zero is not vectorised
    unsigned indices into tables    for the same reason
    no reciprocals, NaN kept        codes come from correctly rounded division; only contraction, reordering of sums
                                    and the sign of zero are left free
    sums of few bins                compare with each bin, two at a time, and add under a mask
    sums of more                    add to a table, value by value, in copies: an addition to a bin would else wait for
                                    the one before it to be stored, and behind a ReLU half the values share a bin
    gradients of few bins           look them up by a tree of selects; from 16 leaves on in a loop of its own, where the
                                    leaves have the registers to themselves
    gradients of more               look them up one by one, into a block of their own
"""

from __future__ import annotations

import numpy as np
from numba import njit

from brsweep.kernels.cpu_words import add_to_table, fma, select

BLOCK = 1024
"""Values in flight: with their codes and residuals they stay in the nearest cache."""

COMPARED_BINS = 8
"""Up to here sums by comparison, which cost less than a table up to about 10 bins."""

SELECTED_BINS = 16
"""Up to here gradients by a tree of selects."""

LEAVES_IN_PLACE = 8
"""Up to here the tree is part of the loop that computes the gradients."""

COPIES = 8
"""Of a table of sums; half of them beyond 64 bins, so that the table stays in the nearest cache."""

OPTIONS = {"nogil": True, "fastmath": {"contract", "reassoc", "nsz"}, "error_model": "numpy"}

ZERO, ONE = np.float32(0), np.float32(1)


@njit(**OPTIONS)
def _code(steps, qn, qp):
    """A NaN passes through: every comparison with it is false."""
    steps = qn if steps < qn else steps
    return np.rint(qp if steps > qp else steps)


@njit(**OPTIONS)
def _bin(code, left_out, qn, qp):
    """Code to bin: NaN to the lowest, and what is left out to one more than the last."""
    code = code if code > qn else qn
    return np.int32((qp + ONE if left_out else code) - qn)


@njit(**OPTIONS)
def _cut(value, floor, ceiling):
    value = floor if value < floor else value
    return ceiling if value > ceiling else value


@njit(**OPTIONS)
def _is_cut(value, floor, ceiling):
    """Whether a ReLU with this clip stops the gradient."""
    return (value <= floor) | (value >= ceiling)


@njit(**OPTIONS)
def quantize_block(x, out, step, qn, qp, floor, ceiling):
    for i in range(x.shape[0]):
        out[i] = _code(_cut(x[i], floor, ceiling) / step, qn, qp) * step


@njit(**OPTIONS)
def bins_block(x, out, bins, residuals, step, qn, qp, floor, ceiling, low, high):
    for i in range(x.shape[0]):
        value = _cut(x[i], floor, ceiling)
        steps = value / step
        code = _code(steps, qn, qp)
        out[i] = code * step
        residuals[i] = fma(-code, step, value)
        bins[i] = _bin(code, (steps < low) | (steps > high), qn, qp)


@njit(**OPTIONS)
def sum_by_comparison(bins, residuals, sums):
    for k in range(0, sums.shape[1], 2):
        k0, k1 = np.int32(k), np.int32(k + 1)
        n0 = n1 = s0 = s1 = t0 = t1 = ZERO
        for i in range(bins.shape[0]):
            r0 = residuals[i] if bins[i] == k0 else ZERO
            r1 = residuals[i] if bins[i] == k1 else ZERO
            n0 += ONE if bins[i] == k0 else ZERO
            n1 += ONE if bins[i] == k1 else ZERO
            s0 += r0
            s1 += r1
            t0 += r0 * r0
            t1 += r1 * r1
        sums[0, k] += n0
        sums[1, k] += s0
        sums[2, k] += t0
        if k + 1 < sums.shape[1]:
            sums[0, k + 1] += n1
            sums[1, k + 1] += s1
            sums[2, k + 1] += t1


@njit(**OPTIONS)
def sum_by_table(bins, residuals, table):
    copies, rows = table.shape[:2]
    whole = bins.shape[0] // COPIES * COPIES
    for i in range(0, whole, COPIES):
        for u in range(COPIES):
            j = np.uint64(i + u)
            row = np.uint64(u % copies * rows) + np.uint64(np.uint32(bins[j]))
            add_to_table(table, row, np.float64(residuals[j]))
    for i in range(whole, bins.shape[0]):
        add_to_table(table, np.uint64(np.uint32(bins[i])), np.float64(residuals[i]))


@njit(**OPTIONS)
def gradients_block(grad, x, out, step, qn, qp, floor, ceiling):
    """Straight-through gradient of the values; returns the sum that goes to the step size."""
    total = ZERO
    for i in range(x.shape[0]):
        steps = _cut(x[i], floor, ceiling) / step
        code = _code(steps, qn, qp)
        saturated = (steps <= qn) | (steps >= qp)
        out[i] = ZERO if saturated | _is_cut(x[i], floor, ceiling) else grad[i]
        total += grad[i] * (code if saturated else code - steps)
    return total


@njit(**OPTIONS)
def gradients_and_bins_block(grad, x, out, bins, residuals, step, qn, qp, floor, ceiling, low, high):
    total = ZERO
    for i in range(x.shape[0]):
        value = _cut(x[i], floor, ceiling)
        steps = value / step
        code = _code(steps, qn, qp)
        saturated = (steps <= qn) | (steps >= qp)
        out[i] = ZERO if saturated | _is_cut(x[i], floor, ceiling) else grad[i]
        total += grad[i] * (code if saturated else code - steps)
        left_out = (steps < low) | (steps > high) | _is_cut(x[i], floor, ceiling)
        residuals[i] = ZERO if left_out else fma(-code, step, value)  # infinity times 0 is NaN
        bins[i] = _bin(code, left_out, qn, qp)
    return total


@njit(**OPTIONS)
def gradients_and_pull_block(grad, x, out, step, qn, qp, floor, ceiling, low, high, linear, square):
    """The same with what the sums' gradients give to each value, linear[bin] + square[bin] * r, from tuples."""
    total = ZERO
    for i in range(x.shape[0]):
        value = _cut(x[i], floor, ceiling)
        steps = value / step
        code = _code(steps, qn, qp)
        saturated = (steps <= qn) | (steps >= qp)
        total += grad[i] * (code if saturated else code - steps)
        k = np.int32((code if code > qn else qn) - qn)
        pull = fma(select(square, k), fma(-code, step, value), select(linear, k))
        passed = (ZERO if saturated else grad[i]) + (ZERO if (steps < low) | (steps > high) else pull)
        out[i] = ZERO if _is_cut(x[i], floor, ceiling) else passed
    return total


@njit(**OPTIONS)
def pull_by_selects(out, bins, residuals, linear, square):
    """From tuples; what is left out has the bin behind the last, for which they need no leaf."""
    for i in range(out.shape[0]):
        out[i] += select(square, bins[i]) * residuals[i] if bins[i] < len(square) else ZERO
    if len(linear) > 1:
        for i in range(out.shape[0]):
            out[i] += select(linear, bins[i]) if bins[i] < len(linear) else ZERO


@njit(**OPTIONS)
def pull_by_lookup(out, bins, residuals, linear, square, found):
    for i in range(bins.shape[0]):
        found[i] = square[np.uint32(bins[i])]
    for i in range(out.shape[0]):
        out[i] += found[i] * residuals[i]
    if linear.shape[0] > 1:
        for i in range(bins.shape[0]):
            found[i] = linear[np.uint32(bins[i])]
        for i in range(out.shape[0]):
            out[i] += found[i]
