"""Decoded images on disk: made once, memory-mapped afterwards.

    <folder>/contents.json                        source, classes, and shape, type and SHA-256 of each array
    <folder>/{train,test}_{images,labels}.npy
    <folder>.lock                                 held by the process that makes the folder; stays, and is empty
    <folder>.partial                              being made; a leftover of a killed process is cleared away

The contract: a folder appears whole, by one rename, and is never written to again. `prepare` looks at the contents and
the files' headers and sizes, `load` at every byte (2 GB/s or so). What is missing or damaged, or was decoded from
another source, is made again, with a warning where something was there; it is never used. A folder that holds anything
but such files is nobody's cache and stays as it is. Processes that want the same folder at once make it once. A folder
that is whole needs no right to write, so it can be shared. Deleting it costs the time to make it again, nothing more.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from filelock import FileLock

from brsweep.data.images import Images
from brsweep.errors import BrsweepError

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
CONTENTS = "contents.json"


class Damaged(BrsweepError):
    """A folder that is not there, not whole, or of another source."""


@dataclass(frozen=True)
class Contents:
    """What a folder says about itself. source: what the arrays were decoded from; arrays: by name, `shape` (list),
    `dtype` (text) and `sha256` of the values."""

    source: str
    classes: tuple[str, ...]
    arrays: dict[str, dict]

    @property
    def sha256(self) -> str:
        """Of classes and arrays, and nothing of where they came from or lie."""
        return hashlib.sha256(json.dumps([self.classes, self.arrays], sort_keys=True).encode()).hexdigest()

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return tuple(self.arrays["train_images"]["shape"][1:3])

    def write(self, path: Path) -> None:
        fields = {"sha256": self.sha256, "source": self.source, "classes": self.classes, "arrays": self.arrays}
        with open(path, "w", encoding="utf-8") as file:
            file.write(json.dumps(fields, indent=1) + "\n")
            _flush(file)

    @classmethod
    def read(cls, path: Path) -> Contents:
        """Raises `Damaged`."""
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            arrays = {name: dict(fields["arrays"][name]) for name in ARRAYS}
            contents = cls(fields["source"], tuple(fields["classes"]), arrays)
            whole = contents.sha256 == fields["sha256"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise Damaged(f"{path}: {type(error).__name__}") from None
        if not whole:
            raise Damaged(f"{path}: does not match its own sha256")
        return contents


class ArrayWriter:
    """Writes arrays piece by piece, never whole in memory. Ordinary writes: a full disk is an error, not a SIGBUS."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.arrays: dict[str, dict] = {}

    def write(self, name: str, shape: tuple[int, ...], pieces: Iterable[np.ndarray]) -> None:
        """pieces: C-contiguous, of one dtype, which stacked along the first dimension give `shape`."""
        digest, rows, dtype = hashlib.sha256(), 0, None
        with open(self.folder / f"{name}.npy", "wb") as file:
            for piece in pieces:
                if dtype is None:
                    dtype = piece.dtype
                    descr = np.lib.format.dtype_to_descr(dtype)
                    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
                if piece.dtype != dtype or piece.shape[1:] != shape[1:]:
                    raise TypeError(f"{name}: a piece is {piece.dtype} {piece.shape}, the array {dtype} {shape}")
                digest.update(piece)
                file.write(piece)
                rows += len(piece)
            _flush(file)
        if rows != shape[0]:
            raise TypeError(f"{name}: {rows} rows written, {shape[0]} announced")
        self.arrays[name] = {"shape": list(shape), "dtype": str(dtype), "sha256": digest.hexdigest()}


class ArrayCache:
    """The decoded images in `folder`.

    source: what they are decoded from, version included; a folder of another source is not taken.
    build: called where the folder has to be made; writes each of ARRAYS and returns the classes.
    option: what the user sets to put it elsewhere, for messages, such as "data.cache_dir".
    """

    def __init__(self, folder: Path, source: str, build: Callable[[ArrayWriter], tuple[str, ...]], option: str) -> None:
        self.folder, self.source, self._build, self._option = folder, source, build, option
        self._verified: Images | None = None

    def prepare(self) -> None:
        """Make the folder unless it is there and looks whole."""
        self._ensure(verify=False)

    def contents(self) -> Contents:
        """Raises `Damaged` where there are none of this source yet."""
        path = self.folder / CONTENTS
        contents = Contents.read(path)
        if contents.source != self.source:
            raise Damaged(f"{path}: decoded from {contents.source}, not from {self.source}")
        return contents

    def load(self) -> Images:
        """The arrays, memory-mapped and read-only, every byte checked (once per object)."""
        if self._verified is None:
            self._verified = self._ensure(verify=True)
        return self._verified

    def _ensure(self, verify: bool) -> Images:
        try:
            return self._read(verify)
        except Damaged:
            pass  # looked at again under the lock: another process may be making it
        with self._locked():
            try:
                return self._read(verify)
            except Damaged as damage:
                if self.folder.exists():
                    warnings.warn(f"damaged image cache, decoded again: {damage}", stacklevel=4)
            self._make()
        return self._read(verify)

    def _read(self, verify: bool) -> Images:
        contents = self.contents()
        arrays = {name: _open(self.folder / f"{name}.npy", contents.arrays[name], verify) for name in ARRAYS}
        try:
            return Images(**arrays, classes=contents.classes)
        except BrsweepError as error:  # arrays that agree with their own digests and make no data set
            raise Damaged(f"{self.folder}: {error}") from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = FileLock(
            _beside(self.folder, ".lock")
        )  # the system lets go of it when the process ends, however it ends
        with self._writing():
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _make(self) -> None:
        partial = _beside(self.folder, ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            with self._writing():
                partial.mkdir()
                writer = ArrayWriter(partial)
                classes = self._build(writer)
                Contents(self.source, classes, writer.arrays).write(partial / CONTENTS)
                self._publish(partial)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _publish(self, partial: Path) -> None:
        damaged = _beside(self.folder, ".damaged")
        shutil.rmtree(damaged, ignore_errors=True)
        if self.folder.is_symlink():
            self.folder.unlink()  # what it leads to stays as it is
        if self.folder.exists():
            self._check_ours()
            os.replace(self.folder, damaged)
        os.replace(partial, self.folder)
        shutil.rmtree(damaged, ignore_errors=True)

    def _check_ours(self) -> None:
        files = {CONTENTS, *(f"{name}.npy" for name in ARRAYS)}
        foreign = sorted({path.name for path in self.folder.iterdir()} - files)
        if foreign:
            raise BrsweepError(
                f"{self.folder}: the decoded images belong here, and it holds {foreign[0]}; move that folder away"
            )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BrsweepError(
                f"{self._option}={self.folder.parent}: cannot be written to ({error.strerror or error}); "
                "choose a folder on a disk with room"
            ) from error


def _open(path: Path, entry: dict, verify: bool) -> np.ndarray:
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # whatever the bytes make numpy raise
        raise Damaged(f"{path}: {type(error).__name__}") from None
    if list(array.shape) != entry.get("shape") or str(array.dtype) != entry.get("dtype"):
        raise Damaged(f"{path}: {array.dtype} {array.shape} is not what the contents say")
    if verify and hashlib.sha256(array).hexdigest() != entry.get("sha256"):
        raise Damaged(f"{path}: does not match its sha256")
    return array


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(folder.name + suffix)


def _flush(file: IO) -> None:
    """To the disk, not only to the system."""
    file.flush()
    os.fsync(file.fileno())
