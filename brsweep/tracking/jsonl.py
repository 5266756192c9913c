"""Append-only records on file, one JSON object a line: `metrics.jsonl` and its kind.

A line reaches the operating system before `append` returns, so that a killed process loses none; it is not forced to
the disk, so that a power cut may take the last ones. A line that a crash cut short is the only damage that this
format expects: `read` leaves it out, and `JsonLines` cuts it off before it appends. Damage anywhere else is an error,
because records that silently go missing would be wrong results.

The files hold strict JSON, which has no NaN and no infinity: both are written as null. Keys and passwords in texts
are hidden (see `brsweep.secrets`).
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from brsweep.errors import BrsweepError
from brsweep.files import read_file, replace_file
from brsweep.secrets import masked

AT_MOST = 2**30
"""Bytes that a file of records may have: hundreds of epochs of the largest networks stay far below."""
HUGE = 1e300
"""No number that a run writes is as large; sums and differences of smaller ones stay finite."""


class JsonLines:
    """The file at `path`, open for appending; made if it is not there, a cut last line removed.

    Every method raises `BrsweepError`, naming the file, when the file cannot be written, as on a full disk; what was
    on file before then stays.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        with _naming(self.path):
            self._fd = self._open()

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record as one line."""
        line = _line(record)
        self._check_place()
        with _naming(self.path):
            start = os.fstat(self._fd).st_size
            try:
                if os.write(self._fd, line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                if os.fstat(self._fd).st_size > start:  # a half-written line would spoil the one after it
                    os.ftruncate(self._fd, start)
                raise

    def replace(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Make `records` the whole content, in one atomic move, and stay open for more."""
        content = b"".join(_line(record) for record in records)
        with _naming(self.path):
            replace_file(self.path, content)
            self.close()
            self._fd = self._open()

    def _check_place(self) -> None:
        """A file that was moved or removed takes lines that nobody will read."""
        try:
            held = os.path.samestat(os.fstat(self._fd), os.stat(self.path))
        except OSError:
            held = False
        if not held:
            raise BrsweepError(
                f"{self.path}: was removed, renamed or replaced while it was written; put its folder back, and the "
                f"same command goes on from the last checkpoint in it"
            )

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> int:
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            _mend_end(fd)
        except BaseException:
            os.close(fd)
            raise
        return fd


def read(path: Path, skip_damaged: bool = False) -> list[dict[str, Any]]:
    """The records at `path`, in order; a last line without an end that is no record is left out as cut short.

    A record is a JSON object of scalars and lists, lists of lists included, and no deeper; its numbers are below HUGE.
    skip_damaged: leave out any other line that is none as well, for a look at a file that is being written.
    Raises `BrsweepError` where there is no such file, where it can't be read or is larger than AT_MOST, or where any
    other line is not a record.
    """
    with _naming(Path(path), "read"):
        content = read_file(Path(path), AT_MOST)
    lines = content.split(b"\n")
    records = [_record(line) for line in lines]
    if skip_damaged:
        return [record for record in records if record is not None]
    if records[-1] is None:  # what follows the last line end: nothing, or a line cut short
        records.pop()
    for number, record in enumerate(records, start=1):
        if record is None:
            raise BrsweepError(
                f"{path}, line {number}: not a JSON object of numbers, texts and lists, the file is damaged; "
                "restore it, or remove the run folder and run again"
            )
    return records


def read_epochs(path: Path, skip_damaged: bool = False) -> list[dict[str, Any]]:
    """The records of metrics.jsonl: `read`, and every record has its stage, a text, its epoch, from 1, and beside them
    numbers, truth values and null alone."""
    records = read(path, skip_damaged)
    if skip_damaged:
        return [record for record in records if _is_epoch(record)]
    for number, record in enumerate(records, start=1):
        if not _is_epoch(record):
            raise BrsweepError(
                f"{path}, line {number}: not the record of an epoch, the file is damaged; "
                "restore it, or remove the run folder and run again"
            )
    return records


def _is_epoch(record: Mapping[str, Any]) -> bool:
    others = [value for key, value in record.items() if key != "stage"]
    epoch = record.get("epoch")
    whole = isinstance(record.get("stage"), str) and type(epoch) is int and epoch >= 1
    return whole and not any(isinstance(value, (str, list)) for value in others)


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = _parse(line, parse_constant=_refused)
        if MAY_BE_HUGE.search(line):
            _parse(line, parse_float=_bounded, parse_int=_bounded)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError, too
        return None
    if not isinstance(record, dict):
        return None
    return record if all(_is_flat(value, depth=2) for value in record.values()) else None


MAY_BE_HUGE = re.compile(rb"[eE]\+?\d{3}|\d{300}")


def _parse(line: bytes, **options: Callable[[str], Any]) -> Any:
    return json.loads(line.decode(), **options)


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _bounded(number: str) -> float:
    if not -HUGE < float(number) < HUGE:
        raise ValueError(f"{number:.40} is larger than any number of a run")
    return float(number)


def _is_flat(value: Any, depth: int) -> bool:
    """Whether a value is a scalar, or lists of them, at most `depth` lists deep."""
    if isinstance(value, list):
        return depth > 0 and all(_is_flat(item, depth - 1) for item in value)
    return not isinstance(value, dict)


def _line(record: Mapping[str, Any]) -> bytes:
    record = masked(record)
    try:
        text = json.dumps(record, allow_nan=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps(_finite(record), allow_nan=False, separators=(",", ":"))
    return text.encode() + b"\n"


def _finite(value: Any) -> Any:
    """The same value with None for every float that JSON cannot hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _mend_end(fd: int) -> None:
    """Let the file end with a line end: complete a last line that is whole, cut off one that is not."""
    size = os.fstat(fd).st_size
    if size == 0 or os.pread(fd, 1, size - 1) == b"\n":
        return
    content = os.pread(fd, size, 0)
    start = content.rfind(b"\n") + 1
    if _record(content[start:]) is None:
        os.ftruncate(fd, start)
    else:
        os.write(fd, b"\n")


@contextmanager
def _naming(path: Path, verb: str = "write") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        cure = "give another path" if verb == "read" else "make room or give access, then run the same command again"
        raise BrsweepError(f"{path}: cannot {verb} it ({error.strerror or error}); {cure}") from error
