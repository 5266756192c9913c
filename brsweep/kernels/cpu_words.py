"""Words that the compiled loops need and Python lacks: exact instructions, and one spelling for both value types."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload


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


def load(values, start, n, scratch):
    """Values start..start+n as float32: a slice, or bfloat16 (its bits, as uint16) widened into `scratch`."""


def room(values, start, n, scratch):
    """Where to write what `store` is to put there: the slice itself, or `scratch`."""


def store(values, start, block):
    """Finish writing: nothing to do, or round to bfloat16, to the nearest and ties to even."""


@overload(load)
def _(values, start, n, scratch):
    if values.dtype == types.float32:
        return lambda values, start, n, scratch: values[start : start + n]

    def widen(values, start, n, scratch):
        narrow, bits = values[start : start + n], scratch[:n].view(np.uint32)
        for i in range(n):
            bits[i] = np.uint32(narrow[i]) << np.uint32(16)
        return scratch[:n]

    return widen


@overload(room)
def _(values, start, n, scratch):
    if values.dtype == types.float32:
        return lambda values, start, n, scratch: values[start : start + n]
    return lambda values, start, n, scratch: scratch[:n]


@overload(store)
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
