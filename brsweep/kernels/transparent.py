"""The op in operators that a compiler can see into: nothing in place, no copies, no lookups by index.

For torch.compile alone: inductor fuses the whole of it with the batch norm and the ReLU before, each way, and sums the
bins in reductions of the same loop, one bin after the other. Uncompiled it is the slowest of all. The codes come from
the same correctly rounded division as the reference's, so outputs and codes are its bits; sums are added up in another
order, a value at a time in float32 and across values as inductor reduces.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from brsweep.kernels.op import ALPHA_FLOOR, INSIDE_VALUES, NO_SUMS, OpOptions, input_gradients, save_for_gradients


class Transparent(torch.autograd.Function):
    """`brsweep.kernels.op.FakeQuantize` by this module's passes, in the form that dynamo traces."""

    @staticmethod
    def forward(ctx, values, alpha, options):
        quantized, sums = forward(values, alpha, options)
        ctx.options = options
        save_for_gradients(ctx, values, alpha, sums, options)
        return quantized, sums

    @staticmethod
    def backward(ctx, grad_quantized, grad_sums):
        if ctx.options.sums == NO_SUMS:
            grad_sums = None  # dynamo hands zeros down, of the shape of what is no sum
        return *input_gradients(ctx, backward, grad_quantized, grad_sums), None


def forward(values: Tensor, alpha: Tensor, options: OpOptions) -> tuple[Tensor, Tensor]:
    """Fake-quantized values, and the sums, float64 [3, bins] or [channels, 3, bins]; empty for NO_SUMS."""
    value, step = _cut(values, options), _step(alpha, values, options.axis)
    scaled = value / step
    code = scaled.clamp(options.qn, options.qp).round()
    quantized = (code * step).to(values.dtype)
    if options.sums == NO_SUMS:
        return quantized, values.new_empty(0, dtype=torch.float64)
    residual = value - code * step
    number = _bin(code, options)
    counted = ~_outside(scaled, options) if options.sums == INSIDE_VALUES else None
    kept = [d for d in range(values.dim()) if alpha.dim() and d == options.axis % values.dim()]
    over = [d for d in range(values.dim()) if d not in kept]
    rows = []
    for k in range(options.qn, options.qp + 1):
        member = number == k if counted is None else (number == k) & counted
        mine = torch.where(member, residual, 0.0)
        rows.append(torch.stack([part.sum(over, dtype=torch.float64) for part in (member, mine, mine * mine)], -1))
    return quantized, torch.stack(rows, -1)


def backward(
    values: Tensor,
    alpha: Tensor,
    options: OpOptions,
    grad_quantized: Tensor | None,
    grad_sums: Tensor | None,
    wants_alpha: bool,
) -> tuple[Tensor, Tensor | None]:
    value, step = _cut(values, options), _step(alpha, values, options.axis)
    scaled = value / step
    code = scaled.clamp(options.qn, options.qp).round()
    saturated = (scaled <= options.qn) | (scaled >= options.qp)
    upstream = torch.zeros_like(value) if grad_quantized is None else grad_quantized.to(value.dtype)
    slope = None
    if wants_alpha:
        moved = upstream * torch.where(saturated, code, code - scaled)
        over = [d for d in range(values.dim()) if not alpha.dim() or d != options.axis % values.dim()]
        slope = moved.sum(over, dtype=torch.float64).view(alpha.shape) * options.grad_scale
    passed = torch.where(saturated, 0.0, upstream)
    if grad_sums is not None:
        linear, square = (_step(grad_sums[..., row, 0], values, options.axis, floor=-math.inf) for row in (1, 2))
        for k in range(1, options.bins):  # no `==`: the compiler would keep the forward's masks, one for each bin
            above = code >= options.qn + k
            linear = torch.where(above, _step(grad_sums[..., 1, k], values, options.axis, floor=-math.inf), linear)
            square = torch.where(above, _step(grad_sums[..., 2, k], values, options.axis, floor=-math.inf), square)
        pull = linear + 2 * square * (value - code * step)
        passed = passed + (torch.where(_outside(scaled, options), 0.0, pull) if options.sums == INSIDE_VALUES else pull)
    if options.ceiling is not None:
        passed = torch.where((values <= 0) | (values >= options.ceiling), 0.0, passed)
    return passed.to(values.dtype), slope


def _cut(values: Tensor, options: OpOptions) -> Tensor:
    """In the type that is computed in, behind the ReLU."""
    wide = values if values.dtype == torch.float64 else values.float()
    return wide if options.ceiling is None else wide.clamp(0.0, options.ceiling)


def _step(by_row: Tensor, values: Tensor, axis: int, floor: float = ALPHA_FLOOR) -> Tensor:
    """One number per row, as it broadcasts against the values and in the type that is computed in."""
    shape = [1] * values.dim()
    if by_row.dim():
        shape[axis] = -1
    return by_row.clamp(min=floor).to(torch.promote_types(values.dtype, torch.float32)).view(shape)


def _bin(code: Tensor, options: OpOptions) -> Tensor:
    """The code, and the lowest for what is no number: by a comparison, since inductor looks for NaN value by value."""
    return torch.where(code > options.qn, code, float(options.qn))


def _outside(scaled: Tensor, options: OpOptions) -> Tensor:
    return (scaled < options.qn) | (scaled > options.qp)
