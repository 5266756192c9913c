"""Too little memory and address space: one line, exit code 1, nothing left behind."""

from __future__ import annotations

import subprocess
import sys

import pytest
from commands import ROOT, TINY

from brsweep import memory
from brsweep.errors import BrsweepError
from brsweep.files import read_file
from brsweep.memory import check_address_space, lack_of_memory_in_words

LOADER = ImportError("libtorch_cpu.so: failed to map segment from shared object")
TORCH = RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 5 bytes")
LACKS = [
    MemoryError(), MemoryError("Unable to allocate 3 GiB"), LOADER, TORCH, OSError(12, "Cannot allocate memory"),
    SystemError("error return without exception set"), RuntimeError("std::bad_alloc"),
]  # fmt: skip


@pytest.mark.parametrize("error", LACKS, ids=repr)
def test_what_a_lack_of_memory_raises_is_one_line(error):
    with pytest.raises(BrsweepError, match=r"^out of memory \(") as raised, lack_of_memory_in_words():
        raise error
    assert type(error).__name__ in str(raised.value) and "\n" not in str(raised.value)
    with pytest.raises(BrsweepError, match="out of memory"), lack_of_memory_in_words():
        try:
            raise error
        except Exception:
            raise ValueError("something else, because of it")  # noqa: B904


@pytest.mark.parametrize(
    "error", [ValueError("x"), ImportError("no module named a"), OSError(28, "No space"), KeyError(1)]
)
def test_any_other_error_is_passed_on(error):
    with pytest.raises(type(error)) as raised, lack_of_memory_in_words():
        raise error
    assert raised.value is error


def test_a_limit_is_said_and_one_that_no_training_fits_in_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "_allowed_mib", lambda: 700)
    with pytest.raises(BrsweepError, match="ulimit -v allows 700 MiB"), lack_of_memory_in_words():
        raise MemoryError
    with pytest.raises(BrsweepError, match="ulimit -v allows 700 MiB of address space, torch alone takes 1024"):
        check_address_space()
    for enough in (1024, 10**6, None):
        monkeypatch.setattr(memory, "_allowed_mib", lambda allowed=enough: allowed)
        check_address_space()


def test_a_small_file_takes_little_memory_whatever_is_allowed(tmp_path):
    (tmp_path / "a").write_text("content")
    assert read_file(tmp_path / "a", 2**60) == b"content"


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of the address space is Linux's")
@pytest.mark.parametrize("mib", [100, 300, 600])
def test_under_a_small_limit_the_commands_say_so(tmp_path, mib):
    for words in (["brsweep.train", *TINY], ["brsweep.train", "--multirun", *TINY, "seed=1,2"]):
        limited = ["bash", "-c", f'ulimit -v {mib * 1024}; exec "$@"', "bash", sys.executable, "-m", *words]
        env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(limited, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
        assert done.stderr.startswith(f"error: ulimit -v allows {mib} MiB of address space")
        assert list(tmp_path.iterdir()) == []
