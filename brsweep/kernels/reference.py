"""The plain implementation of the op: eager torch operations, on any device and in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from brsweep.kernels import ALPHA_FLOOR, INSIDE_VALUES, NO_SUMS, Options

LANES = 64
"""Bins are summed in this many copies, then added up: neighbouring values often share a bin, and on a CPU each
addition would otherwise wait for the one before it to be stored."""


def fault() -> None:
    return None


def forward(values: Tensor, alpha: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """Fake-quantized values, and the sums, float64 [3, bins] or [channels, 3, bins]; empty for NO_SUMS."""
    qn, qp = options.qn, options.qp
    wide = _cut(_wide(values), options)
    step = _step(alpha, wide, options.axis)
    steps = wide / step
    code = steps.clamp(qn, qp).round_()
    quantized = (code * step).to(values.dtype)
    if options.sums == NO_SUMS:
        return quantized, torch.empty(0, dtype=torch.float64, device=values.device)
    counted = ~_saturated(steps, qn, qp) if options.sums == INSIDE_VALUES else None
    residual = torch.addcmul(wide, code, step, value=-1)
    index = _bin_index(code, qn, qp)
    return quantized, _bin_sums(index, residual, counted, options.bins, alpha.dim(), options.axis)


def backward(
    values: Tensor,
    alpha: Tensor,
    options: Options,
    grad_quantized: Tensor | None,
    grad_sums: Tensor | None,
    wants_alpha: bool,
) -> tuple[Tensor, Tensor | None]:
    """The gradient of the values, and LSQ's of the step size, float64, before `grad_scale`; None if not wanted.

    One of the two gradients that come in may be None.
    """
    wide = _cut(_wide(values), options)
    step = _step(alpha, wide, options.axis)
    steps = wide / step
    code = steps.clamp(options.qn, options.qp).round_()
    grad_values = slope = None
    if grad_quantized is not None:
        upstream = _wide(grad_quantized)
        inside = (steps > options.qn) & (steps < options.qp)
        grad_values = torch.where(inside, upstream, 0)
        if wants_alpha:
            slope = _sum_to(upstream * torch.where(inside, code - steps, code), alpha, options.axis)
    if grad_sums is not None:
        pull = _pull(options, wide, step, steps, code, grad_sums, alpha)
        grad_values = pull if grad_values is None else grad_values.add_(pull)
    if options.ceiling is not None:
        floor, ceiling = options.bounds
        grad_values.masked_fill_((wide <= floor) | (wide >= ceiling), 0)
    return grad_values.to(values.dtype), slope


def _pull(options, wide, step, steps, code, grad_sums, alpha):
    """What the gradients of the sums give to each value: gS1[bin] + 2 r gS2[bin]."""
    residual = torch.addcmul(wide, code, step, value=-1)
    index = _bin_index(code, options.qn, options.qp)
    if alpha.dim():
        index = index + _along(torch.arange(alpha.numel(), device=index.device) * options.bins, index, options.axis)
    linear = grad_sums[..., 1, :].reshape(-1).to(wide.dtype)
    square = (2 * grad_sums[..., 2, :]).reshape(-1).to(wide.dtype)
    pull = torch.addcmul(linear[index], square[index], residual)
    return pull.masked_fill_(_saturated(steps, options.qn, options.qp), 0) if options.sums == INSIDE_VALUES else pull


def _wide(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def _cut(values: Tensor, options: Options) -> Tensor:
    return values if options.ceiling is None else values.clamp(0, options.ceiling)


def _along(per_channel: Tensor, values: Tensor, axis: int) -> Tensor:
    shape = [1] * values.dim()
    shape[axis] = -1
    return per_channel.view(shape)


def step_size(alpha: Tensor, dtype: torch.dtype) -> Tensor:
    """What quantizes in `dtype`; NaN stays NaN."""
    return alpha.clamp(min=ALPHA_FLOOR).to(dtype)


def _step(alpha: Tensor, values: Tensor, axis: int) -> Tensor:
    step = step_size(alpha, values.dtype)
    return _along(step, values, axis) if alpha.dim() else step


def _sum_to(terms: Tensor, alpha: Tensor, axis: int) -> Tensor:
    dims = [d for d in range(terms.dim()) if d != axis % terms.dim()] if alpha.dim() else list(range(terms.dim()))
    return terms.sum(dims, dtype=torch.float64) if dims else terms.double()


def _saturated(steps: Tensor, qn: int, qp: int) -> Tensor:
    """Beyond the range, its ends excluded. A NaN is not: it has to show in the sums."""
    return (steps < qn) | (steps > qp)


def _bin_index(code: Tensor, qn: int, qp: int) -> Tensor:
    """Code to bin. A NaN has no integer value, so it is sent to the lowest bin."""
    return (code - qn).to(torch.int32).clamp_(0, qp - qn)


def _bin_sums(index, residual, counted, bins, per_channel, axis):
    index, residual = index.detach(), residual.detach()
    if counted is not None:  # left-out values go to a bin of their own, which is dropped at the end
        index = torch.where(counted, index, bins)
        bins += 1
    if per_channel:
        channels = index.shape[axis]
        offsets = torch.arange(channels, dtype=index.dtype, device=index.device) * bins
        index, rows = index + _along(offsets, index, axis), channels
        index, residual = index.reshape(-1), residual.reshape(-1).double()
    else:
        index, residual, rows = _into_lanes(index, residual, bins)
    table = torch.stack([_per_bin(index, w, rows * bins) for w in (None, residual, residual * residual)])
    table = table.view(3, rows, bins)
    if counted is not None:
        table = table[..., :-1]
    return (table.transpose(0, 1) if per_channel else table.sum(1)).contiguous()


def _into_lanes(index: Tensor, residual: Tensor, bins: int) -> tuple[Tensor, Tensor, int]:
    lanes = torch.arange(LANES, dtype=index.dtype, device=index.device) * bins
    index, residual = index.reshape(-1), residual.reshape(-1).double()
    rest = index.numel() % LANES
    whole = index.numel() - rest
    spread = index[:whole].view(-1, LANES) + lanes
    return torch.cat([spread.view(-1), index[whole:] + lanes[:rest]]), residual, LANES


def _per_bin(index: Tensor, weights: Tensor | None, size: int) -> Tensor:
    if index.device.type == "cpu":
        return torch.bincount(index, weights, minlength=size).double()
    weights = torch.ones_like(index, dtype=torch.float64) if weights is None else weights
    # bincount on a GPU asks the host for the largest index; this does not
    return torch.zeros(size, dtype=torch.float64, device=index.device).scatter_add_(0, index.long(), weights)
