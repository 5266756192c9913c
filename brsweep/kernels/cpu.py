"""The fast implementation for CPUs: numba's compiled passes under the reference's autograd Function.

Takes float32 and bfloat16, and gives the reference's codes and outputs; only sums are added up in another order. The
same bits for any number of threads. Tensors are read in the order of storage, so contiguous and channels_last need no
copy; tensors with gaps, and channels that do not lie one after the other, are copied.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from brsweep.kernels import INSIDE_VALUES, NO_SUMS, cpu_passes, reference
from brsweep.kernels.cpu_blocks import BLOCK, FEW_BINS
from brsweep.kernels.cpu_threads import walk

DTYPES = {torch.float32: "float32", torch.bfloat16: "uint16"}
"""What it takes, and as what the passes see it: numpy knows no bfloat16."""

MOST_ROWS = 64
SHORTEST_ROW = 16 * BLOCK
"""A tensor with one step size is cut into rows: enough of them for every thread, none too short to be worth a call."""


def fake_quantize(values, alpha, qn, qp, grad_scale, axis, sums, sums_alpha_grad):
    quantized, bin_sums = FakeQuantize.apply(values, alpha, qn, qp, grad_scale, axis, sums, sums_alpha_grad)
    return quantized, None if sums == NO_SUMS else bin_sums


class FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(values, alpha, qn, qp, grad_scale, axis, sums, sums_alpha_grad):
        values, quantized = _laid_out(values.detach(), alpha, axis)
        size, (rows, length), steps = values.numel(), _rows(values, alpha), _steps(alpha)
        given = (_flat(values), _flat(quantized), length, steps, qn, qp)
        if sums == NO_SUMS:
            walk(cpu_passes.quantize(DTYPES[values.dtype]), rows, size, *given)
            return quantized, torch.empty(0, dtype=torch.float64)
        by_row = np.zeros((rows, 3, qp - qn + 1))
        walk(cpu_passes.quantize_and_sum(DTYPES[values.dtype]), rows, size, *given, sums == INSIDE_VALUES, by_row)
        return quantized, torch.from_numpy(by_row if alpha.dim() else by_row.sum(0))

    setup_context = reference.FakeQuantize.setup_context

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_quantized, grad_sums):
        values, alpha, sums = ctx.saved_tensors
        if grad_quantized is None and grad_sums is None:
            return (None,) * 8
        grad_values, slopes = _backward(ctx, values.detach(), alpha.detach(), grad_quantized, grad_sums)
        grad_alpha = None
        if ctx.needs_input_grad[1]:
            if grad_quantized is not None:
                slopes = torch.from_numpy(slopes if alpha.dim() else slopes.sum(keepdims=True)) * ctx.grad_scale
                grad_alpha = slopes.view(alpha.shape)
            if grad_sums is not None and ctx.sums_alpha_grad:
                through = reference.alpha_through_sums(ctx, sums, grad_sums)
                grad_alpha = through if grad_alpha is None else grad_alpha + through
            grad_alpha = None if grad_alpha is None else grad_alpha.to(alpha.dtype)
        return grad_values if ctx.needs_input_grad[0] else None, grad_alpha, *(None,) * 6


def _backward(ctx, values, alpha, grad_quantized, grad_sums) -> tuple[Tensor, np.ndarray]:
    """Gradient of the values, and each row's share of the step size's. Both fall out of one pass, which waits for
    memory: leaving either out, for a frozen alpha say, saves no time.
    """
    values, grad_values = _laid_out(values, alpha, ctx.axis)
    if grad_quantized is None:
        grad_quantized = torch.zeros_like(values)
    elif grad_quantized.stride() != values.stride():
        grad_quantized = torch.empty_like(values).copy_(grad_quantized)
    (rows, length), dtype = _rows(values, alpha), DTYPES[values.dtype]
    slopes = np.zeros(rows)
    given = (_flat(grad_quantized), _flat(values), _flat(grad_values), length, _steps(alpha), ctx.qn, ctx.qp)
    if grad_sums is None:
        walk(cpu_passes.gradients(dtype), rows, values.numel(), *given, slopes)
    else:
        width, linear, square = _tables(grad_sums, ctx.qp - ctx.qn + 1)
        compiled = cpu_passes.gradients_and_pull(dtype, width, linear.shape[1])
        walk(compiled, rows, values.numel(), *given, ctx.sums == INSIDE_VALUES, linear, square, slopes)
    return grad_values, slopes


def _tables(grad_sums: Tensor, bins: int) -> tuple[int, np.ndarray, np.ndarray]:
    """What each bin gives to its values, one row per step size; zero beyond the bins."""
    by_step = grad_sums.reshape(-1, 3, bins).numpy()
    width = max(2, 1 << (bins - 1).bit_length()) if bins <= FEW_BINS else 0
    square = np.zeros((by_step.shape[0], width or bins + 1), np.float32)
    square[:, :bins] = 2 * by_step[:, 2]
    linear = np.zeros_like(square if by_step[:, 1].any() else square[:, :1])
    linear[:, :bins] = by_step[:, 1, : linear.shape[1]]
    return width, linear, square


def _laid_out(values: Tensor, alpha: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """The values without gaps and, per channel, one channel after the other; and an empty tensor laid out alike."""
    if alpha.dim() and alpha.shape != values.shape[axis : axis + 1 or None]:
        raise ValueError(f"alpha of shape {list(alpha.shape)} for axis {axis} of values {list(values.shape)}")
    like = torch.empty_like(values)
    if alpha.dim() and like.stride(axis) * alpha.numel() != like.numel():
        like = torch.empty_like(like.movedim(axis, 0), memory_format=torch.contiguous_format).movedim(0, axis)
    return (values if values.stride() == like.stride() else torch.empty_like(like).copy_(values)), like


def _flat(tensor: Tensor) -> np.ndarray:
    flat = tensor.as_strided((tensor.numel(),), (1,))
    return (flat.view(torch.uint16) if flat.dtype == torch.bfloat16 else flat).numpy()


def _rows(values: Tensor, alpha: Tensor) -> tuple[int, int]:
    """Number and length of the rows: a channel each, or pieces that depend on the tensor's size alone."""
    if alpha.dim():
        return alpha.numel(), values.numel() // max(1, alpha.numel())
    length = max(SHORTEST_ROW, -(-values.numel() // MOST_ROWS // BLOCK) * BLOCK)
    return -(-values.numel() // length), length


def _steps(alpha: Tensor) -> np.ndarray:
    return reference.step_size(alpha.detach(), torch.float32).reshape(-1).numpy()
