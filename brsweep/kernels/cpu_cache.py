"""Where a compiled pass is kept: numba's cache.

Each has a name of its own there, with a digest of the CPU implementation's sources and the processor: numba itself
looks neither at other files than the one that it compiles, nor for two processes that add to one entry at a time.
"""

from __future__ import annotations

import functools
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import numba
from llvmlite import binding
from numba import njit

from brsweep.kernels.cpu_blocks import OPTIONS


def compiled(function: Callable, name: str, arguments: str) -> Callable:
    """The function with the types `arguments` and the rows first..last, from the cache or into it under `name`."""
    function.__qualname__ = f"{name}_{_digest()}"  # numba names the files of its cache after it
    signature = f"void({arguments}, int64, int64)"
    _find_folder(function)
    try:
        return njit(signature, cache=True, **OPTIONS)(function)
    except Exception:  # a full disk, a damaged entry: whatever is wrong with the cache, do without
        return njit(signature, **OPTIONS)(function)


@functools.cache
def _digest() -> str:
    sources = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("cpu*.py"))]
    processor = f"{binding.get_host_cpu_name()} {binding.get_host_cpu_features().flatten()}"
    return hashlib.sha256(b"\0".join([*sources, processor.encode()])).hexdigest()[:12]


def _find_folder(function: Callable) -> None:
    """Where numba may write neither beside the source nor under the home, send it to a folder of this user's own.

    It is left alone if anyone else could have written there: what the cache holds is run.
    """
    try:
        njit(cache=True)(function)  # looks for a folder, compiles nothing
        return
    except RuntimeError:
        folder = Path(tempfile.gettempdir()) / f"brsweep-kernels-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
        numba.config.CACHE_DIR = str(folder)
