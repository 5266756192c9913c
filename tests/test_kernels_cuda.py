"""The Triton kernels: under Triton's interpreter on any machine, on the device where there is one."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from kernel_loops import random_case

from brsweep import kernels
from brsweep.errors import BrsweepError
from brsweep.kernels import ALL_VALUES, COUNT, reference
from brsweep.kernels.op import OpOptions

HERE = Path(__file__).parent
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")


@pytest.mark.system
@needs_triton
def test_under_the_interpreter():
    """In a process of its own: Triton decides at its import whether to interpret."""
    run = [sys.executable, "-m", "pytest", "-k", "triton or interpreted", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*run, "tests/test_kernels_reference.py", "tests/interpreted_kernels.py"],
        env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False, cwd=HERE.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert int(done.stdout.splitlines()[-1].split(" passed")[0].split()[-1]) > 100


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_is_refused_and_auto_says_nothing():
    with pytest.raises(BrsweepError, match=r"kernels=triton: not available here \(.*\); choose one of auto, reference"):
        kernels.use("triton")
    assert kernels.chosen("cuda") == "reference"


@pytest.mark.cuda
@pytest.mark.system
@needs_triton
@needs_cuda
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_on_the_device(bits, per_channel):
    """The reference's codes and outputs; sums to rounding; equal bits when repeated."""
    from brsweep.kernels import cuda

    case = random_case(bits, (64, 3000), bits, True, sums=ALL_VALUES, per_channel=per_channel)
    options = OpOptions(case.qn, case.qp, 1.0, 0, ALL_VALUES, 0.0)
    values, alpha, grad, grad_sums = (t.cuda() for t in (case.values, case.alpha, case.grad_quantized, case.grad_sums))
    given = (values, alpha, options, grad, grad_sums, True)
    quick, again = [(*cuda.forward(*given[:3]), *cuda.backward(*given)) for _ in range(2)]
    plain = (*reference.forward(*given[:3]), *reference.backward(*given))
    assert all(torch.equal(a, b) for a, b in zip(quick, again, strict=True))
    assert torch.equal(quick[0], plain[0]) and torch.equal(quick[1][..., COUNT, :], plain[1][..., COUNT, :])
    for got, wanted in zip(quick[1:], plain[1:], strict=True):
        np.testing.assert_allclose(got.cpu(), wanted.cpu(), rtol=1e-5, atol=1e-2)
