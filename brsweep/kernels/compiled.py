"""The op as torch.compile sees it: a registered operator, opaque, with shapes and gradients of its own.

    brsweep::fake_quantize              forward, by the implementation that the choice `kernels` means when it runs
    brsweep::fake_quantize_gradients    backward; both results are always there

What lies around it is traced: the gradient of alpha from the two results, and penalties from the sums.
"""

from __future__ import annotations

import torch
from torch import Tensor

from brsweep.kernels.implementations import implementation
from brsweep.kernels.op import NO_SUMS, OpOptions, input_gradients, save_for_gradients


@torch.library.custom_op("brsweep::fake_quantize", mutates_args=())
def operator(
    values: Tensor, alpha: Tensor,
    qn: int, qp: int, grad_scale: float, axis: int, sums: str, sums_alpha_grad: float, ceiling: float | None,
    kernels: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    options = OpOptions(qn, qp, grad_scale, axis, sums, sums_alpha_grad, ceiling)
    forward = implementation(kernels, values.device.type, values.dtype).forward
    quantized, bin_sums = forward(values, alpha, options)
    return _like(quantized, values), bin_sums


@operator.register_fake
def _(values, alpha, qn, qp, grad_scale, axis, sums, sums_alpha_grad, ceiling, kernels):
    shape = (0,) if sums == NO_SUMS else (*alpha.shape, 3, qp - qn + 1)
    return torch.empty_like(values), alpha.new_empty(shape, dtype=torch.float64)


@torch.library.custom_op("brsweep::fake_quantize_gradients", mutates_args=())
def gradients_operator(
    values: Tensor, alpha: Tensor, grad_quantized: Tensor | None, grad_sums: Tensor | None, wants_alpha: bool,
    qn: int, qp: int, grad_scale: float, axis: int, sums: str, sums_alpha_grad: float, ceiling: float | None,
    kernels: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    options = OpOptions(qn, qp, grad_scale, axis, sums, sums_alpha_grad, ceiling)
    backward = implementation(kernels, values.device.type, values.dtype).backward
    grad_values, slope = backward(values, alpha, options, grad_quantized, grad_sums, wants_alpha)
    return _like(grad_values, values), torch.zeros_like(alpha, dtype=torch.float64) if slope is None else slope.double()


@gradients_operator.register_fake
def _(values, alpha, *_):
    return torch.empty_like(values), torch.empty_like(alpha, dtype=torch.float64)


def _setup_context(ctx, inputs, output):
    values, alpha, *options, ctx.kernels = inputs
    ctx.options = OpOptions(*options)
    save_for_gradients(ctx, values, alpha, output[1], ctx.options)


def _backward(ctx, grad_quantized, grad_sums):
    def backward(values, alpha, options, grad_quantized, grad_sums, wants_alpha):
        return gradients_operator(values, alpha, grad_quantized, grad_sums, wants_alpha, *options, ctx.kernels)

    return *input_gradients(ctx, backward, grad_quantized, grad_sums), *(None,) * (len(ctx.options) + 1)


operator.register_autograd(_backward, setup_context=_setup_context)


def _like(result: Tensor, values: Tensor) -> Tensor:
    """The result in the layout that the registered shapes promise."""
    like = torch.empty_like(values)
    return result if result.stride() == like.stride() else like.copy_(result)
