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

First come the words that these loops need and Python lacks: exact instructions, and one spelling for both value types.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

BLOCK = 1024
"""Values in flight: with their codes and residuals they stay in the nearest cache."""

COMPARED_BINS = 8
"""Up to here sums by comparison, which cost less than a table up to about 10 bins."""

SELECTED_BINS = 16
"""Up to here gradients by a tree of selects."""

LEAVES_IN_PLACE = 8
"""Up to here the tree is part of the loop that computes the gradients."""

TABLE_COPIES = 8
"""Of a table of sums; half of them beyond 64 bins, so that the table stays in the nearest cache."""

COMPILER_FLAGS = {"nogil": True, "fastmath": {"contract", "reassoc", "nsz"}, "error_model": "numpy"}

ZERO, ONE = np.float32(0), np.float32(1)


@intrinsic
def fma(typing, x, y, z):
    """x * y + z, rounded once. Left to itself LLVM fuses only where the product has no other use."""

    def generate(context, builder, signature, args):
        return builder.fma(*args)

    return x(x, y, z), generate


@intrinsic
def select(typing, leaves, index):
    """leaves[index] for a tuple of 2^d leaves, by 2^d - 1 selects; bits of the index above d are ignored."""

    def generate(context, builder, signature, args):
        level, index, bit = cgutils.unpack_tuple(builder, args[0]), args[1], 1
        while len(level) > 1:
            odd = builder.icmp_unsigned("!=", builder.and_(index, index.type(bit)), index.type(0))
            level = [builder.select(odd, b, a) for a, b in zip(level[::2], level[1::2], strict=True)]
            bit *= 2
        return level[0]

    return leaves.dtype(leaves, index), generate


@intrinsic
def add_to_table(typing, table, row, residual):
    """table[row] += (1, r, r^2, 0), a table of four float64 per row, by one load, one addition and one store."""

    def generate(context, builder, signature, args):
        four = ir.VectorType(ir.DoubleType(), 4)
        lane = ir.IntType(32)
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        place = builder.bitcast(builder.gep(data, [builder.shl(args[1], args[1].type(2))]), four.as_pointer())
        terms = builder.insert_element(ir.Constant(four, [1.0, 0.0, 0.0, 0.0]), args[2], lane(1))
        terms = builder.insert_element(terms, builder.fmul(args[2], args[2]), lane(2))
        builder.store(builder.fadd(builder.load(place, align=8), terms), place, align=8)
        return context.get_dummy_value()

    return types.void(table, row, residual), generate


def load_block(values, start, n, scratch):
    """Values start..start+n as float32: a slice, or bfloat16 (its bits, as uint16) widened into `scratch`."""


def block_for(values, start, n, scratch):
    """Where to write what `store_block` is to put there: the slice itself, or `scratch`."""


def store_block(values, start, block):
    """Finish writing: nothing to do, or round to bfloat16, to the nearest and ties to even."""


@overload(load_block)
def _(values, start, n, scratch):
    if values.dtype == types.float32:
        return lambda values, start, n, scratch: values[start : start + n]

    def widen(values, start, n, scratch):
        narrow, bits = values[start : start + n], scratch[:n].view(np.uint32)
        for i in range(n):
            bits[i] = np.uint32(narrow[i]) << np.uint32(16)
        return scratch[:n]

    return widen


@overload(block_for)
def _(values, start, n, scratch):
    if values.dtype == types.float32:
        return lambda values, start, n, scratch: values[start : start + n]
    return lambda values, start, n, scratch: scratch[:n]


@overload(store_block)
def _(values, start, block):
    if values.dtype == types.float32:
        return lambda values, start, block: None

    def narrow(values, start, block):
        n = block.shape[0]
        out, bits = values[start : start + n], block.view(np.uint32)
        for i in range(n):
            up = np.uint32(0x7FFF) + ((bits[i] >> np.uint32(16)) & np.uint32(1))
            rounded = np.uint16((bits[i] + up) >> np.uint32(16))
            out[i] = rounded if block[i] == block[i] else np.uint16(0x7FC0)

    return narrow


@njit(**COMPILER_FLAGS)
def _code(scaled, qn, qp):
    """A NaN passes through: every comparison with it is false."""
    scaled = qn if scaled < qn else scaled
    return np.rint(qp if scaled > qp else scaled)


@njit(**COMPILER_FLAGS)
def _bin(code, left_out, qn, qp):
    """Code to bin: NaN to the lowest, and what is left out to one more than the last."""
    code = code if code > qn else qn
    return np.int32((qp + ONE if left_out else code) - qn)


@njit(**COMPILER_FLAGS)
def _cut(value, floor, ceiling):
    value = floor if value < floor else value
    return ceiling if value > ceiling else value


@njit(**COMPILER_FLAGS)
def _is_cut(value, floor, ceiling):
    """Whether a ReLU with this clip stops the gradient."""
    return (value <= floor) | (value >= ceiling)


@njit(**COMPILER_FLAGS)
def quantize_block(x, out, alpha, qn, qp, floor, ceiling):
    for i in range(x.shape[0]):
        out[i] = _code(_cut(x[i], floor, ceiling) / alpha, qn, qp) * alpha


@njit(**COMPILER_FLAGS)
def bins_block(x, out, bins, residuals, alpha, qn, qp, floor, ceiling, low, high):
    for i in range(x.shape[0]):
        value = _cut(x[i], floor, ceiling)
        scaled = value / alpha
        code = _code(scaled, qn, qp)
        out[i] = code * alpha
        residuals[i] = fma(-code, alpha, value)
        bins[i] = _bin(code, (scaled < low) | (scaled > high), qn, qp)


@njit(**COMPILER_FLAGS)
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


@njit(**COMPILER_FLAGS)
def sum_by_table(bins, residuals, table):
    copies, rows = table.shape[:2]
    whole = bins.shape[0] // TABLE_COPIES * TABLE_COPIES
    for i in range(0, whole, TABLE_COPIES):
        for u in range(TABLE_COPIES):
            j = np.uint64(i + u)
            row = np.uint64(u % copies * rows) + np.uint64(np.uint32(bins[j]))
            add_to_table(table, row, np.float64(residuals[j]))
    for i in range(whole, bins.shape[0]):
        add_to_table(table, np.uint64(np.uint32(bins[i])), np.float64(residuals[i]))


@njit(**COMPILER_FLAGS)
def gradients_block(grad, x, out, alpha, qn, qp, floor, ceiling):
    """Straight-through gradient of the values; returns the sum that goes to the step size."""
    total = ZERO
    for i in range(x.shape[0]):
        scaled = _cut(x[i], floor, ceiling) / alpha
        code = _code(scaled, qn, qp)
        saturated = (scaled <= qn) | (scaled >= qp)
        out[i] = ZERO if saturated | _is_cut(x[i], floor, ceiling) else grad[i]
        total += grad[i] * (code if saturated else code - scaled)
    return total


@njit(**COMPILER_FLAGS)
def gradients_and_bins_block(grad, x, out, bins, residuals, alpha, qn, qp, floor, ceiling, low, high):
    total = ZERO
    for i in range(x.shape[0]):
        value = _cut(x[i], floor, ceiling)
        scaled = value / alpha
        code = _code(scaled, qn, qp)
        saturated = (scaled <= qn) | (scaled >= qp)
        out[i] = ZERO if saturated | _is_cut(x[i], floor, ceiling) else grad[i]
        total += grad[i] * (code if saturated else code - scaled)
        left_out = (scaled < low) | (scaled > high) | _is_cut(x[i], floor, ceiling)
        residuals[i] = ZERO if left_out else fma(-code, alpha, value)  # infinity times 0 is NaN
        bins[i] = _bin(code, left_out, qn, qp)
    return total


@njit(**COMPILER_FLAGS)
def gradients_and_pull_block(grad, x, out, alpha, qn, qp, floor, ceiling, low, high, linear, square):
    """The same with what the sums' gradients give to each value, linear[bin] + square[bin] * r, from tuples."""
    total = ZERO
    for i in range(x.shape[0]):
        value = _cut(x[i], floor, ceiling)
        scaled = value / alpha
        code = _code(scaled, qn, qp)
        saturated = (scaled <= qn) | (scaled >= qp)
        total += grad[i] * (code if saturated else code - scaled)
        k = np.int32((code if code > qn else qn) - qn)
        pull = fma(select(square, k), fma(-code, alpha, value), select(linear, k))
        passed = (ZERO if saturated else grad[i]) + (ZERO if (scaled < low) | (scaled > high) else pull)
        out[i] = ZERO if _is_cut(x[i], floor, ceiling) else passed
    return total


@njit(**COMPILER_FLAGS)
def pull_by_selects(out, bins, residuals, linear, square):
    """From tuples; what is left out has the bin behind the last, for which they need no leaf."""
    for i in range(out.shape[0]):
        out[i] += select(square, bins[i]) * residuals[i] if bins[i] < len(square) else ZERO
    if len(linear) > 1:
        for i in range(out.shape[0]):
            out[i] += select(linear, bins[i]) if bins[i] < len(linear) else ZERO


@njit(**COMPILER_FLAGS)
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
