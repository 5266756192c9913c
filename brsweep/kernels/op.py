"""The op without its implementation: what it is asked for, what is saved for the way back, and how the gradients of
both outputs become those of the inputs.

Autograd saves the values alone, and the sums; codes are computed again on the way back. So it keeps no more memory than
LSQ without sums, whatever the number of bins.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ALPHA_FLOOR = 2.0**-20
"""The smallest step size in use, about 1e-6: max(alpha, floor) is what quantizes, with the gradient passed through.
A power of two, so that the floor's own levels are exact. LSQ is silent on step sizes that a large gradient pushes
below zero; with the floor no training loop can reach one, and the gradient still leads back up."""

NO_SUMS = "none"
ALL_VALUES = "all"
INSIDE_VALUES = "inside"

COUNT, SUM, SQUARES = 0, 1, 2
"""Rows of the sums: n, sum of r, sum of r^2."""


class OpOptions(NamedTuple):
    """What the op is asked for beside its tensors; `brsweep.kernels.fake_quantize` says what each means."""

    qn: int
    qp: int
    grad_scale: float
    axis: int
    sums: str
    sums_alpha_grad: float
    ceiling: float | None = None

    @property
    def bins(self) -> int:
        return self.qp - self.qn + 1

    @property
    def bounds(self) -> tuple[float, float]:
        """What values are cut to. NaN where they are not: every comparison with it is false."""
        floor = math.nan if self.ceiling is None else 0.0
        return floor, math.nan if self.ceiling in (None, math.inf) else self.ceiling


def step_size(alpha: Tensor, dtype: torch.dtype) -> Tensor:
    """What quantizes in `dtype`; NaN stays NaN."""
    return alpha.clamp(min=ALPHA_FLOOR).to(dtype)


class FakeQuantize(torch.autograd.Function):
    """A plain Function: in eager mode a registered operator would add some 25 microseconds to each call."""

    @staticmethod
    def forward(values, alpha, options, implementation):
        return implementation.forward(values.detach(), alpha.detach(), options)

    @staticmethod
    def setup_context(ctx, inputs, output):
        values, alpha, ctx.options, implementation = inputs
        ctx.implementation = implementation
        save_for_gradients(ctx, values, alpha, output[1], ctx.options)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_quantized, grad_sums):
        return *input_gradients(ctx, ctx.implementation.backward, grad_quantized, grad_sums), None, None


_apply_plainly = super(torch.autograd.Function, FakeQuantize).apply
"""`FakeQuantize.apply` without what it does before: for functorch's transforms (`torch.func.grad`) it binds the
arguments to the signature of `forward`, at as much as the rest of the call costs: 1.5 % of a small network's step."""

_transformed = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)


def apply(values: Tensor, alpha: Tensor, options: OpOptions, implementation) -> tuple[Tensor, Tensor]:
    """The op with its gradients: fake-quantized values, and sums, empty where none are asked for.

    implementation: an object or module with `forward` and `backward`, as the head of `brsweep.kernels` says.
    """
    apply_to = FakeQuantize.apply if _transformed() else _apply_plainly
    return apply_to(values, alpha, options, implementation)


def save_for_gradients(ctx, values: Tensor, alpha: Tensor, sums: Tensor, options: OpOptions) -> None:
    ctx.save_for_backward(values, alpha, sums)
    if options.sums == NO_SUMS:
        ctx.mark_non_differentiable(sums)
    ctx.set_materialize_grads(False)


def input_gradients(ctx, backward: Callable, grad_quantized: Tensor | None, grad_sums: Tensor | None):
    """Gradients of values and alpha, None where not asked for; `ctx` as `save_for_gradients` left it, with its
    `options`.
    """
    if grad_quantized is None and grad_sums is None:
        return None, None
    (values, alpha, sums), options = ctx.saved_tensors, ctx.options
    wants_values, wants_alpha = ctx.needs_input_grad[:2]
    grad_values, slope = backward(values, alpha, options, grad_quantized, grad_sums, wants_alpha)
    grad_alpha = slope if wants_alpha and grad_quantized is not None else None
    if wants_alpha and grad_sums is not None and options.sums_alpha_grad:
        through = _alpha_through_sums(options, sums, grad_sums)
        grad_alpha = through if grad_alpha is None else grad_alpha + through
    return grad_values if wants_values else None, None if grad_alpha is None else grad_alpha.to(alpha.dtype)


def _alpha_through_sums(options: OpOptions, sums: Tensor, grad_sums: Tensor) -> Tensor:
    """The gradient that reaches the step size through the sums, from them alone."""
    codes = torch.arange(options.qn, options.qp + 1, dtype=sums.dtype, device=sums.device)
    by_bin = grad_sums[..., SUM, :] * sums[..., COUNT, :] + 2 * grad_sums[..., SQUARES, :] * sums[..., SUM, :]
    return (-codes * by_bin).sum(-1) * options.sums_alpha_grad
