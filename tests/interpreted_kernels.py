"""What `test_kernels_cuda.py` runs under Triton's interpreter beside the tests that every implementation has."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from kernel_loops import agree, fast, random_case
from triton_interpreter import interpreted

from brsweep import kernels
from brsweep.kernels import ALL_VALUES, COUNT, INSIDE_VALUES, NO_SUMS, SQUARES, cuda, fake_quantize, implementations
from brsweep.kernels.op import OpOptions
from brsweep.kernels.storage import laid_out

assert interpreted()


@pytest.fixture(autouse=True)
def triton():
    kernels.use("triton")
    yield
    kernels.use("auto")
    implementations.forget()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bits", [1, 2, 8])
def test_narrow_values_in_and_out(bits, dtype):
    case = random_case(bits, (3, 700), bits, bits > 1, dtype=dtype, sums=INSIDE_VALUES, per_channel=True)
    quick = fast(case)
    kernels.use("reference")
    plain = fast(case)
    cut = 2.0**-7 if dtype == torch.bfloat16 else 0  # the interpreter cuts bfloat16 off, where a device rounds
    np.testing.assert_allclose(quick.quantized, plain.quantized, rtol=cut)
    np.testing.assert_allclose(quick.grad_values, plain.grad_values, rtol=cut or 2.0**-10, atol=1e-5)
    assert np.array_equal(quick.sums[:, COUNT], plain.sums[:, COUNT])


@pytest.mark.parametrize("sums", [NO_SUMS, ALL_VALUES])
def test_several_programs_and_several_tiles(sums, monkeypatch):
    """Sizes around a tile's; then few programs, so that each walks many tiles; twice the same bits."""
    for size in (1, 1023, 1024, 1025, 5000):
        agree(random_case(size, (size,), 2, True, sums=sums))
    monkeypatch.setattr(cuda, "MOST_PROGRAMS", 2)
    case = random_case(0, (9001,), 3, True, sums=sums)
    agree(case)
    one, other = fast(case), fast(case)
    assert one.quantized.tobytes() == other.quantized.tobytes()
    assert one.grad_alpha.tobytes() == other.grad_alpha.tobytes()
    assert sums == NO_SUMS or one.sums.tobytes() == other.sums.tobytes()


@pytest.mark.parametrize("columns", [1, 6, 12, 48])
@pytest.mark.parametrize("programs", [1, 3, 2500])
def test_partial_sums_are_added_up_in_blocks_of_columns(programs, columns):
    parts = torch.randn(2, programs, columns, generator=torch.Generator().manual_seed(columns), dtype=torch.float64)
    added = cuda._added_up(parts, 1 / 3, torch.float64)
    np.testing.assert_allclose(added, parts.sum(1) / 3, rtol=1e-12, atol=1e-12)  # float64, 2,500 terms near 1


LARGEST_GRID = 2**31 - 1, 65_535, 65_535
"""What CUDA allows. The interpreter would take any grid, and a minute for this one."""


@pytest.mark.parametrize("sums", [NO_SUMS, ALL_VALUES])
@pytest.mark.parametrize(("rows", "length"), [(65_535, 2), (65_536, 2), (100_003, 1), (3, 5000), (1, 70_000_000)])
def test_programs_for_any_number_of_rows(rows, length, sums, monkeypatch):
    launched = []

    class Launch:
        def __class_getitem__(cls, grid):
            launched.append(grid)
            return lambda *_, **__: None

    monkeypatch.setattr(cuda, "quantize", Launch)
    monkeypatch.setattr(cuda, "gradients", Launch)
    monkeypatch.setattr(cuda, "add_up", Launch)
    values, alpha = torch.zeros(1).expand(rows, length).contiguous(), torch.ones(rows)
    options = OpOptions(0, 3, 1.0, 0, sums, 0.0)
    cuda.forward(values, alpha, options)
    cuda.backward(values, alpha, options, values, None, True)
    assert len(launched) == (3 if sums == NO_SUMS else 4)  # partial sums are added up by launches of their own
    for grid in launched:
        assert all(size <= most for size, most in zip(grid, LARGEST_GRID, strict=False)), grid
        tiles = -(-length // (cuda.LANES * cuda.PER_WITH_SUMS))
        assert rows <= np.prod(grid) <= rows * max(cuda.MOST_PROGRAMS, tiles / cuda.MOST_TILES + 1)


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # numpy's, where a device says nothing
@pytest.mark.parametrize("sums", [ALL_VALUES, INSIDE_VALUES])
@pytest.mark.parametrize("bits", [2, 5, 8])
def test_values_far_beyond_the_grid_reach_the_end_bins_alone(bits, sums):
    """Their squares leave float32's range, and NaN goes to the lowest bin: no other bin hears of either."""
    case = random_case(bits, (700,), bits, True, sums=sums)
    case.values[[3, 300, 650]] = torch.tensor([1e25, -1e25, math.inf])
    wanted, quick = by_reference(case), fast(case)
    np.testing.assert_allclose(quick.sums[:SQUARES], wanted.sums[:SQUARES], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(quick.sums[SQUARES, 1:-1], wanted.sums[SQUARES, 1:-1], rtol=1e-4, atol=1e-5)
    case.values[400] = math.nan
    spoilt = fast(case).sums
    assert np.isnan(spoilt[1:, 0]).all()
    assert np.isfinite(spoilt[:, 1:-1]).all()


def by_reference(case):
    kernels.use("reference")
    try:
        return fast(case)
    finally:
        kernels.use("triton")


@pytest.mark.parametrize("bits", [4, 5, 8])
def test_sums_of_values_near_their_levels_are_sharp(bits):
    """Values within 1e-4 alpha of their levels: squares of 1e-8 alpha^2, to 1e-6 of the bin's sum."""
    draw = torch.Generator().manual_seed(bits)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    codes = torch.randint(low, high + 1, (3_000,), generator=draw)
    alpha = torch.tensor(0.25)
    values = (codes + 1e-4 * torch.rand(3_000, generator=draw)).mul(alpha).float()
    options = OpOptions(low, high, 1.0, 0, ALL_VALUES, 0.0)
    sums = cuda.forward(values, alpha, options)[1]
    residual = values.double() - codes * 0.25
    wanted = torch.zeros(high - low + 1, dtype=torch.float64).index_add_(0, codes - low, residual**2)
    np.testing.assert_allclose(sums[SQUARES], wanted, rtol=1e-6)


def test_each_of_many_rows_gets_its_own_step_size():
    agree(random_case(4, (600, 3), 2, True, sums=ALL_VALUES, per_channel=True))
    agree(random_case(5, (3, 1700), 2, True, sums=ALL_VALUES, per_channel=True))  # several programs a row


@pytest.mark.parametrize("per_channel", [False, True])
def test_layouts(per_channel):
    case = random_case(0, (4, 6, 5, 3), 2, True, sums=ALL_VALUES, per_channel=per_channel)
    wanted = fast(case)
    last = case.values.contiguous(memory_format=torch.channels_last)
    assert laid_out(last, case.alpha, 0)[0].data_ptr() == last.data_ptr()
    for values in (last, torch.stack([case.values, case.values], -1)[..., 0]):
        got = fast(dataclasses.replace(case, values=values))
        assert np.array_equal(got.quantized, wanted.quantized)
        assert np.array_equal(got.grad_values, wanted.grad_values)
        assert np.array_equal(got.sums[..., COUNT, :], wanted.sums[..., COUNT, :])
    assert fake_quantize(last, case.alpha, -2, 1, grad_scale=1.0)[0].stride() == last.stride()


def test_auto_takes_it_only_where_it_agrees_with_the_reference(monkeypatch):
    right = cuda.forward
    monkeypatch.setitem(implementations.OWN, "cpu", "triton")
    kernels.use("auto")
    implementations.forget()
    assert kernels.chosen("cpu") == "triton" and implementations.implementation("auto", "cpu", torch.float32) is cuda

    def wrong(values, alpha, options: OpOptions):
        quantized, sums = right(values, alpha, options)
        return quantized, sums + (0.01 if options.sums != NO_SUMS else 0)

    monkeypatch.setattr(cuda, "forward", wrong)
    implementations.forget()
    with pytest.warns(RuntimeWarning, match=r"triton does not work here, the slower reference is used: .*not the ref"):
        assert kernels.chosen("cpu") == "reference"
    assert implementations.implementation("auto", "cpu", torch.float32).__name__.endswith(
        "reference"
    )  # and no second warning
    assert "triton" not in kernels.available()
