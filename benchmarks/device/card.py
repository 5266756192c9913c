"""The machine, how fast its memory is copied, and the tests that only a CUDA device can run."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine as described
from benchmarks.device.budget import Budget

ROOT = Path(__file__).resolve().parents[2]
MARK = "mark.cuda"
COPIED, COPIED_DRY = 2**30, 2**22
"""Bytes, far beyond any cache; and those of a dry form."""


def machine(budget: Budget) -> dict[str, Any]:
    device = torch.device(budget.device)
    found: dict[str, Any] = described.describe(device)
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        found |= {
            "memory_gib": about.total_memory / 2**30, "capability": f"{about.major}.{about.minor}",
            "processors": about.multi_processor_count, "cuda": torch.version.cuda,
            "bf16": torch.cuda.is_bf16_supported(),
        }  # fmt: skip
    return found | {"copy_bytes_per_s": copy_rate(device)}


def copy_rate(device: torch.device) -> float:
    """Bytes read and written a second by a copy of its memory: what no pass over tensors is faster than."""
    source = torch.zeros((COPIED if device.type == "cuda" else COPIED_DRY) // 4, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / seconds(lambda: target.copy_(source), device, 10)


def seconds(call: Callable[[], Any], device: torch.device, times: int) -> float:
    """Mean seconds of a call, after one that does not count."""
    call()
    wait(device)
    began = time.perf_counter()
    for _ in range(times):
        call()
    wait(device)
    return (time.perf_counter() - began) / times


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine_lines(found: dict[str, Any]) -> list[str]:
    words = [f"{found['device']}; {found['versions']}; {found['date']}"]
    if "memory_gib" in found:
        words.append(
            f"{found['memory_gib']:.0f} GiB, {found['processors']} multiprocessors, compute capability "
            f"{found['capability']}, CUDA {found['cuda']}, bfloat16 {'yes' if found['bf16'] else 'no'}"
        )
    return [*words, f"copies {found['copy_bytes_per_s'] / 1e9:.0f} GB/s (bytes read and written)"]


def tests(budget: Budget) -> dict[str, Any]:
    """`pytest -m cuda` over the files that have the mark; on a CPU all of them are skipped."""
    if find_spec("pytest") is None:
        return {"left_out": "pytest is not installed"}
    files = [str(path) for path in sorted((ROOT / "tests").glob("*.py")) if MARK in path.read_text(encoding="utf-8")]
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-rsfE", "-p", "no:cacheprovider", *files]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=budget.left, check=False)
    except subprocess.TimeoutExpired:
        return {"left_out": f"not done within {budget.left:.0f} s"}
    if done.returncode:
        (budget.out / "tests.log").write_text(done.stdout + done.stderr, encoding="utf-8")
        failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        raise RuntimeError("; ".join([*failed, "tests.log has all of it"]))
    return {"files": [Path(file).name for file in files], "said": done.stdout.strip().splitlines()[-10:]}


def tests_lines(found: dict[str, Any]) -> list[str]:
    return [", ".join(found["files"]), "", *found["said"]]
