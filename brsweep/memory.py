"""Too little memory, in one line: a limit that no training fits in, and what is raised when the system refuses more.

Shared libraries are mapped when they are imported, so too little address space shows as an ImportError or an OSError
as well as a MemoryError, and torch's allocator raises a RuntimeError.
"""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager

from brsweep.errors import BrsweepError

MIB = 2**20
LEAST_MIB = 1024
"""Address space that torch takes before it has computed anything; with less its import may abort the process."""
REFUSED = re.compile(r"failed to map segment|can(no|')t allocate memory|bad_alloc|error return without exception", re.I)
"""How the dynamic loader, the system, torch and C++ say it, and Python where it had no memory for an exception."""


def check_address_space() -> None:
    """Raise `BrsweepError` where this process may not have the address space that torch needs."""
    allowed = _allowed_mib()
    if allowed is not None and allowed < LEAST_MIB:
        raise BrsweepError(
            f"ulimit -v allows {allowed} MiB of address space, torch alone takes {LEAST_MIB}: raise it, to unlimited "
            f"where you may"
        )


@contextmanager
def lack_of_memory_in_words() -> Iterator[None]:
    """Raises `BrsweepError` in place of what too little memory makes Python, torch or a library raise in the block."""
    try:
        yield
    except BrsweepError:
        raise
    except Exception as error:
        if not _is_lack_of_memory(error):
            raise
        allowed = _allowed_mib()
        limit = "" if allowed is None else f"; ulimit -v allows {allowed} MiB of address space"
        text = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
        raise BrsweepError(f"out of memory ({text[:200]}){limit}: give this process more, or let it do less") from None


def _is_lack_of_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError) or REFUSED.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _allowed_mib() -> int | None:
    """The limit of this process's address space; None for none."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit // MIB
