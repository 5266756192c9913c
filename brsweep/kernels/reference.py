"""The plain implementation of the op: eager torch operations, on any device and in float64.

A tensor is seen as rows, one per step size, in the order of its storage. On a CPU it is worked off in pieces of
columns: an operator on a whole activation waits for memory, on a piece that fits the cache it takes a fraction of that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from brsweep.kernels.op import INSIDE_VALUES, NO_SUMS, OpOptions, step_size
from brsweep.kernels.storage import as_row, laid_out, laid_out_like

PIECE = 2**18
"""Values worked off at a time: 1 MiB in float32 for each tensor that is made of them."""

ROW_PARTS = 16
"""A row that is the whole tensor is summed in this many parts, which threads share."""

BIN_COPIES = 8
"""Neighbouring values are summed into different copies of a bin: they often share it, and each addition would
otherwise wait for the one before it to be stored."""


def fault() -> None:
    return None


def takes(device_type: str, dtype: torch.dtype) -> bool:
    return True


def forward(values: Tensor, alpha: Tensor, options: OpOptions) -> tuple[Tensor, Tensor]:
    """Fake-quantized values, and the sums, float64 [3, bins] or [channels, 3, bins]; empty for NO_SUMS."""
    values, quantized = laid_out(values, alpha, options.axis)
    alphas = _alpha_column(alpha, values)
    with_sums = options.sums != NO_SUMS
    sums = torch.zeros((3, len(alphas), options.bins) if with_sums else 0, dtype=torch.float64, device=values.device)
    for piece, out in _pieces(len(alphas), values, quantized):
        wide, scaled, clamped, code = _scale_and_round(piece, alphas, options)
        torch.mul(code, alphas, out=out)
        if with_sums:
            residual = wide.addcmul(code, alphas, value=-1)
            index = code.sub_(options.qn)
            if options.sums == INSIDE_VALUES:  # left-out values go to a bin of their own, which is dropped
                index.add_(scaled.sub_(clamped).sign_().abs_(), alpha=options.bins)
            _add_to_bins(sums, _bin_index(index, options.bins, torch.int64), residual.double())
    if with_sums:
        sums = sums.transpose(0, 1) if alpha.dim() else sums[:, 0]
    return quantized, sums.contiguous()


def backward(
    values: Tensor,
    alpha: Tensor,
    options: OpOptions,
    grad_quantized: Tensor | None,
    grad_sums: Tensor | None,
    wants_alpha: bool,
) -> tuple[Tensor, Tensor | None]:
    """The gradient of the values, and LSQ's of the step size, float64, times `grad_scale`; None if not wanted.

    One of the two gradients that come in may be None.
    """
    values, grad_values = laid_out(values, alpha, options.axis)
    alphas = _alpha_column(alpha, values)
    slope = torch.zeros(len(alphas), dtype=torch.float64, device=values.device) if wants_alpha else None
    upstream = laid_out_like(values, grad_quantized)
    for piece, out, grad in _pieces(len(alphas), values, grad_values, upstream):
        wide, scaled, clamped, code = _scale_and_round(piece, alphas, options)
        negative, grad = -scaled, _wide(grad)
        passed = _between(grad, scaled, negative, options.qn, options.qp)
        if wants_alpha:  # passed is 0 where a value is saturated, so that its code is left
            slope += (code * grad).addcmul_(passed, clamped, value=-1).sum(1)
        if grad_sums is not None:
            residual = wide.addcmul(code, alphas, value=-1)
            index = _bin_index(code.sub_(options.qn), options.bins - 1, torch.int32)
            pull = _pull(index, residual, grad_sums)
            if options.sums == INSIDE_VALUES:
                pull = _between(pull, scaled, negative, *_beyond(options, scaled.dtype))
            passed += pull
        if options.ceiling is not None:
            passed = _between(passed, wide, None, 0.0, math.inf)
            if options.ceiling < math.inf:
                passed = _between(passed, -wide, None, -options.ceiling, math.inf)
        out.copy_(passed)
    return grad_values, None if slope is None else slope.view(alpha.shape) * options.grad_scale


def _alpha_column(alpha: Tensor, values: Tensor) -> Tensor:
    """A column of step sizes."""
    return step_size(alpha, torch.promote_types(values.dtype, torch.float32)).view(-1, 1)


def _pieces(rows: int, *tensors: Tensor) -> Iterator[list[Tensor]]:
    """The same columns of every tensor, some at a time."""
    tensors = [as_row(tensor).view(rows, tensor.numel() // max(1, rows)) for tensor in tensors]
    columns = tensors[0].shape[1]
    width = max(1, PIECE // max(1, rows) if tensors[0].device.type == "cpu" else columns)
    for start in range(0, columns, width):
        yield [tensor[:, start : start + width] for tensor in tensors]


def _scale_and_round(piece: Tensor, alphas: Tensor, options: OpOptions) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The values in the type that is computed in, cut by the ReLU; over alpha; clamped to the grid; the codes."""
    wide = _wide(piece)
    if options.ceiling is not None:
        wide = wide.clamp(0, options.ceiling)
    scaled = wide / alphas
    clamped = scaled.clamp(options.qn, options.qp)
    return wide, scaled, clamped, clamped.round()


def _pull(index: Tensor, residual: Tensor, grad_sums: Tensor) -> Tensor:
    """What the gradients of the sums give to each value: gS1[bin] + 2 r gS2[bin]."""
    bins = grad_sums.shape[-1]
    if len(index) > 1:
        index = index + torch.arange(len(index), dtype=index.dtype, device=index.device).view(-1, 1) * bins
    index = index.reshape(-1)
    linear, square = (grad_sums[..., row, :].reshape(-1).to(residual.dtype) for row in (1, 2))
    pull = (2 * square).index_select(0, index).view_as(residual).mul_(residual)
    if linear.device.type != "cpu" or linear.any():  # asking a GPU would wait for it
        pull += linear.index_select(0, index).view_as(residual)
    return pull


def _beyond(options: OpOptions, dtype: torch.dtype) -> list[float]:
    """The neighbours of the grid's ends, for `_between`: the ends themselves are inside for the sums."""
    ends, outwards = torch.tensor([options.qn, options.qp], dtype=dtype), torch.tensor([-math.inf, math.inf])
    return torch.nextafter(ends, outwards.to(dtype)).tolist()


def _between(given: Tensor, where: Tensor, negative: Tensor | None, low: float, high: float) -> Tensor:
    """`given`, but 0 where `where` <= low or `where` >= high; `negative` is -where. By the operator of ReLU's
    gradient: a mask and a choice take many times as long, and that of hardtanh treats a NaN in another way at the
    tensor's end than before.
    """
    given = torch.ops.aten.threshold_backward(given, where, low)
    return given if high == math.inf else torch.ops.aten.threshold_backward(given, negative, -high)


def _wide(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def _bin_index(index: Tensor, last: int, dtype: torch.dtype) -> Tensor:
    """To an integer 0..last. A NaN has no integer value, so it is sent to the lowest bin."""
    return index.to(dtype).clamp_(0, last)


def _add_to_bins(sums: Tensor, index: Tensor, residual: Tensor) -> None:
    """sums[:, row, index] += (1, r, r^2); an index of as many as there are bins is left out. Changes the other two."""
    _, rows, bins = sums.shape
    parts = ROW_PARTS if rows == 1 and index.numel() % ROW_PARTS == 0 else rows
    copies = BIN_COPIES if index.numel() // parts % BIN_COPIES == 0 else 1
    offsets = torch.arange(copies, device=index.device) * (bins + 1)
    index = index.view(parts, -1, copies).add_(offsets).view(parts, -1)
    residual = residual.view(parts, -1)
    table = sums.new_zeros(3, parts, copies * (bins + 1))
    table[0].scatter_add_(1, index, sums.new_ones(1, 1).expand_as(residual))
    table[1].scatter_add_(1, index, residual)
    table[2].scatter_add_(1, index, residual.mul_(residual))
    sums += table.view(3, rows, -1, bins + 1).sum(2)[..., :bins]
