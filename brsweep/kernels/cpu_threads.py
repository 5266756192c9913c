"""Rows of work, over as many threads as torch is set to use, and over the very threads that torch works with.

OpenMP's threads spin for a while after each of torch's operators. A pool of threads beside them would share the
processors with that spinning and gain next to nothing, so the rows go to torch's own team where its OpenMP runtime is
GNU's: `GOMP_parallel_start` hands a function to the team, the caller walks its own share, `GOMP_parallel_end` waits.
The passes let go of the interpreter's lock, so elsewhere, and in a forked child, where OpenMP's team is gone, a plain
pool of Python threads serves.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

SERIAL = 32_768
"""Up to so many values the caller works alone: waking a thread would cost more."""

WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_forked = False
_pool: ThreadPoolExecutor | None = None


def walk(compiled, rows: int, values: int, *arguments) -> None:
    """Call compiled(*arguments, first, last) for ranges that make up 0..rows, in parallel for a tensor worth it."""
    threads = min(torch.get_num_threads(), rows) if values > SERIAL else 1
    if threads <= 1:
        compiled(*arguments, 0, rows)
        return

    def part(t: int) -> None:
        compiled(*arguments, rows * t // threads, rows * (t + 1) // threads)

    openmp = None if _forked else _openmp()
    if openmp is None:
        _by_pool(part, threads)
    else:
        _by_team(part, threads, openmp)


def _by_team(part: Callable[[int], None], threads: int, openmp: ctypes.CDLL) -> None:
    faults = []

    def share() -> None:  # the team may be smaller than was asked for
        for t in range(openmp.omp_get_thread_num(), threads, openmp.omp_get_num_threads()):
            part(t)

    def guarded(_) -> None:
        try:
            share()
        except BaseException as fault:  # it could not leave this thread
            faults.append(fault)

    work = WORK(guarded)
    openmp.GOMP_parallel_start(work, None, threads)
    try:
        share()
    finally:
        openmp.GOMP_parallel_end()
    if faults:
        raise faults[0]


def _by_pool(part: Callable[[int], None], threads: int) -> None:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="brsweep-kernels")
    others = [_pool.submit(part, t) for t in range(1, threads)]
    part(0)
    for other in others:
        other.result()


@functools.cache
def _openmp() -> ctypes.CDLL | None:
    """The OpenMP runtime that torch is linked to, found through torch's own library; None where it is not GNU's."""
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).with_name("lib") / "libtorch_cpu.so"))
        library.GOMP_parallel_start.argtypes = [WORK, ctypes.c_void_p, ctypes.c_uint]
        library.GOMP_parallel_start.restype = library.GOMP_parallel_end.restype = None
    except (OSError, AttributeError):
        return None
    return library


def _leave_team() -> None:
    """A forked child inherits the pool, but none of its threads, and OpenMP's team likewise."""
    global _forked, _pool
    _forked, _pool = True, None


os.register_at_fork(after_in_child=_leave_team)
