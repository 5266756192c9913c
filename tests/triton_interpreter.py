"""Triton's interpreter: kernels run by numpy on CPU tensors, in a process that was started with TRITON_INTERPRET=1."""

from __future__ import annotations

import os

import numpy as np


def interpreted() -> bool:
    """Whether this process interprets; if so, its fma is made to round once, as a GPU's does."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        return False
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def fma(_, x, y, z):
        exact = x.data.astype(np.float64) * y.data + z.data  # the product is exact; the sum is rounded far below
        return TensorHandle(exact.astype(z.data.dtype), z.dtype.scalar)

    InterpreterBuilder.create_fma = fma
    return True
