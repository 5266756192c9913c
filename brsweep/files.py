"""Whole files: replaced so that a reader, or a crash, finds the old content or the new one; read within bounds.

The new content of `name` is written beside it as `.name.part`, brought to the disk, and moved over it; then the folder
is brought to the disk as well. The part has one name, whoever writes, so what a killed process left is used up by the
next writer, and an OS lock on it, gone with its holder, makes writers of one file take turns.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def replace_file(path: Path, content: bytes | str) -> None:
    """Make `content`, text as UTF-8, the whole content of `path`. Raises OSError; the old content stays then."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to (and to read back), which takes the place of `path` at the end of the block.

    An exception in the block, or an OSError of the writing, leaves the old content and no part.
    """
    part = path.with_name(f".{path.name}.part")
    with _locked(part) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    with suppress(OSError):  # some file systems do not flush folders; the content is in its place whatever happens
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    """The empty file `part`, held by this process alone. A link in its place is not followed (OSError)."""
    while True:
        with open(os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                mine = os.path.samestat(os.fstat(file.fileno()), os.lstat(part))
            except FileNotFoundError:
                mine = False
            if mine:  # else the holder before has moved it to its place, and it must not be touched
                file.truncate(0)
                yield file
                return


def read_file(path: Path, at_most: int) -> bytes:
    """The content of a regular file. Raises OSError, also for a folder, a pipe or a device, and for more than `at_most`
    bytes; never waits for a writer."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "Not a regular file")
        if about.st_size > at_most:
            raise OSError(errno.EFBIG, f"Larger than {at_most // 2**20} MiB")
        return file.read(about.st_size)  # not `at_most`, for which room would be made
