"""What a run tells its process about the device: determinism, threads, cuBLAS; errors of a device in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import small_runs
import torch
from process_settings import CUBLAS
from torch import nn

from brsweep import kernels
from brsweep.errors import BrsweepError
from brsweep.models.resnet import resnet18, resnet20
from brsweep.models.tiny import tiny
from brsweep.stages import device, preflight, setup
from brsweep.stages.device import WORTH_THREADS, explained, find_device, layer_work, set_threads, settle
from brsweep.training.checkpoint import load, save
from brsweep.training.optim import build_optimizer
from brsweep.training.step import Learner, Totals, train_step

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
OPTIONS = {"lr": 0.1, "weight_decay": 0.0, "alpha_lr": 0.1, "alpha_weight_decay": 0.0, "norm_weight_decay": 0.0}


@pytest.fixture
def with_cuda(monkeypatch):
    """Torch as it looks where there are two CUDA devices, as far as it is asked without using one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv(CUBLAS, raising=False)


# --- determinism -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deterministic", [True, False])
def test_what_is_settled(deterministic):
    torch.utils.deterministic.fill_uninitialized_memory = True
    settle(CPU, deterministic)
    assert torch.are_deterministic_algorithms_enabled() is deterministic
    assert torch.backends.cudnn.benchmark is not deterministic
    assert torch.utils.deterministic.fill_uninitialized_memory is False


def fills(steps: int) -> int:
    """How often a float step fills memory, `steps` of them; the profiler sees what torch does inside its operators."""
    model = resnet20(10).train()
    learner = Learner(model, build_optimizer(torch.optim.SGD, model, OPTIONS))
    images, labels, totals = torch.randn(4, 3, 8, 8), torch.randint(10, (4,)), Totals(CPU)
    with torch.profiler.profile() as profile:
        for step in range(steps):
            train_step(learner, images, labels, {}, totals, step)
    return sum(event.count for event in profile.key_averages() if event.key == "aten::fill_")


@pytest.mark.filterwarnings("ignore")  # the profiler's own
def test_a_deterministic_step_fills_no_memory_that_it_overwrites():
    settle(CPU, deterministic=False)
    plain = fills(2)
    settle(CPU, deterministic=True)
    assert fills(2) == plain
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert fills(2) > plain + 100


@pytest.mark.parametrize(
    ("typed", "before", "after"),
    [
        (("device=cuda", "deterministic=true"), None, ":4096:8"),
        (("device=auto", "deterministic=true"), None, ":4096:8"),
        (("device=cuda", "deterministic=true"), ":16:8", ":16:8"),
        (("device=cuda", "deterministic=false"), None, None),
        (("device=cpu", "deterministic=true"), None, None),
    ],
)
def test_cublas_gets_its_workspace_before_cuda_starts(typed, before, after, with_cuda, monkeypatch, tmp_path):
    """By the check before a run, and by its set-up: the choice of kernels is the first that uses the device."""
    config = small_runs.config(*typed, tmp_path=tmp_path)
    seen = []

    def first_use(*_):
        seen.append(os.environ.get(CUBLAS))
        raise BrsweepError("far enough")

    monkeypatch.setattr(kernels, "use", first_use)
    for begin in (preflight.check_parts, lambda given: setup.Setup.of(given, None)):
        monkeypatch.delenv(CUBLAS, raising=False)
        if before is not None:
            monkeypatch.setenv(CUBLAS, before)
        with pytest.raises(BrsweepError, match="far enough"):
            begin(config)
    assert seen == [after, after]


# --- which device ----------------------------------------------------------------------------------------------------


def test_names_of_devices(with_cuda, monkeypatch):
    assert find_device("auto") == find_device("cuda") == CUDA and find_device("cuda:1").index == 1
    with pytest.raises(BrsweepError, match=r"^device=cuda:2: this machine has 2 CUDA devices"):
        find_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == CPU
    with pytest.raises(BrsweepError, match=r"^device=cuda:1: torch finds no CUDA device on this machine"):
        find_device("cuda:1")


def test_a_numbered_device_is_the_current_one(with_cuda, monkeypatch):
    current = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    for name in ("cuda:1", "cuda", "cpu"):
        settle(torch.device(name), deterministic=True)
    assert current == [torch.device("cuda:1")]


def test_what_a_cuda_device_lacks_is_said_before_anything_trains(with_cuda, monkeypatch, tmp_path):
    monkeypatch.setattr(kernels, "use", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    with pytest.raises(BrsweepError, match=r"^precision=bf16: this CUDA device has no bfloat16"):
        preflight.check_parts(small_runs.config("device=cuda", "precision=bf16", tmp_path=tmp_path))
    monkeypatch.setattr(preflight, "find_spec", lambda _: None)
    with pytest.raises(BrsweepError, match=r"^compile=true: torch.compile wants Triton on CUDA; pip install triton"):
        preflight.check_parts(small_runs.config("device=cuda", "compile=true", tmp_path=tmp_path))


# --- threads ---------------------------------------------------------------------------------------------------------


def test_the_work_of_a_layer_is_counted():
    """conv: 2 x 3x3 inputs for each of 4 x 6 x 6 values; ReLU: one for each; linear: 144 for each of 5. Batch of 10."""
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    wanted = 10 * (144 * 18 + 144 + 144 + 144 * 5) / 4
    assert layer_work(net, (2, 8, 8), 10) == wanted
    assert net.training and all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_looking_at_the_work_leaves_no_trace():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 5))
    net[1].eval()
    state, drawn = {key: value.clone() for key, value in net.state_dict().items()}, torch.random.get_rng_state()
    layer_work(net, (3, 8, 8), 4)
    assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())
    assert torch.equal(drawn, torch.random.get_rng_state()) and [m.training for m in net] == [True, False, *[True] * 3]
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize(
    ("net", "shape", "batch", "small"),
    [
        (lambda: resnet20(10, in_channels=1), (1, 8, 8), 64, True),  # the default run
        (lambda: tiny(4), (3, 8, 8), 64, True),
        (lambda: resnet20(10), (3, 32, 32), 128, False),
        (lambda: resnet18(10), (3, 32, 32), 128, False),
        (lambda: resnet18(10), (3, 32, 32), 2, False),
    ],
)
def test_which_networks_are_worth_several_threads(net, shape, batch, small):
    assert (layer_work(net(), shape, batch) < WORTH_THREADS) is small


@pytest.mark.parametrize(
    ("asked", "work", "where", "threads"),
    [
        (0, WORTH_THREADS - 1, CPU, 1),
        (0, WORTH_THREADS, CPU, 3),
        (2, 0.0, CPU, 2),
        (0, 0.0, CUDA, 3),
    ],
)
def test_how_many_threads(asked, work, where, threads, monkeypatch):
    monkeypatch.setattr(device, "ALL_THREADS", 3)
    torch.set_num_threads(4)
    assert set_threads(asked, work, where) == torch.get_num_threads() == threads


@pytest.mark.parametrize(("typed", "threads", "says"), [("0", 1, "cpu, 1 thread (by the work of a step), float32"),
                                                       ("2", 2, "cpu, 2 threads, float32")])  # fmt: skip
def test_a_run_says_and_records_its_threads(typed, threads, says, tmp_path, capsys):
    torch.set_num_threads(3)
    result = small_runs.train(f"threads={typed}", "schedule.qat_epochs=3", tmp_path=tmp_path)
    assert result["threads"] == threads and result["config"]["threads"] == int(typed)
    assert says in capsys.readouterr().out
    assert says in (small_runs.folder(result) / "console.log").read_text()


def test_an_earlier_runs_threads_are_not_the_next_ones(tmp_path, monkeypatch):
    """Two runs in one process: the second has all threads again where its work wants them."""
    monkeypatch.setattr(device, "ALL_THREADS", 3)
    monkeypatch.setattr(setup, "layer_work", lambda *_: 2.0**30)
    torch.set_num_threads(1)
    assert small_runs.train("threads=0", "schedule.qat_epochs=3", tmp_path=tmp_path)["threads"] == 3


# --- what another type of device has computed ------------------------------------------------------------------------


def as_if_by_cuda(root: Path) -> None:
    """The store's entries as a CUDA device would have left them."""
    for folder in [path for path in (root / "store").iterdir() if (path / "entry.json").exists()]:
        entry = json.loads((folder / "entry.json").read_text())
        (folder / "entry.json").write_text(json.dumps(entry | {"device": "cuda"}))
        folder.rename(f"{folder}-cuda")


def test_no_stage_of_another_device_is_taken(tmp_path, capsys):
    """`auto` and `cpu` share on a CPU; what CUDA has trained is trained anew, with one line, and stays beside it."""
    one = small_runs.train("device=cpu", "sweep_name=one", tmp_path=tmp_path)
    capsys.readouterr()
    small_runs.train("device=auto", "sweep_name=two", tmp_path=tmp_path)
    assert "reused from the store: float (2 epochs), warmup (2 epochs); trained by one/" in capsys.readouterr().out
    as_if_by_cuda(tmp_path)
    anew = small_runs.train("device=auto", "seed=42", "reg.lambda_act=2", "sweep_name=three", tmp_path=tmp_path)
    said = capsys.readouterr().out
    line = "float and warmup: the store has it from another type of device; it is trained here on cpu"
    assert said.count(line) == 1 and "reused from the store" not in said
    names = sorted(path.name for path in (tmp_path / "store").iterdir() if path.is_dir() and path.name != "locks")
    assert names == sorted([*one["stages"].values()][:2] + [f"{name}-cuda" for name in [*one["stages"].values()][:2]])
    assert anew["stages"]["warmup"] == one["stages"]["warmup"]


def test_a_checkpoint_of_another_device_stops_the_run_and_stays(tmp_path, monkeypatch):
    """A stage is not trained half on one type of device and half on another, and no half is thrown away unasked."""
    seen = []

    def after_the_second(path, state):
        save(path, state)
        if path.name == "checkpoint.pt" and state["stage"] == "br":
            seen.append(path)
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("brsweep.stages.run.save", after_the_second)
        small_runs.train(tmp_path=tmp_path)
    save(seen[0], load(seen[0]) | {"device": "cuda"})
    kept = seen[0].read_bytes()
    with pytest.raises(BrsweepError, match=r"br is trained on cuda up to epoch 3 of 4, and this process has cpu"):
        small_runs.train(tmp_path=tmp_path)
    assert seen[0].read_bytes() == kept
    assert small_runs.train("force=true", tmp_path=tmp_path)["device"] == "cpu"


# --- errors ----------------------------------------------------------------------------------------------------------

FULL = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 23.00 GiB of which 2 GiB is free. "
    "Of the allocated memory 1 GiB is allocated by PyTorch.\nSee documentation for Memory Management"
)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (torch.OutOfMemoryError(FULL), "out of memory on the CUDA device (CUDA out of memory. Tried to"),
        (RuntimeError("CUDA error: out of memory\nCompile with"), "out of memory on the CUDA device (CUDA error: out"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "out of memory on the CUDA device (cuDNN error"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out of memory ([enforce fail]"),
        (MemoryError(), "out of memory (MemoryError)"),
        (
            RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation, but you set"),
            "cumsum_cuda_kernel has no deterministic form on CUDA; deterministic=false trains with it",
        ),
    ],
)
def test_errors_of_a_device_are_one_line(error, says, tmp_path, monkeypatch):
    line = explained(error)
    assert line.startswith(says) and "\n" not in line and len(line) < 400

    def fail(*_):
        raise error

    monkeypatch.setattr("brsweep.training.loop.train_step", fail)
    with pytest.raises(BrsweepError) as raised:
        small_runs.train(tmp_path=tmp_path)
    assert str(raised.value) == line
    (failure,) = tmp_path.rglob("failure.json")
    assert line[:60] in failure.read_text().replace('\\"', '"')


def test_other_errors_stay_what_they_are(tmp_path, monkeypatch):
    assert explained(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None

    def fail(*_):
        raise ValueError("something else")

    monkeypatch.setattr("brsweep.training.loop.train_step", fail)
    with pytest.raises(ValueError, match="something else"):
        small_runs.train(tmp_path=tmp_path)
