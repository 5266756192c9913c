"""The plain implementation of the op: eager torch operations, on any device and in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from brsweep.kernels import ALPHA_FLOOR, INSIDE_VALUES, NO_SUMS, Options
from brsweep.kernels.storage import flat, laid_out, laid_out_like

LANES = 64
"""Bins are summed in this many copies, then added up: neighbouring values often share a bin, and on a CPU each
addition would otherwise wait for the one before it to be stored."""


def fault() -> None:
    return None


def forward(values: Tensor, alpha: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """Fake-quantized values, and the sums, float64 [3, bins] or [channels, 3, bins]; empty for NO_SUMS."""
    values, _ = laid_out(values, alpha, options.axis)
    wide = _cut(_wide(values), options)
    step = _step(alpha, wide, options.axis)
    steps = wide / step
    code = steps.clamp(options.qn, options.qp).round_()
    quantized = (code * step).to(values.dtype)
    if options.sums == NO_SUMS:
        return quantized, torch.empty(0, dtype=torch.float64, device=values.device)
    residual = torch.addcmul(wide, code, step, value=-1)
    index = code.sub_(options.qn)
    if options.sums == INSIDE_VALUES:  # left-out values go to a bin of their own, which is dropped at the end
        beyond = steps.sub_(steps.clamp(options.qn, options.qp)).sign_().abs_()
        index = index.add_(beyond, alpha=options.bins).clamp_(max=options.bins)
    return quantized, _bin_sums(_whole(index, options.bins), residual, options, alpha.dim())


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
    values, _ = laid_out(values, alpha, options.axis)
    wide = _cut(_wide(values), options)
    step = _step(alpha, wide, options.axis)
    steps = wide / step
    code = steps.clamp(options.qn, options.qp).round_()
    grad_values = slope = None
    if grad_quantized is not None:
        upstream = _wide(laid_out_like(values, grad_quantized))
        grad_values = _between(upstream, steps, options.qn, options.qp)
        if wants_alpha:
            slope = code - _between(steps, steps, options.qn, options.qp)
            slope = _sum_to(slope.mul_(upstream), alpha, options.axis)
    if grad_sums is not None:
        pull = _pull(options, wide, step, steps, code, grad_sums, alpha)
        grad_values = pull if grad_values is None else grad_values.add_(pull)
    if options.ceiling is not None:
        grad_values = _between(grad_values, wide, 0.0, options.ceiling)
    return grad_values.to(values.dtype), slope


def _pull(options, wide, step, steps, code, grad_sums, alpha):
    """What the gradients of the sums give to each value: gS1[bin] + 2 r gS2[bin]."""
    residual = torch.addcmul(wide, code, step, value=-1)
    index = _whole(code - options.qn, options.bins - 1)
    if alpha.dim():
        index = index + _along(torch.arange(alpha.numel(), device=index.device) * options.bins, index, options.axis)
    linear = grad_sums[..., 1, :].reshape(-1).to(wide.dtype)
    square = (2 * grad_sums[..., 2, :]).reshape(-1).to(wide.dtype)
    pull = linear.index_select(0, flat(index)).addcmul_(square.index_select(0, flat(index)), flat(residual))
    pull = pull.as_strided(wide.shape, wide.stride())
    if options.sums != INSIDE_VALUES:
        return pull
    below, above = torch.tensor([options.qn, options.qp], dtype=steps.dtype), torch.tensor([-math.inf, math.inf])
    return _between(pull, steps, *torch.nextafter(below, above.to(steps.dtype)).tolist())  # the ends are inside


def _between(given: Tensor, where: Tensor, low: float, high: float) -> Tensor:
    """`given`, but 0 where `where` <= low or `where` >= high. By the operator of ReLU's gradient: a mask and a choice
    take many times as long, and that of hardtanh treats a NaN in another way at the tensor's end than before.
    """
    given = torch.ops.aten.threshold_backward(given, where, low)
    return given if high == math.inf else torch.ops.aten.threshold_backward(given, -where, -high)


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


def _whole(index: Tensor, last: int) -> Tensor:
    """To an integer 0..last. A NaN has no integer value, so it is sent to the lowest bin."""
    return index.to(torch.int32).clamp_(0, last)


def _bin_sums(index, residual, options, per_channel):
    left_out = int(options.sums == INSIDE_VALUES)
    bins = options.bins + left_out
    index, residual = index.detach(), residual.detach()
    if per_channel:
        channels = index.shape[options.axis]
        offsets = torch.arange(channels, dtype=index.dtype, device=index.device) * bins
        index, rows = index + _along(offsets, index, options.axis), channels
        index, residual = flat(index), flat(residual).double()
    else:
        index, residual, rows = _into_lanes(index, residual, bins)
    table = torch.stack([_per_bin(index, w, rows * bins) for w in (None, residual, residual * residual)])
    table = table.view(3, rows, bins)[..., : options.bins]
    return (table.transpose(0, 1) if per_channel else table.sum(1)).contiguous()


def _into_lanes(index: Tensor, residual: Tensor, bins: int) -> tuple[Tensor, Tensor, int]:
    lanes = torch.arange(LANES, dtype=index.dtype, device=index.device) * bins
    index, residual = flat(index), flat(residual).double()
    rest = index.numel() % LANES
    whole = index.numel() - rest
    spread = index[:whole].view(-1, LANES) + lanes
    spread = spread.view(-1)
    return torch.cat([spread, index[whole:] + lanes[:rest]]) if rest else spread, residual, LANES


def _per_bin(index: Tensor, weights: Tensor | None, size: int) -> Tensor:
    if index.device.type == "cpu":
        return torch.bincount(index, weights, minlength=size).double()
    weights = torch.ones_like(index, dtype=torch.float64) if weights is None else weights
    # bincount on a GPU asks the host for the largest index; this does not
    return torch.zeros(size, dtype=torch.float64, device=index.device).scatter_add_(0, index.long(), weights)
