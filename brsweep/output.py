"""What a command prints may be read by a program that stops early, such as `head`."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager

CLOSED = 141
"""The exit code of a program that SIGPIPE ends, as a shell shows it."""


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """End the process without a word, as other programs do, where nobody reads its standard output any more."""
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:  # `>&-`
                sys.stdout.flush()
    except BrokenPipeError:
        if not _unread(sys.stdout.fileno()):
            raise  # another pipe broke
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        sys.exit(CLOSED)


def _unread(descriptor: int) -> bool:
    """Whether the pipe behind it has no reader any more."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
