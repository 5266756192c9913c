"""Autograd around an implementation: what is saved, and how the gradients of both outputs become those of the inputs.

It saves the values alone, and the sums; codes are computed again on the way back. So it keeps no more memory than LSQ
without sums, whatever the number of bins.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from brsweep.kernels import NO_SUMS, Options, _implementation


def apply(values: Tensor, alpha: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """The op with its gradients: fake-quantized values, and sums, empty where none are asked for."""
    if torch.compiler.is_compiling():
        from brsweep.kernels import compiled

        return compiled.fake_quantize(values, alpha, *options)
    apply_to = FakeQuantize.apply if _transformed() else _apply_plainly
    return apply_to(values, alpha, options, _implementation(values))


class FakeQuantize(torch.autograd.Function):
    """A plain Function: in eager mode a registered operator would add some 25 microseconds to each call."""

    @staticmethod
    def forward(values, alpha, options, implementation):
        return implementation.forward(values.detach(), alpha.detach(), options)

    @staticmethod
    def setup_context(ctx, inputs, output):
        values, alpha, ctx.options, implementation = inputs
        ctx.implementation = implementation
        save(ctx, values, alpha, output[1], ctx.options)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_quantized, grad_sums):
        return *gradients(ctx, ctx.implementation.backward, grad_quantized, grad_sums), None, None


_apply_plainly = super(torch.autograd.Function, FakeQuantize).apply
"""`FakeQuantize.apply` without what it does before: for functorch's transforms (`torch.func.grad`) it binds the
arguments to the signature of `forward`, at as much as the rest of the call costs: 1.5 % of a small network's step."""

_transformed = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)


def save(ctx, values: Tensor, alpha: Tensor, sums: Tensor, options: Options) -> None:
    ctx.save_for_backward(values, alpha, sums)
    if options.sums == NO_SUMS:
        ctx.mark_non_differentiable(sums)
    ctx.set_materialize_grads(False)


def gradients(ctx, backward: Callable, grad_quantized: Tensor | None, grad_sums: Tensor | None):
    """Gradients of values and alpha, None where not asked for; `ctx` as `save` left it, with its `options`."""
    if grad_quantized is None and grad_sums is None:
        return None, None
    (values, alpha, sums), options = ctx.saved_tensors, ctx.options
    wants_values, wants_alpha = ctx.needs_input_grad[:2]
    grad_values, slope = backward(values, alpha, options, grad_quantized, grad_sums, wants_alpha)
    grad_alpha = None
    if wants_alpha and grad_quantized is not None:
        grad_alpha = slope * options.grad_scale
    if wants_alpha and grad_sums is not None and options.sums_alpha_grad:
        through = _alpha_through_sums(options, sums, grad_sums)
        grad_alpha = through if grad_alpha is None else grad_alpha + through
    return grad_values if wants_values else None, None if grad_alpha is None else grad_alpha.to(alpha.dtype)


def _alpha_through_sums(options: Options, sums: Tensor, grad_sums: Tensor) -> Tensor:
    """The gradient that reaches the step size through the sums, from them alone."""
    codes = torch.arange(options.qn, options.qp + 1, dtype=sums.dtype, device=sums.device)
    by_bin = grad_sums[..., 1, :] * sums[..., 0, :] + 2 * grad_sums[..., 2, :] * sums[..., 1, :]
    return (-codes * by_bin).sum(-1) * options.sums_alpha_grad
