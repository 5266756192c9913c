"""The op one value at a time in double precision, from the formulas at the head of `brsweep.kernels` alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from brsweep.kernels import ALPHA_FLOOR, INSIDE_VALUES, NO_SUMS, fake_quantize


@dataclass
class Case:
    """What goes into the op, and the gradients that come back to its two outputs (None: not used)."""

    values: Tensor
    alpha: Tensor
    qn: int
    qp: int
    grad_quantized: Tensor | None = None
    grad_sums: Tensor | None = None
    grad_scale: float = 1.0
    axis: int = 0
    sums: str = NO_SUMS
    sums_alpha_grad: float = 0.0
    ceiling: float | None = None


@dataclass
class Answer:
    """All float64; what was not asked for is zero, sums that were not asked for are None."""

    quantized: np.ndarray
    sums: np.ndarray | None
    grad_values: np.ndarray
    grad_alpha: np.ndarray


def slow(case: Case) -> Answer:
    """Steps are divided in the values' own precision (float32 for bfloat16); all else is double."""
    own = np.float64 if case.values.dtype == torch.float64 else np.float32
    values = case.values.detach().to(torch.float64).numpy()
    alphas = np.maximum(case.alpha.detach().double().numpy(), ALPHA_FLOOR).astype(own).reshape(-1)
    per_channel = case.alpha.dim() == 1
    upstream = np.zeros(values.shape) if case.grad_quantized is None else case.grad_quantized.double().numpy()
    bins = case.qp - case.qn + 1
    pulls = np.zeros((len(alphas), 3, bins)) if case.grad_sums is None else case.grad_sums.reshape(-1, 3, bins).numpy()

    quantized, grad_values = np.zeros(values.shape), np.zeros(values.shape)
    sums, grad_alpha = np.zeros((len(alphas), 3, bins)), np.zeros(len(alphas))
    with np.errstate(all="ignore"):
        for at in np.ndindex(values.shape):
            channel = at[case.axis] if per_channel else 0
            value, step = values[at], alphas[channel]
            cut = case.ceiling is not None and (value <= 0 or math.inf > case.ceiling <= value)
            value = min(max(value, 0.0), case.ceiling) if cut else value
            steps = own(value) / step
            code = steps if np.isnan(steps) else np.rint(min(max(steps, case.qn), case.qp))
            residual = value - code * np.float64(step)
            quantized[at] = code * np.float64(step)
            inside = not (steps <= case.qn or steps >= case.qp)
            grad_values[at] = upstream[at] if inside else 0.0
            grad_alpha[channel] += case.grad_scale * upstream[at] * (code - steps if inside else code)
            if not (case.sums == INSIDE_VALUES and (steps < case.qn or steps > case.qp)):
                k = 0 if np.isnan(code) else int(code) - case.qn
                sums[channel, :, k] += 1.0, residual, residual**2
                if case.grad_sums is not None:
                    grad_values[at] += pulls[channel, 1, k] + 2 * residual * pulls[channel, 2, k]
            grad_values[at] = 0.0 if cut else grad_values[at]
        for channel in range(len(alphas)):
            for k in range(bins):
                n, total, _ = sums[channel, :, k]
                by_alpha = pulls[channel, 1, k] * -(k + case.qn) * n + pulls[channel, 2, k] * -2 * (k + case.qn) * total
                grad_alpha[channel] += case.sums_alpha_grad * by_alpha
    if case.sums == NO_SUMS:
        sums = None
    elif not per_channel:
        sums = sums[0]
    return Answer(quantized, sums, grad_values, grad_alpha.reshape(case.alpha.shape))


def fast(case: Case) -> Answer:
    """The same case through `fake_quantize`, by the implementation that is chosen."""
    values = case.values.detach().requires_grad_()
    alpha = case.alpha.detach().clone().requires_grad_()
    quantized, sums = fake_quantize(
        values, alpha, case.qn, case.qp, grad_scale=case.grad_scale, axis=case.axis, sums=case.sums,
        sums_alpha_grad=case.sums_alpha_grad, ceiling=case.ceiling,
    )  # fmt: skip
    assert quantized.dtype == values.dtype and quantized.shape == values.shape
    outputs = [(quantized, case.grad_quantized), (sums, case.grad_sums)]
    outputs, upstream = zip(*[pair for pair in outputs if pair[1] is not None], strict=True)
    grad_values, grad_alpha = torch.autograd.grad(outputs, (values, alpha), upstream, allow_unused=True)
    assert grad_values.dtype == values.dtype and grad_alpha.dtype == alpha.dtype
    assert grad_values.shape == values.shape and grad_alpha.shape == alpha.shape
    return Answer(
        *[None if t is None else t.detach().double().numpy() for t in (quantized, sums, grad_values, grad_alpha)]
    )


def random_case(seed: int, shape: tuple, bits: int, signed: bool, *, dtype=torch.float32, **choices) -> Case:
    """Normal values that reach beyond the grid, and random gradients to both outputs.

    alpha is one, or one per channel along `axis` with choices `per_channel=True`; `linear=False` sets the gradient of
    the sums of r to zero, as biased Bin Regularization does.
    """
    draw = torch.Generator().manual_seed(seed)
    qn, qp = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    per_channel, linear = choices.pop("per_channel", False), choices.pop("linear", True)
    channels = (shape[choices.get("axis", 0)],) if per_channel else ()
    alpha = (torch.rand(channels, generator=draw) + 0.5) * 4 / (qp - qn + 1)
    sums = torch.randn((*channels, 3, qp - qn + 1), generator=draw, dtype=torch.float64)
    sums[..., 1, :] *= float(linear)
    return Case(
        torch.randn(shape, generator=draw, dtype=torch.float64).mul_(1.2).to(dtype),
        alpha.double() if dtype == torch.float64 else alpha,
        qn,
        qp,
        torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype),
        sums if choices.get("sums", NO_SUMS) != NO_SUMS else None,
        grad_scale=0.37,
        sums_alpha_grad=0.7,
        **choices,
    )
