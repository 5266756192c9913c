"""The fast implementation for CPUs: one pass each way, compiled by numba.

Takes float32 and bfloat16, and gives the reference's codes and outputs; only sums are added up in another order. The
same bits for any number of threads. Tensors are read in the order of storage, so contiguous and channels_last need no
copy; tensors with gaps, and channels that do not lie one after the other, are copied.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from brsweep.kernels import cpu_passes
from brsweep.kernels.cpu_loops import BLOCK, SELECTED_BINS
from brsweep.kernels.cpu_threads import walk
from brsweep.kernels.op import INSIDE_VALUES, NO_SUMS, OpOptions, step_size
from brsweep.kernels.storage import as_row, laid_out, laid_out_like

PASS_TYPES = {torch.float32: "float32", torch.bfloat16: "uint16"}
"""What it takes, and as what the passes see it: numpy knows no bfloat16."""

MOST_ROWS = 64
SHORTEST_ROW = 16 * BLOCK
"""A tensor with one step size is cut into rows: enough of them for every thread, none too short to be worth a call."""


def fault() -> None:
    """Raises where numba cannot compile."""
    forward(torch.zeros(1), torch.ones(()), OpOptions(0, 1, 1.0, 0, NO_SUMS, 0.0))


def takes(device_type: str, dtype: torch.dtype) -> bool:
    return device_type == "cpu" and dtype in PASS_TYPES


def forward(values: Tensor, alpha: Tensor, options: OpOptions) -> tuple[Tensor, Tensor]:
    values, quantized = laid_out(values, alpha, options.axis)
    size, (rows, length) = values.numel(), _split_rows(values, alpha)
    given = (_numpy(values), _numpy(quantized), length, _alphas(alpha), _limits(options))
    if options.sums == NO_SUMS:
        walk(cpu_passes.quantize(PASS_TYPES[values.dtype]), rows, size, *given)
        return quantized, torch.empty(0, dtype=torch.float64)
    by_row, inside_only = np.zeros((rows, 3, options.bins)), options.sums == INSIDE_VALUES
    walk(cpu_passes.quantize_and_sum(PASS_TYPES[values.dtype]), rows, size, *given, inside_only, by_row)
    return quantized, torch.from_numpy(by_row if alpha.dim() else by_row.sum(0))


def backward(
    values: Tensor,
    alpha: Tensor,
    options: OpOptions,
    grad_quantized: Tensor | None,
    grad_sums: Tensor | None,
    wants_alpha: bool,
) -> tuple[Tensor, Tensor]:
    """Both gradients, whether wanted or not: they fall out of one pass, which waits for memory, so that leaving one
    out, for a frozen alpha say, saves no time.
    """
    values, grad_values = laid_out(values, alpha, options.axis)
    grad_quantized = laid_out_like(values, grad_quantized)
    (rows, length), dtype = _split_rows(values, alpha), PASS_TYPES[values.dtype]
    slopes = np.zeros(rows)
    tensors = (_numpy(grad_quantized), _numpy(values), _numpy(grad_values))
    given = (*tensors, length, _alphas(alpha), _limits(options))
    if grad_sums is None:
        walk(cpu_passes.gradients(dtype), rows, values.numel(), *given, slopes)
    else:
        width, linear, square = _padded_tables(grad_sums, options.bins)
        compiled = cpu_passes.gradients_and_pull(dtype, width, linear.shape[1])
        inside_only = options.sums == INSIDE_VALUES
        walk(compiled, rows, values.numel(), *given, inside_only, linear, square, slopes)
    slope = torch.from_numpy(slopes if alpha.dim() else slopes.sum(keepdims=True)).view(alpha.shape)
    return grad_values, slope * options.grad_scale


def _padded_tables(grad_sums: Tensor, bins: int) -> tuple[int, np.ndarray, np.ndarray]:
    """What each bin gives to its values, one row per step size; zero beyond the bins."""
    by_step = grad_sums.reshape(-1, 3, bins).numpy()
    width = max(2, 1 << (bins - 1).bit_length()) if bins <= SELECTED_BINS else 0
    square = np.zeros((by_step.shape[0], width or bins + 1), np.float32)
    square[:, :bins] = 2 * by_step[:, 2]
    linear = np.zeros_like(square if by_step[:, 1].any() else square[:, :1])
    linear[:, :bins] = by_step[:, 1, : linear.shape[1]]
    return width, linear, square


def _numpy(tensor: Tensor) -> np.ndarray:
    row = as_row(tensor)
    return (row.view(torch.uint16) if row.dtype == torch.bfloat16 else row).numpy()


def _limits(options: OpOptions) -> tuple[np.float32, ...]:
    return tuple(map(np.float32, (options.qn, options.qp, *options.bounds)))


def _split_rows(values: Tensor, alpha: Tensor) -> tuple[int, int]:
    """Number and length of the rows: a channel each, or pieces that depend on the tensor's size alone."""
    if alpha.dim():
        return alpha.numel(), values.numel() // max(1, alpha.numel())
    length = max(SHORTEST_ROW, -(-values.numel() // MOST_ROWS // BLOCK) * BLOCK)
    return -(-values.numel() // length), length


def _alphas(alpha: Tensor) -> np.ndarray:
    return step_size(alpha, torch.float32).numpy().reshape(-1)
