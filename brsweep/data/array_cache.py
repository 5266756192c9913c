"""Decoded images on disk: made once, memory-mapped afterwards.

    <folder>/manifest.json                        classes, and shape, type and SHA-256 of each array
    <folder>/{train,test}_{images,labels}.npy
    <folder>.lock                                 held by the process that makes the folder; stays, and is empty
    <folder>.partial                              being made; a leftover of a killed process is cleared away

The contract: a folder appears whole, by one rename, and is never written to again. `prepare` looks at the manifest and
the files' headers and sizes, `load` at every byte (2 GB/s or so). What is missing or damaged is made again, with a
warning where something was there; it is never used. Processes that want the same folder at once make it once. A folder
that is whole needs no right to write, so it can be shared. Deleting it costs the time to make it again, nothing more.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from brsweep.data.images import Images
from brsweep.data.manifest import ARRAYS, Damaged, Manifest, flush
from brsweep.errors import BrsweepError

MANIFEST = "manifest.json"


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
            flush(file)
        if rows != shape[0]:
            raise TypeError(f"{name}: {rows} rows written, {shape[0]} announced")
        self.arrays[name] = {"shape": list(shape), "dtype": str(dtype), "sha256": digest.hexdigest()}


class ArrayCache:
    """The decoded images in `folder`.

    build: called where the folder has to be made; writes each of ARRAYS and returns the classes.
    option: what the user sets to put it elsewhere, for messages, such as "data.cache_dir".
    """

    def __init__(self, folder: Path, build: Callable[[ArrayWriter], tuple[str, ...]], option: str) -> None:
        self.folder, self._build, self._option = folder, build, option
        self._verified: Images | None = None

    def prepare(self) -> None:
        """Make the folder unless it is there and looks whole."""
        self._ensure(verify=False)

    def manifest(self) -> Manifest:
        """Raises `Damaged` where there is none yet."""
        return Manifest.read(self.folder / MANIFEST)

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
        manifest = self.manifest()
        arrays = {name: _open(self.folder / f"{name}.npy", manifest.arrays[name], verify) for name in ARRAYS}
        return Images(**arrays, classes=manifest.classes)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._writing():
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            file = open(_beside(self.folder, ".lock"), "a")  # noqa: SIM115 -- closed below, outside of _writing
            fcntl.flock(file, fcntl.LOCK_EX)  # the system lets go of it when the process ends, however it ends
        with file:
            yield

    def _make(self) -> None:
        partial = _beside(self.folder, ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            with self._writing():
                partial.mkdir()
                writer = ArrayWriter(partial)
                classes = self._build(writer)
                Manifest(classes, writer.arrays).write(partial / MANIFEST)
                self._publish(partial)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _publish(self, partial: Path) -> None:
        damaged = _beside(self.folder, ".damaged")
        shutil.rmtree(damaged, ignore_errors=True)
        if self.folder.exists():
            os.replace(self.folder, damaged)
        os.replace(partial, self.folder)
        shutil.rmtree(damaged, ignore_errors=True)

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
    if list(array.shape) != entry["shape"] or str(array.dtype) != entry["dtype"]:
        raise Damaged(f"{path}: {array.dtype} {array.shape} is not what the manifest says")
    if verify and hashlib.sha256(array).hexdigest() != entry["sha256"]:
        raise Damaged(f"{path}: does not match its sha256")
    return array


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(folder.name + suffix)
