"""The allocator's setting: what it does to memory that is freed, and that it leaves the environment's choice alone."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from brsweep.training import allocator

SCRIPT = """
import sys, torch
from pathlib import Path
from brsweep.training.allocator import keep_freed_memory

def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

if sys.argv[1] == "kept":
    assert keep_freed_memory()
blocks = [torch.ones(2 * 2**20) for _ in range(16)]  # 8 MiB each, as activations are
del blocks
print(resident() >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_blocks_stay_with_the_process():
    held = {
        choice: int(subprocess.run([sys.executable, "-c", SCRIPT, choice], capture_output=True, check=True).stdout)
        for choice in ("kept", "as it is")
    }
    assert held["kept"] > held["as it is"] + 100


def test_elsewhere_and_where_the_environment_decides(monkeypatch):
    calls = []

    class Library:
        @staticmethod
        def mallopt(option, size):
            calls.append(option)
            return 1

    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: Library)
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "0")
    assert allocator.keep_freed_memory() and calls == [allocator.MMAP_THRESHOLD, allocator.TOP_PAD]
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("", ""))
    assert not allocator.keep_freed_memory() and len(calls) == 2
