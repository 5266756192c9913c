"""Rows of work, over as many threads as torch is set to use.

The passes let go of the interpreter's lock, so a plain pool of Python threads serves; numba's own layers need an
OpenMP runtime, or cannot be entered from two threads, or after a fork. The caller walks its share too.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import torch

SERIAL = 32_768
"""Up to so many values the caller works alone: waking a thread would cost more."""

_pool: ThreadPoolExecutor | None = None


def walk(compiled, rows: int, values: int, *arguments) -> None:
    """Call compiled(*arguments, first, last) for ranges that make up 0..rows, in parallel for a tensor worth it."""
    threads = min(torch.get_num_threads(), rows) if values > SERIAL else 1
    if threads <= 1:
        compiled(*arguments, 0, rows)
        return
    borders = [rows * t // threads for t in range(threads + 1)]
    others = [_workers().submit(compiled, *arguments, *borders[t : t + 2]) for t in range(1, threads)]
    compiled(*arguments, *borders[:2])
    for other in others:
        other.result()


def _workers() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="brsweep-kernels")
    return _pool


def _forget() -> None:
    """A forked child inherits the pool, but none of its threads."""
    global _pool
    _pool = None


os.register_at_fork(after_in_child=_forget)
