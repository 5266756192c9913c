"""Every implementation that runs on a CPU, held against plain loops in double precision."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_loops import agree, fast, random_case, slow
from triton_interpreter import interpreted

from brsweep import kernels
from brsweep.errors import BrsweepError
from brsweep.kernels import (
    ALL_VALUES,
    ALPHA_FLOOR,
    COUNT,
    INSIDE_VALUES,
    NO_SUMS,
    SQUARES,
    SUM,
    fake_quantize,
    reference,
)

GRIDS = [(bits, signed) for bits in range(1, 9) for signed in (True, False)]
IMPLEMENTATIONS = [("reference", torch.float64), ("reference", torch.float32), ("numba", torch.float32)]
if interpreted():
    IMPLEMENTATIONS.append(("triton", torch.float32))


@pytest.fixture(params=IMPLEMENTATIONS, ids=lambda pair: f"{pair[0]}-{str(pair[1])[6:]}")
def dtype(request):
    """Chooses an implementation and gives a type that it takes."""
    kernels.use(request.param[0])
    return request.param[1]


@pytest.mark.parametrize("sums", [NO_SUMS, ALL_VALUES, INSIDE_VALUES])
@pytest.mark.parametrize(("bits", "signed"), GRIDS)
def test_one_step_size(dtype, bits, signed, sums):
    for linear in (True, False):
        agree(random_case(bits, (3, 217), bits, signed, dtype=dtype, sums=sums, linear=linear))


@pytest.mark.parametrize("sums", [NO_SUMS, ALL_VALUES, INSIDE_VALUES])
@pytest.mark.parametrize(("bits", "signed"), [(1, False), (2, True), (3, False), (8, True)])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_one_step_size_per_channel(dtype, axis, bits, signed, sums):
    agree(random_case(axis, (4, 5, 3, 7), bits, signed, dtype=dtype, sums=sums, axis=axis, per_channel=True))


@pytest.mark.parametrize("sums", [NO_SUMS, ALL_VALUES, INSIDE_VALUES])
@pytest.mark.parametrize("ceiling", [0.8, math.inf])
def test_a_relu_in_the_pass(dtype, ceiling, sums):
    for bits, linear in itertools.product((1, 2, 4, 8), (True, False)):
        drawn = random_case(bits, (3, 217), bits, False, dtype=dtype, sums=sums, linear=linear)
        agree(dataclasses.replace(drawn, ceiling=ceiling))
    agree(random_case(0, (5, 80), 2, True, dtype=dtype, sums=sums, per_channel=True, ceiling=ceiling))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sums", [NO_SUMS, ALL_VALUES, INSIDE_VALUES])
@pytest.mark.parametrize("per_channel", [True, False])
def test_the_reference_works_in_pieces(monkeypatch, dtype, sums, per_channel):
    """Of a length that does not divide the tensor's, with rests that fill neither the parts nor the copies."""
    monkeypatch.setattr(kernels, "_choice", "reference")
    for piece in (1, 33, 128, 2**18):
        monkeypatch.setattr(reference, "PIECE", piece)
        drawn = random_case(0, (4, 5, 3, 7), 3, False, dtype=dtype, sums=sums, axis=1, per_channel=per_channel)
        agree(dataclasses.replace(drawn, ceiling=1.25))


@pytest.mark.parametrize("sums", [NO_SUMS, ALL_VALUES, INSIDE_VALUES])
@pytest.mark.parametrize("ceiling", [1.5, math.inf])
@pytest.mark.parametrize("bits", [2, 8])
def test_a_relu_in_the_pass_is_the_relu_before_it_to_the_bit(dtype, bits, ceiling, sums):
    edges = [-math.inf, -1.0, -0.0, 0.0, 1e-30, 0.25, 1.4999, 1.5, 1.6, math.inf]
    for extra in ([], [math.nan]):
        drawn = random_case(bits, (2000,), bits, False, dtype=dtype, sums=sums)
        values = torch.cat([drawn.values, torch.tensor(edges + extra, dtype=dtype)])
        upstream = torch.cat([drawn.grad_quantized, torch.ones(len(edges + extra), dtype=dtype)])
        answers = []
        for fused in (True, False):
            given, alpha = values.clone().requires_grad_(), drawn.alpha.clone().requires_grad_()
            before = given if fused else F.relu(given) if ceiling == math.inf else F.hardtanh(given, 0.0, ceiling)
            quantized, found = fake_quantize(
                before, alpha, drawn.qn, drawn.qp, grad_scale=0.3, sums=sums, sums_alpha_grad=0.7,
                ceiling=ceiling if fused else None,
            )  # fmt: skip
            outputs = [quantized] if sums == NO_SUMS else [quantized, found]
            grads = torch.autograd.grad(outputs, (given, alpha), [upstream, drawn.grad_sums][: len(outputs)])
            answers.append([*outputs, *grads])
        for got, wanted in zip(*answers, strict=True):
            assert torch.equal(got.nan_to_num(7.0), wanted.nan_to_num(7.0))
            assert torch.equal(got.isnan(), wanted.isnan())


def test_a_grid_that_is_no_power_of_two(dtype):
    for qn, qp in ((-1, 1), (-3, 2), (0, 20), (0, 0)):
        drawn = random_case(0, (300,), 8, False, dtype=dtype, sums=INSIDE_VALUES)
        grad_sums = drawn.grad_sums[:, : qp - qn + 1]
        agree(dataclasses.replace(drawn, qn=qn, qp=qp, grad_sums=grad_sums, alpha=drawn.alpha * 40))


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0), (63,), (64,), (1025,)])
@pytest.mark.parametrize("bits", [2, 8])
def test_sizes(dtype, shape, bits):
    for sums in (NO_SUMS, ALL_VALUES):
        agree(random_case(1, shape, bits, True, dtype=dtype, sums=sums))
        if len(shape) == 2:
            agree(random_case(1, shape, bits, True, dtype=dtype, sums=sums, per_channel=True))


def test_only_one_of_the_gradients(dtype):
    for bits, per_channel in itertools.product((2, 6), (True, False)):
        case = random_case(2, (6, 50), bits, True, dtype=dtype, sums=ALL_VALUES, per_channel=per_channel)
        agree(dataclasses.replace(case, grad_quantized=None))
        agree(dataclasses.replace(case, grad_sums=None))


def test_sums_keep_apart_from_alpha_unless_asked(dtype):
    case = random_case(3, (200,), 2, True, dtype=dtype, sums=ALL_VALUES)
    alone = dataclasses.replace(case, grad_quantized=None, sums_alpha_grad=0.0)
    values = alone.values.clone().requires_grad_()
    alpha = alone.alpha.clone().requires_grad_()
    _, sums = fake_quantize(values, alpha, case.qn, case.qp, grad_scale=1.0, sums=ALL_VALUES)
    sums.backward(case.grad_sums)
    assert alpha.grad is None or not alpha.grad.any()


def test_values_and_ties_at_the_edges(dtype):
    """alpha a power of two: every quotient is exact, so every answer is."""
    for alpha in (0.25, 1.0, 2.0):
        steps = [-0.3, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 2.7, 3.0, 3.3]
        codes = [0.0, 0.0, 0.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0]
        passes = [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]
        slopes = [0.0, 0.0, -0.5, 0.0, 0.5, 0.0, -0.5, 0.3, 3.0, 3.0]
        counted = {ALL_VALUES: [3, 1, 3, 3], INSIDE_VALUES: [2, 1, 3, 2]}
        for step, code, passing, slope in zip(steps, codes, passes, slopes, strict=True):
            values = torch.tensor(step * alpha, dtype=dtype, requires_grad=True)
            size = torch.tensor(alpha, dtype=dtype, requires_grad=True)
            quantized, _ = fake_quantize(values, size, 0, 3, grad_scale=1.0)
            quantized.backward()
            assert quantized.item() == code * alpha and values.grad.item() == passing
            assert size.grad.item() == pytest.approx(slope, abs=1e-6)  # 2.7 and 3.3 are no float32
        everything = torch.tensor(steps, dtype=dtype) * alpha
        for sums, counts in counted.items():
            _, table = fake_quantize(everything, torch.tensor(alpha), 0, 3, grad_scale=1.0, sums=sums)
            assert table[COUNT].tolist() == counts


def test_division_is_correctly_rounded(dtype):
    """Quotients next to a tie: a reciprocal, or division in a wider type, sends some of them to the other code."""
    draw, channels = torch.Generator().manual_seed(0), 40 if interpreted() else 400
    alpha = torch.rand(channels, 1, generator=draw, dtype=dtype) + 0.01
    ties = torch.arange(64, dtype=dtype) + 0.5
    near = alpha * ties
    near = torch.cat(
        [near, near.nextafter(torch.tensor(0.0, dtype=dtype)), near.nextafter(torch.tensor(99.0, dtype=dtype))], 1
    )
    quantized, sums = fake_quantize(near, alpha.view(-1), 0, 63, grad_scale=1.0, sums=ALL_VALUES)
    codes = np.rint(np.clip(near.numpy() / alpha.numpy(), 0, 63))
    assert np.array_equal(quantized.numpy(), codes * alpha.numpy())
    for counts, row in zip(sums[:, COUNT], codes, strict=True):
        assert np.array_equal(counts.numpy(), np.bincount(row.astype(int), minlength=64))


@pytest.mark.parametrize("width", [1e-4, 1e-6])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_sums_of_sharp_bins(dtype, bits, width):
    """Values within `width` alpha of their levels: what raw sums of squares lose.

    The aim is 1e-5; a residual is exact here, so roundings of squares and of block sums remain, about 1e-7.
    """
    draw, qp = torch.Generator().manual_seed(bits), 2**bits - 1
    alpha = torch.tensor(0.1234567)
    codes = torch.randint(0, qp + 1, (5_000 if interpreted() else 50_000,), generator=draw).double()
    noise = torch.randn(codes.shape, generator=draw, dtype=torch.float64)
    values = ((codes + width * noise) * alpha.double()).to(dtype)
    residuals = values.double() - codes * alpha.double()
    _, sums = fake_quantize(values, alpha.to(dtype), 0, qp, grad_scale=1.0, sums=ALL_VALUES)
    squares = np.bincount(codes.long().numpy(), residuals.square().numpy(), minlength=qp + 1)
    rounding = 1e-6 if interpreted() else 2e-7  # the interpreter adds a tile's terms one after the other
    np.testing.assert_allclose(sums[SQUARES].numpy(), squares, rtol=rounding)
    assert np.array_equal(sums[COUNT].numpy(), np.bincount(codes.long().numpy(), minlength=qp + 1))


@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite(dtype, bits, value):
    for sums, per_channel in itertools.product((ALL_VALUES, INSIDE_VALUES), (True, False)):
        case = random_case(4, (3, 40), bits, True, dtype=dtype, sums=sums, per_channel=per_channel)
        case.values[1, 7] = value
        quick, plain = fast(case), slow(case)
        for got, wanted in zip(dataclasses.astuple(quick), dataclasses.astuple(plain), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4, equal_nan=True)
        if math.isnan(value):
            channel = quick.sums[1] if per_channel else quick.sums
            assert np.isnan(channel[[SUM, SQUARES], 0]).all() and not np.isnan(channel[:, 1:]).any()


def test_a_step_size_below_the_floor_is_the_floor(dtype):
    """Zero and negative alphas quantize as the floor does, and their gradient still leads back up."""
    case = random_case(5, (60,), 3, True, dtype=dtype, sums=ALL_VALUES)
    case = dataclasses.replace(case, values=case.values * ALPHA_FLOOR)
    floor = fast(dataclasses.replace(case, alpha=torch.full_like(case.alpha, ALPHA_FLOOR)))
    for alpha in (0.0, -1.0, ALPHA_FLOOR / 2):
        below = fast(dataclasses.replace(case, alpha=torch.full_like(case.alpha, alpha)))
        for got, wanted in zip(dataclasses.astuple(below), dataclasses.astuple(floor), strict=True):
            assert np.array_equal(got, wanted)
    undefined = fake_quantize(case.values, torch.full_like(case.alpha, math.nan), -4, 3, grad_scale=1.0)[0]
    assert undefined.isnan().all()


def test_frozen_inputs_get_no_gradient(dtype):
    case = random_case(6, (90,), 2, True, dtype=dtype, sums=ALL_VALUES)
    for frozen in ("alpha", "values"):
        values = case.values.clone().requires_grad_(frozen != "values")
        alpha = case.alpha.clone().requires_grad_(frozen != "alpha")
        outputs = fake_quantize(values, alpha, -2, 1, grad_scale=case.grad_scale, sums=ALL_VALUES, sums_alpha_grad=0.7)
        torch.autograd.backward(outputs, (case.grad_quantized, case.grad_sums))
        whole = fast(case)
        if frozen == "alpha":
            assert alpha.grad is None and np.array_equal(values.grad.double().numpy(), whole.grad_values)
        else:
            assert values.grad is None and alpha.grad.item() == whole.grad_alpha


def test_forward_leaves_its_inputs_alone(dtype):
    case = random_case(7, (70,), 4, True, dtype=dtype, sums=ALL_VALUES)
    values, alpha = case.values.clone(), case.alpha.clone()
    fast(case)
    assert torch.equal(values, case.values) and torch.equal(alpha, case.alpha)


def test_a_number_of_step_sizes_that_does_not_fit_the_axis_is_refused(dtype):
    with pytest.raises((ValueError, RuntimeError)):
        fake_quantize(torch.zeros(4, 6, dtype=dtype), torch.ones(6, dtype=dtype), 0, 3, grad_scale=1.0, axis=0)


grids = st.sampled_from(GRIDS)
steps = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40)
drawn = settings(max_examples=60, deadline=None, derandomize=True)


@pytest.mark.parametrize("name", sorted({name for name, _ in IMPLEMENTATIONS}))
@given(grid=grids, values=steps, exponent=st.integers(-19, 10))
@drawn
def test_properties_with_a_step_size_that_is_a_power_of_two(name, grid, values, exponent):
    """Levels are fixed points, quantizing twice is quantizing once, inside no value moves by more than half a step."""
    bits, signed = grid
    qn, qp = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    alpha = torch.tensor(2.0**exponent)
    values = torch.tensor(values, dtype=torch.float32)
    before = kernels._choice
    kernels.use(name)
    try:
        levels = torch.arange(qn, qp + 1) * alpha
        assert torch.equal(fake_quantize(levels, alpha, qn, qp, grad_scale=1.0)[0], levels)
        once, sums = fake_quantize(values, alpha, qn, qp, grad_scale=1.0, sums=ALL_VALUES)
        twice, none = fake_quantize(once, alpha, qn, qp, grad_scale=1.0, sums=ALL_VALUES)
    finally:
        kernels.use(before)
    inside = (values / alpha >= qn) & (values / alpha <= qp)
    assert torch.equal(once, twice) and not none[SUM:].any()
    assert ((once - values).abs()[inside] <= alpha / 2).all()
    assert sums[COUNT].sum() == len(values) and set(once.tolist()) <= set(levels.tolist())


def test_an_unknown_implementation_is_refused():
    with pytest.raises(BrsweepError, match=r"fpga.*choose one of auto, reference, numba"):
        kernels.use("fpga")


def test_functorch_takes_the_reference(monkeypatch):
    """Calls go around what torch does for its transforms, but not where one is at work."""
    monkeypatch.setattr(kernels, "_choice", "reference")
    drawn = random_case(0, (50,), 2, False, dtype=torch.float64)

    def loss(values, alpha):
        quantized, sums = fake_quantize(values, alpha, 0, 3, grad_scale=0.3, sums=ALL_VALUES, sums_alpha_grad=1.0)
        return (quantized**2).sum() + (sums[SQUARES] / sums[COUNT].clamp(min=1)).sum()

    inputs = drawn.values.requires_grad_(), drawn.alpha.requires_grad_()
    plain = torch.autograd.grad(loss(*inputs), inputs)
    for got, wanted in zip(torch.func.grad(loss, (0, 1))(*inputs), plain, strict=True):
        assert torch.equal(got, wanted) and wanted.abs().max() > 0
