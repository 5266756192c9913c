"""The compiled CPU implementation: layouts, bfloat16, threads, forks, its cache, and when it is chosen."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import shutil
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from kernel_loops import agree, fast, random_case, same_bits

from brsweep import kernels
from brsweep.errors import BrsweepError
from brsweep.kernels import (
    ALL_VALUES,
    COUNT,
    INSIDE_VALUES,
    NO_SUMS,
    cpu,
    cpu_passes,
    cpu_threads,
    fake_quantize,
)
from brsweep.kernels.storage import laid_out

LARGE = (3, 41, 1500)  # 184,500 values: rows of 16,384 and a rest, more than are walked serially


@pytest.fixture(autouse=True)
def numba():
    kernels.use("numba")


def by_reference(case):
    kernels.use("reference")
    try:
        return fast(case)
    finally:
        kernels.use("numba")


@pytest.mark.parametrize("sums", [NO_SUMS, ALL_VALUES, INSIDE_VALUES])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 8])
def test_large_tensors_agree_with_the_reference(bits, sums):
    for per_channel in (False, True):
        case = random_case(bits, LARGE, bits, True, sums=sums, per_channel=per_channel, linear=bits % 2 == 0)
        quick, plain = fast(case), by_reference(case)
        assert np.array_equal(quick.quantized, plain.quantized)
        # float32 roundings of single values, and of sums of up to 1,024 of them, that double precision adds up
        np.testing.assert_allclose(quick.grad_values, plain.grad_values, rtol=1e-6, atol=1e-5)
        np.testing.assert_allclose(quick.grad_alpha, plain.grad_alpha, rtol=1e-5, atol=1e-2)
        if sums != NO_SUMS:
            assert np.array_equal(quick.sums[..., COUNT, :], plain.sums[..., COUNT, :])
            np.testing.assert_allclose(quick.sums, plain.sums, rtol=2e-6, atol=1e-3)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_bfloat16_in_and_out(bits):
    for sums, per_channel in ((NO_SUMS, False), (ALL_VALUES, False), (INSIDE_VALUES, True)):
        case = random_case(bits, (3, 700), bits, True, dtype=torch.bfloat16, sums=sums, per_channel=per_channel)
        agree(case)
        assert np.array_equal(fast(case).quantized, by_reference(case).quantized)


def test_bfloat16_rounds_to_the_nearest_and_ties_to_even():
    """Levels k * (1 + 2^-7 + 2^-9 ...) that fall on, below and above the middle of two bfloat16 numbers."""
    values = torch.arange(-128, 128).to(torch.bfloat16)
    for alpha in (1.0, 1 + 2.0**-7, 1 + 2.0**-8, 1 + 2.0**-9, 1.2345, 3e37):
        scaled = (values.float() * alpha).to(torch.bfloat16)
        scaled[3] = float("nan")
        quantized, _ = fake_quantize(scaled, torch.tensor(alpha), -128, 127, grad_scale=1.0)
        wide, _ = fake_quantize(scaled.float(), torch.tensor(alpha), -128, 127, grad_scale=1.0)
        assert torch.equal(quantized.nan_to_num(), wide.to(torch.bfloat16).nan_to_num())
        assert quantized[3].isnan()


def test_millions_of_values_against_double_precision():
    """Every row and its end are walked once: counts are exact, sums to the roundings of float32 residuals."""
    draw, bits, alpha = torch.Generator().manual_seed(3), 4, 0.25
    values = torch.randn(3_000_001, generator=draw)
    wide = values.double().numpy()
    codes = np.rint(np.clip(wide / alpha, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1))
    quantized, sums = fake_quantize(values, torch.tensor(alpha), -8, 7, grad_scale=1.0, sums=ALL_VALUES)
    assert np.array_equal(quantized.numpy(), codes * alpha)
    index, residuals = (codes + 8).astype(int), wide - codes * alpha
    wanted = [np.bincount(index, weights, minlength=16) for weights in (None, residuals, residuals**2)]
    assert np.array_equal(sums[COUNT].numpy(), wanted[0])
    np.testing.assert_allclose(sums[1:].numpy(), wanted[1:], rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize("alpha", [2.0**-20, 2.0**-10, 1.0, 2.0**60, 2.0**120])
def test_step_sizes_and_values_of_any_magnitude(bits, alpha):
    """Powers of two scale everything exactly; quotients that overflow saturate. Never NaN where none came in."""
    steps = torch.tensor([0.0, -0.0, 0.3, 1.0, -1.0, 1.7, -300.0, 1e30, -1e30, 3e38, 1e-45]).clamp(-3e38, 3e38)
    top = 2 ** (bits - 1) - 1
    whole, sums = fake_quantize(steps * alpha, torch.tensor(alpha), -top - 1, top, grad_scale=1.0, sums=INSIDE_VALUES)
    plain, wanted = fake_quantize(steps, torch.tensor(1.0), -top - 1, top, grad_scale=1.0, sums=INSIDE_VALUES)
    assert torch.equal(plain, steps.clamp(-top - 1, top).round())
    assert torch.equal(whole, plain * alpha)
    assert torch.equal(sums[COUNT], wanted[COUNT])
    np.testing.assert_allclose(sums[1] / alpha, wanted[1], rtol=1e-6, atol=1e-7)


def test_bins_of_one_value_and_of_none():
    values = torch.tensor([0.25, 0.5, 2.0, 2.25])
    quantized, sums = fake_quantize(values, torch.tensor(1.0), 0, 3, grad_scale=1.0, sums=ALL_VALUES)
    assert quantized.tolist() == [0.0, 0.0, 2.0, 2.0]
    assert sums.tolist() == [[2, 0, 2, 0], [0.75, 0, 0.25, 0], [0.3125, 0, 0.0625, 0]]
    _, sums = fake_quantize(values[2:3] + 0.125, torch.tensor(1.0), 0, 3, grad_scale=1.0, sums=ALL_VALUES)
    assert sums.tolist() == [[0, 0, 1, 0], [0, 0, 0.125, 0], [0, 0, 0.015625, 0]]


def test_no_threads_of_numbas_own():
    """Its layers want an OpenMP runtime, can't be entered twice or not after a fork: none of them is loaded."""
    torch.set_num_threads(2)
    fast(random_case(1, LARGE, 2, True, sums=ALL_VALUES))
    assert not {"numba.np.ufunc.omppool", "numba.np.ufunc.tbbpool", "numba.np.ufunc.workqueue"} & set(sys.modules)


def layouts(values):
    """The same values in other orders of storage, with gaps, and repeated."""
    yield values.contiguous(memory_format=torch.channels_last)
    yield values.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)
    yield torch.stack([values, values], -1)[..., 0]
    yield torch.cat([values, values], 2)[:, :, : values.shape[2]]
    yield values[:, :1].expand(values.shape)


@pytest.mark.parametrize("axis", [None, 0, 1, 3])
def test_layouts(axis):
    """Each value's own answer does not depend on where it is stored; sums are added up in another order."""
    case = random_case(0, (8, 16, 9, 33), 3, True, sums=ALL_VALUES, axis=axis or 0, per_channel=axis is not None)
    for values in layouts(case.values):
        for upstream in (case.grad_quantized, *layouts(case.grad_quantized)):
            moved = dataclasses.replace(case, values=values, grad_quantized=upstream)
            packed = dataclasses.replace(case, values=values.contiguous(), grad_quantized=upstream.contiguous())
            got, wanted = fast(moved), fast(packed)
            assert np.array_equal(got.quantized, wanted.quantized)
            assert np.array_equal(got.grad_values, wanted.grad_values)
            np.testing.assert_allclose(got.sums, wanted.sums, rtol=1e-6, atol=1e-4)
            np.testing.assert_allclose(got.grad_alpha, wanted.grad_alpha, rtol=1e-5, atol=1e-3)


def test_dense_layouts_are_not_copied_and_keep_their_strides():
    values = torch.randn(8, 16, 9, 33)
    one, many = torch.ones(()), torch.ones(8)
    for alpha in (one, many):
        for kept in (values, values.contiguous(memory_format=torch.channels_last)):
            walked, _ = laid_out(kept, alpha, 0)
            assert walked.data_ptr() == kept.data_ptr()
            assert fake_quantize(kept, alpha, -2, 1, grad_scale=1.0)[0].stride() == kept.stride()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_number_of_threads_changes_no_bit(bits, dtype):
    for per_channel in (False, True):
        case = random_case(bits, LARGE, bits, True, dtype=dtype, sums=ALL_VALUES, per_channel=per_channel)
        torch.set_num_threads(1)
        alone = fast(case)
        for threads in (2, 3, 7, 2, 1):  # changed in the middle, and more than there are processors
            torch.set_num_threads(threads)
            same_bits(fast(case), alone)


def test_several_callers_at_once():
    cases = [random_case(i, LARGE, 2 + i % 3, True, sums=ALL_VALUES) for i in range(6)]
    wanted = [fast(case) for case in cases]
    torch.set_num_threads(2)
    with ThreadPoolExecutor(6) as callers:
        for answer, alone in zip(callers.map(fast, cases * 4), wanted * 4, strict=True):
            same_bits(answer, alone)


def test_an_error_in_another_thread_is_raised():
    def fails_beyond(border, first, last):
        if last > border:
            raise ArithmeticError(f"rows {first} to {last}")

    torch.set_num_threads(2)
    cpu_threads.walk(fails_beyond, 10, 10**6, 10)
    with pytest.raises(ArithmeticError, match="rows 5 to 10"):
        cpu_threads.walk(fails_beyond, 10, 10**6, 5)


def op_alone(case) -> tuple[bytes, bytes]:
    """Sums and gradient without an operator of torch's own that is parallel: those hang in a forked child."""
    values = case.values.detach().requires_grad_()
    outputs = fake_quantize(values, case.alpha, case.qn, case.qp, grad_scale=1.0, sums=ALL_VALUES)
    (grad,) = torch.autograd.grad(outputs, values, (case.grad_quantized, case.grad_sums))
    return outputs[1].detach().numpy().tobytes(), grad.numpy().tobytes()


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own():
    """The parent's threads do not live on in the child; waiting for one of them would never end."""
    torch.set_num_threads(2)
    case = random_case(1, LARGE, 2, True, sums=ALL_VALUES)
    wanted = op_alone(case)
    with multiprocessing.get_context("fork").Pool(2) as children:
        assert children.map_async(op_alone, [case] * 4).get(timeout=60) == [wanted] * 4
    assert op_alone(case) == wanted


def test_gradients_of_gradients_are_refused():
    values = torch.randn(10, requires_grad=True)
    quantized, _ = fake_quantize(values, torch.ones(()), -2, 1, grad_scale=1.0)
    (grad,) = torch.autograd.grad(quantized.square().sum(), values, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_who_gets_the_compiled_passes():
    wide, alpha = torch.zeros(3, dtype=torch.float64), torch.ones(())
    for values in (wide, wide.half(), torch.zeros(3, device="meta")):
        with pytest.raises(BrsweepError, match=r"kernels=numba: takes no torch.* set kernels=auto"):
            fake_quantize(values, alpha, 0, 3, grad_scale=1.0)
    assert kernels.chosen("cpu") == "numba"
    kernels.use("auto")
    assert kernels.chosen("cpu") == "numba" and kernels.chosen("cuda") == "reference"
    for values in (wide, wide.half()):
        assert fake_quantize(values, alpha, 0, 3, grad_scale=1.0)[0].dtype == values.dtype
    for dtype, room in ((torch.float32, cpu), (torch.bfloat16, cpu), (torch.float64, None), (torch.float16, None)):
        found = fake_quantize(torch.zeros(3, dtype=dtype, requires_grad=True), alpha, 0, 3, grad_scale=1.0)[0].grad_fn
        assert (found.implementation is cpu) == (room is cpu)


SCRIPT = """
import torch
from brsweep.kernels import fake_quantize, use
use("numba")
values = torch.linspace(-2, 2, 50_000).requires_grad_()
quantized, sums = fake_quantize(values, torch.tensor(0.5), -2, 1, grad_scale=1.0, sums="all")
torch.autograd.backward((quantized, sums), (quantized.detach(), sums.detach()))
print(values.grad.double().sum().item(), sums.sum().item())
"""


def begin(package: Path, **environment: str) -> subprocess.Popen:
    """A process of its own that imports the package found in `package`, with no cache but what it is told of."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    nowhere = {"HOME": "/dev/null/home", "XDG_CACHE_HOME": "/dev/null/cache", "PYTHONPATH": str(package)}
    return subprocess.Popen(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", SCRIPT],
        env={**kept, **nowhere, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=package,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def printed_here(capsys) -> str:
    exec(SCRIPT, {})
    return capsys.readouterr().out


@pytest.fixture
def package(tmp_path):
    """A copy of the package in which nothing can be written beside the kernels' sources."""
    source = Path(kernels.__file__).parent
    copy = tmp_path / "package" / "brsweep"
    shutil.copytree(source, copy / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(source.parent / "errors.py", copy)
    (copy / "__init__.py").touch()
    (copy / "kernels" / "__pycache__").touch()  # a file of this name: holds against root too
    return copy.parent


def entries(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.nbc"))


def test_where_nothing_can_be_written_but_temporary_files(package, tmp_path, capsys):
    """The cache goes to a folder of the user's own; a folder there that others could write to is not trusted."""
    wanted = printed_here(capsys)
    first, second = tmp_path / "first", tmp_path / "second"
    name = f"brsweep-kernels-{os.getuid()}"
    first.mkdir()
    (second / name).mkdir(parents=True)
    (second / name).chmod(0o777)
    private, shared = begin(package, TMPDIR=str(first)), begin(package, TMPDIR=str(second))
    assert finish(private) == wanted and finish(shared) == wanted
    assert len(entries(first)) == 3 and (first / name).stat().st_mode & 0o777 == 0o700
    assert entries(second) == []
    entries(first)[0].write_bytes(b"damaged")
    assert finish(begin(package, TMPDIR=str(first))) == wanted


def test_processes_that_compile_at_once_share_a_cache(package, tmp_path, capsys):
    wanted, cache = printed_here(capsys), tmp_path / "cache"
    together = [begin(package, NUMBA_CACHE_DIR=str(cache)) for _ in range(3)]
    assert [finish(process) for process in together] == [wanted] * 3
    written = {path: path.stat().st_mtime_ns for path in entries(cache)}
    assert len(written) == 3
    assert finish(begin(package, NUMBA_CACHE_DIR=str(cache))) == wanted
    assert {path: path.stat().st_mtime_ns for path in entries(cache)} == written  # read, not compiled again


def test_each_source_has_its_own_entries_in_the_cache(monkeypatch, tmp_path):
    """numba looks at the file that it compiles, not at those that this file calls."""
    for source in Path(kernels.__file__).parent.glob("cpu*.py"):
        shutil.copy(source, tmp_path)
    before = cpu_passes._digest()
    assert before in cpu_passes.quantize("float32").py_func.__qualname__
    monkeypatch.setattr(cpu_passes, "__file__", str(tmp_path / "cpu_passes.py"))
    assert cpu_passes._digest.__wrapped__() == before
    with (tmp_path / "cpu_loops.py").open("a") as changed:
        changed.write("\n")
    assert cpu_passes._digest.__wrapped__() != before == cpu_passes._digest()


def test_warnings_are_not_raised_by_a_plain_call():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast(random_case(0, (100,), 2, True, sums=ALL_VALUES))
