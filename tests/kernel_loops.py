"""The op one value at a time in double precision, from the formulas at the head of `brsweep.kernels` alone."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from brsweep.kernels import ALPHA_FLOOR, COUNT, INSIDE_VALUES, NO_SUMS, SQUARES, SUM, fake_quantize

ROUNDING = 2.0**-24
"""Relative error of one float32 operation; BFLOAT of one rounding to bfloat16."""
BFLOAT = 2.0**-8


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


def agree(case: Case) -> None:
    """fast(case) is slow(case), but for the roundings that the values' own type brings."""
    quick, plain = fast(case), slow(case)
    one = {torch.float64: 2.0**-52, torch.float32: ROUNDING, torch.bfloat16: BFLOAT}[case.values.dtype]
    inner = one if case.values.dtype != torch.bfloat16 else ROUNDING
    largest = np.abs(case.values.double().numpy()).max(initial=1.0)
    close(quick.quantized, plain.quantized, one)  # one product
    if plain.sums is None:
        assert quick.sums is None
    else:
        assert np.array_equal(quick.sums[..., COUNT, :], plain.sums[..., COUNT, :])
        # a residual is rounded once, then up to 1,024 are added in float32: roundings grow as the root of their number,
        # but as their number where values share a ceiling, for then they are equal and do not cancel
        most = plain.sums[..., COUNT, :].max(initial=1.0)
        grown = math.sqrt(most) if case.ceiling in (None, math.inf) else min(most, 1024.0)
        close(quick.sums[..., SUM, :], plain.sums[..., SUM, :], 0, 32 * inner * largest * grown)
        close(quick.sums[..., SQUARES, :], plain.sums[..., SQUARES, :], 32 * inner, 1e-300)
    # gradient + linear + 2 r square: three roundings of terms that may cancel, then one to the type of the result
    terms = np.abs(plain.grad_values) + 4 * largest * (
        1 if case.grad_sums is None else case.grad_sums.abs().max().item()
    )
    close(quick.grad_values, plain.grad_values, one, 4 * inner * terms.max(initial=1.0))
    # steps carry one rounding, which code - steps keeps whole; up to 1,024 terms are added in float32
    steps = largest / max(ALPHA_FLOOR, case.alpha.min().item())
    scale = abs(case.grad_scale) * steps * math.sqrt(max(1, case.values.numel()))
    through = (
        abs(case.sums_alpha_grad) * 0
        if plain.sums is None
        else np.abs(plain.sums).max(initial=0.0) * (case.qp - case.qn)
    )
    close(quick.grad_alpha, plain.grad_alpha, 2 * ROUNDING, 32 * inner * (scale + through))


def close(got: np.ndarray, wanted: np.ndarray, relative: float, absolute: float = 0.0) -> None:
    np.testing.assert_allclose(got, wanted, rtol=2 * relative, atol=absolute, equal_nan=True)


def same_bits(one, other) -> None:
    for a, b in zip(dataclasses.astuple(one), dataclasses.astuple(other), strict=True):
        assert a is b is None or a.tobytes() == b.tobytes()
