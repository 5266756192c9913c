"""What a measurement was made on: without it a figure says nothing."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks import rivals


def describe(device: torch.device) -> dict[str, str]:
    """Device, versions and date, as plain text."""
    versions = {"Python": platform.python_version(), "torch": torch.__version__} | _installed("numba", "triton")
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"{_processor()}, {os.cpu_count()} cores",
        "versions": ", ".join(f"{name} {number}" for name, number in (versions | rivals.installed()).items()),
        "date": date.today().isoformat(),
    }


def _installed(*names: str) -> dict[str, str]:
    """Their versions, of those that are there."""
    found = {}
    for name in names:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _processor() -> str:
    """The processor's name, and the vector instructions that it offers torch."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"
