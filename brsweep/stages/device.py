"""The device that a run trains on, and what its process is told before anything starts there.

    find_device     `auto`, `cpu`, `cuda`, `cuda:1` -> the device, or one line that says why it can't be had
    settle          memory, determinism and cuDNN of this process
    set_workspace   cuBLAS's, before CUDA starts
    set_threads     how many of the CPU's threads torch takes
    explained       an error of the device's as one line with its cause and its remedy
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from brsweep.errors import BrsweepError
from brsweep.training.allocator import keep_freed_memory

CUBLAS, WORKSPACE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
"""cuBLAS is deterministic with a workspace of fixed size alone, which it reads once, at its start."""

ALL_THREADS = torch.get_num_threads()
"""What torch takes by itself in this process: the cores, or OMP_NUM_THREADS, by which a sweep shares them out."""
WORTH_THREADS = 2**24
"""Multiply-adds that a layer does in a training step's forward pass, on average, from which on several threads pay."""


def find_device(name: str) -> torch.device:
    """The device of that name. Raises `BrsweepError` where this machine has none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise BrsweepError(f"device={name}: torch finds no CUDA device on this machine; take device=cpu or auto")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BrsweepError(f"device={name}: choose auto, cpu or cuda") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BrsweepError(f"device={name}: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def settle(device: torch.device, deterministic: bool) -> None:
    """Set this process's memory, determinism and cuDNN for a training on `device`, before anything starts there.

    Deterministic mode by itself also fills whatever memory is allocated: at every operator, for code that reads what it
    has not written. None here does.
    """
    keep_freed_memory()
    set_workspace(device, deterministic)
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = not deterministic
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # pinned memory and kernels start on the current one


def set_workspace(device: torch.device, deterministic: bool) -> None:
    """Have cuBLAS work deterministically where that is asked; what the environment already says is left alone."""
    if deterministic and device.type == "cuda":
        os.environ.setdefault(CUBLAS, WORKSPACE)


def set_threads(asked: int, work: float, device: torch.device) -> int:
    """Set torch's threads for the process, and return their number.

    asked: the number, or 0 for a choice by the work: one where a step's layers are so small that a thread would wait
    for the others longer than it helps them, all cores elsewhere. They wait for each other at every operator, and where
    a neighbour keeps one of the cores busy, each wait may last until the system lets the thread in again.
    work: see `layer_work`. On another device than the CPU the choice is torch's.
    """
    small = device.type == "cpu" and work < WORTH_THREADS
    torch.set_num_threads(asked or (1 if small else ALL_THREADS))
    return torch.get_num_threads()


@torch.no_grad()
def layer_work(model: nn.Module, image_shape: tuple[int, int, int], batch_size: int) -> float:
    """Multiply-adds that a layer of the network does for one batch, on average over its layers; additions, comparisons
    and copies count as one each. image_shape: (C, H, W).

    Two images go through the network in evaluation, whose mode is put back; nothing is timed.
    """
    done: list[int] = []
    leaves = [module for module in model.modules() if not any(True for _ in module.children())]
    handles = [module.register_forward_hook(lambda *given: done.append(_work(*given))) for module in leaves]
    parameter = next(model.parameters(), torch.empty(0))
    images = torch.zeros(2, *image_shape, device=parameter.device, dtype=parameter.dtype)
    training = {module: module.training for module in model.modules()}
    try:
        with torch.random.fork_rng(devices=[]):
            model.eval()(images)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode
    return sum(done) / max(1, len(done)) * batch_size / len(images)


def _work(module: nn.Module, inputs: Any, output: Any) -> int:
    if not isinstance(output, torch.Tensor):
        return 0
    weight = getattr(module, "weight", None)
    per_value = weight[0].numel() if isinstance(weight, torch.Tensor) and weight.dim() > 1 else 1
    return output.numel() * per_value


def check_device(config: Mapping[str, Any]) -> torch.device:
    """The device of a run. Raises `BrsweepError` where it is not there, or can't do what the run asks of it."""
    device = find_device(config["device"])
    if device.type == "cuda" and config["precision"] == "bf16" and not torch.cuda.is_bf16_supported():
        raise BrsweepError("precision=bf16: this CUDA device has no bfloat16; take precision=float32")
    return device


def explained(error: BaseException) -> str | None:
    """One line with the cause and the remedy for an error of a device's; None for any other."""
    text = " ".join(str(error).split())
    if isinstance(error, torch.OutOfMemoryError) or any(words in text for words in OUT_OF_CUDA_MEMORY):
        return (
            f"out of memory on the CUDA device ({_cut(text)}); the last checkpoint is kept: take a smaller "
            f"data.batch_size, precision=bf16, cuda_graphs=false, or fewer runs on a card "
            f"(hydra.launcher.runs_per_device)"
        )
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return (
            f"out of memory ({_cut(text) or type(error).__name__}); the last checkpoint is kept: take a smaller "
            f"data.batch_size, or fewer runs at once (hydra.launcher.n_jobs)"
        )
    if isinstance(error, RuntimeError) and NOT_DETERMINISTIC in text:
        return (
            f"{text.partition(' ')[0]} has no deterministic form on CUDA; deterministic=false trains with it, and "
            f"equal runs then differ in their last bits"
        )
    return None


OUT_OF_CUDA_MEMORY = ("CUDA error: out of memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED")
NOT_DETERMINISTIC = "does not have a deterministic implementation"


def _cut(text: str, most: int = 160) -> str:
    return text if len(text) <= most else f"{text[:most].rsplit(' ', 1)[0]} ..."
