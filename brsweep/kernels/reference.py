"""The plain implementation of the op: eager torch operations in one autograd Function.

Runs on any device and in float64; the other implementations are held against it. It saves the values alone for the
backward and computes the codes again there, so it keeps no more memory than LSQ without sums.
"""

from __future__ import annotations

import torch
from torch import Tensor

from brsweep.kernels import ALPHA_FLOOR, INSIDE_VALUES, NO_SUMS

LANES = 64
"""Bins are summed in this many copies, then added up: neighbouring values often share a bin, and on a CPU each
addition would otherwise wait for the one before it to be stored."""


def fake_quantize(values, alpha, qn, qp, grad_scale, axis, sums, sums_alpha_grad):
    quantized, bin_sums = FakeQuantize.apply(values, alpha, qn, qp, grad_scale, axis, sums, sums_alpha_grad)
    return quantized, None if sums == NO_SUMS else bin_sums


class FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(values, alpha, qn, qp, grad_scale, axis, sums, sums_alpha_grad):
        wide = _wide(values)
        step = _step(alpha, wide, axis)
        steps = wide / step
        code = steps.clamp(qn, qp).round_()
        quantized = (code * step).to(values.dtype)
        if sums == NO_SUMS:
            return quantized, torch.empty(0, dtype=torch.float64, device=values.device)
        counted = ~_saturated(steps, qn, qp) if sums == INSIDE_VALUES else None
        residual = torch.addcmul(wide, code, step, value=-1)
        return quantized, _bin_sums(_bin_index(code, qn, qp), residual, counted, qp - qn + 1, alpha.dim(), axis)

    @staticmethod
    def setup_context(ctx, inputs, output):
        values, alpha, ctx.qn, ctx.qp, ctx.grad_scale, ctx.axis, ctx.sums, ctx.sums_alpha_grad = inputs
        ctx.save_for_backward(values, alpha, output[1])
        if ctx.sums == NO_SUMS:
            ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad_quantized, grad_sums):
        values, alpha, sums = ctx.saved_tensors
        wide = _wide(values)
        step = _step(alpha, wide, ctx.axis)
        steps = wide / step
        code = steps.clamp(ctx.qn, ctx.qp).round_()
        grad_values = grad_alpha = None
        if grad_quantized is not None:
            upstream = _wide(grad_quantized)
            inside = (steps > ctx.qn) & (steps < ctx.qp)
            if ctx.needs_input_grad[0]:
                grad_values = torch.where(inside, upstream, 0)
            if ctx.needs_input_grad[1]:
                slope = torch.where(inside, code - steps, code)
                grad_alpha = _sum_to(upstream * slope, alpha, ctx.axis) * ctx.grad_scale
        if grad_sums is not None:
            if ctx.needs_input_grad[0]:
                pull = _pull(ctx, wide, step, steps, code, grad_sums, alpha)
                grad_values = pull if grad_values is None else grad_values.add_(pull)
            if ctx.needs_input_grad[1] and ctx.sums_alpha_grad:
                through = alpha_through_sums(ctx, sums, grad_sums)
                grad_alpha = through if grad_alpha is None else grad_alpha + through
        return (
            None if grad_values is None else grad_values.to(values.dtype),
            None if grad_alpha is None else grad_alpha.to(alpha.dtype),
            *(None,) * 6,
        )


def alpha_through_sums(ctx, sums: Tensor, grad_sums: Tensor) -> Tensor:
    """The gradient that reaches the step size through the sums, from them alone."""
    codes = torch.arange(ctx.qn, ctx.qp + 1, dtype=sums.dtype, device=sums.device)
    by_bin = grad_sums[..., 1, :] * sums[..., 0, :] + 2 * grad_sums[..., 2, :] * sums[..., 1, :]
    return (-codes * by_bin).sum(-1) * ctx.sums_alpha_grad


def _pull(ctx, wide, step, steps, code, grad_sums, alpha):
    """What the gradients of the sums give to each value: gS1[bin] + 2 r gS2[bin]."""
    residual = torch.addcmul(wide, code, step, value=-1)
    index = _bin_index(code, ctx.qn, ctx.qp)
    bins = ctx.qp - ctx.qn + 1
    if alpha.dim():
        index = index + _along(torch.arange(alpha.numel(), device=index.device) * bins, index, ctx.axis)
    linear = grad_sums[..., 1, :].reshape(-1).to(wide.dtype)
    square = (2 * grad_sums[..., 2, :]).reshape(-1).to(wide.dtype)
    pull = torch.addcmul(linear[index], square[index], residual)
    return pull.masked_fill_(_saturated(steps, ctx.qn, ctx.qp), 0) if ctx.sums == INSIDE_VALUES else pull


def _wide(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


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
