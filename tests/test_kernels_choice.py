"""Which implementation works: what a run refuses, what library use falls back to; nothing else changes bits."""

from __future__ import annotations

import sys
import warnings

import pytest
import small_runs
import torch
from kernel_loops import fast, random_case, same_bits

from brsweep import kernels
from brsweep.errors import BrsweepError
from brsweep.kernels import ALL_VALUES, fake_quantize, implementations
from brsweep.stages import preflight
from brsweep.stages.setup import Setup

MODULES = {"numba": "brsweep.kernels.cpu", "triton": "brsweep.kernels.cuda"}


@pytest.fixture(autouse=True)
def forgotten():
    """What was found out about broken implementations."""
    yield
    implementations.forget()


def fails(monkeypatch, name: str, error: Exception | None) -> None:
    """The implementation cannot be imported (None), or raises when it is tried."""
    implementations.forget()
    if error is None:
        monkeypatch.setitem(sys.modules, MODULES[name], None)
        monkeypatch.delattr(kernels, MODULES[name].rpartition(".")[2], raising=False)
        return
    within = implementations._module

    class Broken:
        @staticmethod
        def fault():
            raise error

    monkeypatch.setattr(implementations, "_module", lambda wanted: Broken if wanted == name else within(wanted))


FAULTS = [
    (None, "ModuleNotFoundError: import of"),
    (MemoryError(), "MemoryError"),
    (MemoryError("while compiling\nmany\nlines"), "MemoryError: while compiling"),
    (ImportError("Numba needs NumPy 2.3 or less"), "ImportError: Numba needs NumPy 2.3 or less"),
    (OSError("libLLVM.so: cannot open"), "OSError: libLLVM.so"),
    (RuntimeError("no such processor"), "RuntimeError: no such processor"),
]


@pytest.mark.parametrize(("error", "reason"), FAULTS, ids=[str(reason) for _, reason in FAULTS])
@pytest.mark.parametrize(("device_type", "own"), [("cpu", "numba"), ("cuda", "triton")])
def test_a_run_never_falls_back(monkeypatch, device_type, own, error, reason):
    """One line with the reason and the remedy; no warning of a fallback that does not happen; the choice stays."""
    kernels.use("reference")
    fails(monkeypatch, own, error)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BrsweepError) as refused:
            kernels.use("auto", device_type)
    line = str(refused.value)
    assert line.startswith(f"kernels=auto: {own} does not work here ({reason}") and "kernels=reference" in line
    assert "\n" not in line and kernels._choice == "reference"
    kernels.use("reference", device_type)
    assert kernels.chosen(device_type) == "reference"


@pytest.mark.parametrize(("error", "reason"), FAULTS, ids=[str(reason) for _, reason in FAULTS])
def test_library_use_warns_and_takes_the_reference(monkeypatch, error, reason):
    fails(monkeypatch, "numba", error)
    kernels.use("auto")
    with pytest.warns(RuntimeWarning, match=f"numba does not work here, the slower reference is used: {reason}"):
        assert kernels.chosen("cpu") == "reference"
    assert kernels.available() == ("auto", "reference")
    assert fake_quantize(torch.tensor([0.7]), torch.ones(()), 0, 3, grad_scale=1.0)[0].item() == 1.0
    with pytest.raises(BrsweepError, match=r"kernels=numba: not available here \(.*\); choose one of auto, reference"):
        kernels.use("numba")


def test_the_set_up_of_a_run_and_the_check_before_it_refuse(monkeypatch, tmp_path):
    config = small_runs.config("kernels=auto", "device=cpu", tmp_path=tmp_path)
    fails(monkeypatch, "numba", MemoryError("no room"))
    for begin in (preflight.check_parts, lambda given: Setup.of(given, None)):
        with pytest.raises(BrsweepError, match=r"kernels=auto: numba does not work here \(MemoryError: no room\)"):
            begin(config)
    with pytest.raises(BrsweepError, match="kernels=auto: numba"):
        small_runs.train("kernels=auto", "device=cpu", tmp_path=tmp_path)
    assert not list(tmp_path.rglob("*.json*"))


@pytest.mark.parametrize(("choice", "device_type"), [("numba", "cuda"), ("numba", "mps")])
def test_a_choice_that_the_device_cannot_use_is_refused_before_the_float_stage(choice, device_type):
    with pytest.raises(BrsweepError, match=rf"kernels={choice}: takes no torch.float32 on {device_type}; set kernels="):
        kernels.use(choice, device_type)
    kernels.use(choice, "cpu")


def test_types_that_an_implementation_never_takes_still_go_to_the_reference():
    kernels.use("auto", "cpu")
    for dtype in (torch.float64, torch.float16):
        values = torch.zeros(3, dtype=dtype, requires_grad=True)
        quantized, _ = fake_quantize(values, torch.ones(()), 0, 3, grad_scale=1.0)
        assert quantized.grad_fn.implementation.__name__ == "brsweep.kernels.reference"
    for device_type in ("mps", "meta"):  # devices that have no implementation of their own
        kernels.use("auto", device_type)
        assert kernels.chosen(device_type) == "reference"


def test_a_pass_that_cannot_be_compiled_stops_on_one_line(monkeypatch):
    """Passes are compiled when they are first asked for, some of them in the middle of a training."""
    from brsweep.kernels import cpu_passes

    def no_room(*_, **__):
        raise MemoryError("no room\nat all")

    monkeypatch.setattr(cpu_passes, "njit", no_room)
    monkeypatch.setattr(cpu_passes, "_find_folder", lambda function: None)
    with pytest.raises(BrsweepError) as stopped:
        cpu_passes.gradients_and_pull.__wrapped__("float32", 4, 1)
    assert str(stopped.value) == (
        "numba cannot compile gradients_with_selects_float32_4_1 (MemoryError: no room); mend that, or set "
        "kernels=reference"
    )


def test_without_openmp_the_bits_are_the_same(monkeypatch):
    """So a run may go on without it: threads of another kind walk the same rows."""
    from brsweep.kernels import cpu_threads

    torch.set_num_threads(2)
    kernels.use("auto", "cpu")
    case = random_case(2, (3, 41, 1500), 2, True, sums=ALL_VALUES)
    by_team = fast(case)
    asked = []
    monkeypatch.setattr(cpu_threads, "_openmp", lambda: asked.append(1))
    implementations.forget()
    kernels.use("auto", "cpu")
    same_bits(fast(case), by_team)
    assert asked and kernels.chosen("cpu") == "numba"
