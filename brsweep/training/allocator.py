"""Memory that a training step frees stays with the process, for the next step to take.

glibc gives blocks above a threshold back to the kernel as soon as they are freed, so each step's activations come as
fresh pages that the kernel has to clear again. Training allocates the same blocks at every step: keep them.
`docs/performance.md` says what it gives. Where they lie changes no result.
"""

from __future__ import annotations

import ctypes
import os
import platform

MMAP_THRESHOLD, TRIM_THRESHOLD, TOP_PAD = -3, -1, -2  # malloc.h
SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": (MMAP_THRESHOLD, 32 << 20),  # the largest that glibc takes
    "MALLOC_TRIM_THRESHOLD_": (TRIM_THRESHOLD, 2**31 - 1),
    "MALLOC_TOP_PAD_": (TOP_PAD, 64 << 20),
}


def keep_freed_memory() -> bool:
    """Set glibc's allocator for this process; what the environment already sets is left alone.

    Returns whether all is set: not where the C library is another one.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(bool(mallopt(option, size)) for name, (option, size) in SETTINGS.items() if name not in os.environ)
