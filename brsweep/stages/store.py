"""Finished stages on disk, by signature, and by the type of device that trained them.

    <root>/.brsweep-store            the marker: this folder is a store, made here
    <root>/<signature>/state.pt      the stage's end: network, optimizer, records
    <root>/<signature>/entry.json    what it is, its signature, its device, and the SHA-256 of state.pt
    <root>/<signature>.partial/      the checkpoint of a stage in training
    <root>/<signature>.damaged/      set aside
    <root>/locks/<signature>         held, by an OS lock, by the process that trains it

Names on CUDA are <signature>-cuda. A signature does not hold the device, which a plan can't know (`device=auto` on a
cluster's login node): the process that trains does, and takes no stage that another type of device has computed.

An entry appears whole, in one rename, or not at all. One that is damaged, or that lies under another stage's signature,
is set aside and trained again, with a warning: never a wrong result. Nothing else in the folder is ever touched, and no
link is followed.

Locks are the system's own (flock), gone with their process however it ends. The package filelock has them too, but a
look at a lock is not to be seen by another look, which takes a shared one, and a wait is not to poll.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from brsweep.errors import BrsweepError

MARKER, LOCKS = ".brsweep-store", "locks"
STATE, ENTRY = "state.pt", "entry.json"
CPU, CUDA = "cpu", "cuda"
NAME = re.compile(r"[0-9a-f]{16}(?:-cuda)?(\.partial|\.damaged)?")
HELD_BY = {"": {STATE, ENTRY}, ".partial": {STATE, ENTRY, "checkpoint.pt"}, ".damaged": {STATE, ENTRY, "checkpoint.pt"}}
"""What each kind of folder may hold, beside hidden files of a write that was broken off."""


class Store:
    """The stages under `root` that one type of device has trained. The folder is made when the first one is locked."""

    def __init__(self, root: Path, device: str = CPU) -> None:
        self.root, self.device = root, device

    @property
    def is_marked(self) -> bool:
        """Whether the folder is a store that was made here."""
        return (self.root / MARKER).is_file() and not self.root.is_symlink()

    def find(self, signature: str) -> Path | None:
        """The state of a finished stage, checked against its signature and its hash; None where there is none.

        A damaged one counts as none, with a warning, and is set aside unless a process is at this stage.
        """
        folder = self.root / self._key(signature)
        damage = self._damage(folder, signature)
        if damage is None:
            return folder / STATE if folder.is_dir() else None
        warnings.warn(f"{folder}: damaged ({damage}); this stage is trained again", stacklevel=2)
        with suppress(BlockingIOError, BrsweepError), self._lock(signature):
            if self._damage(folder, signature) is not None:  # looked at again: another process may have replaced it
                self._set_aside(folder)
        return None

    def entry(self, signature: str) -> dict[str, Any]:
        """What `publish` was told of the stage."""
        return json.loads((self.root / self._key(signature) / ENTRY).read_text(encoding="utf-8"))

    def elsewhere(self, signature: str) -> bool:
        """Whether another type of device has trained the stage, as far as the names of folders tell."""
        others = (Store(self.root, device) for device in (CPU, CUDA) if device != self.device)
        return any((self.root / other._key(signature)).is_dir() for other in others)

    def partial(self, signature: str) -> Path:
        """The folder for the checkpoint of a stage in training; whoever holds the lock may write to it."""
        return self.root / f"{self._key(signature)}.partial"

    def publish(self, signature: str, about: Mapping[str, Any]) -> Path:
        """Turn the partial folder, which holds the finished STATE, into the entry. Call it with the lock held.

        Raises `BrsweepError` where it can't be written, as on a full disk.
        """
        partial, folder = self.partial(signature), self.root / self._key(signature)
        state = partial / STATE
        with _writing(folder):
            entry = dict(about) | {"signature": signature, "device": self.device}
            entry |= {"sha256": _sha256(state), "bytes": state.stat().st_size}
            with open(partial / ENTRY, "w", encoding="utf-8") as file:
                json.dump(entry, file, indent=2, sort_keys=True)
                file.flush()
                os.fsync(file.fileno())
            if folder.exists():
                self._set_aside(folder)
            os.rename(partial, folder)
        return folder / STATE

    @contextmanager
    def lock(self, signature: str, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the stage: one process trains it, the others wait here, after a call of `waiting`."""
        with self._lock(signature, waiting):
            self._mark()
            yield

    def in_training(self, signature: str) -> bool:
        """Whether a process holds the stage."""
        return lock_is_held(self.root / LOCKS / self._key(signature))

    def folders(self) -> list[Path]:
        """The folders that are entries, partial or damaged ones, by name and by content; nothing else in the root."""
        return [path for path in sorted(self.root.iterdir()) if _is_ours(path)] if self.is_marked else []

    def remove(self, folder: Path) -> bool:
        """Remove one of `folders()`, unless a process is at its stage."""
        try:
            with os_lock(self.root / LOCKS / folder.name.partition(".")[0]):
                if _is_ours(folder):
                    shutil.rmtree(folder)
                return True
        except BlockingIOError:
            return False

    def _key(self, signature: str) -> str:
        return signature if self.device == CPU else f"{signature}-{self.device}"

    def _lock(self, signature: str, waiting: Callable[[], None] | None = None) -> AbstractContextManager[None]:
        return os_lock(self.root / LOCKS / self._key(signature), waiting)

    def _mark(self) -> None:
        if not (self.root / MARKER).exists():
            with _writing(self.root):
                (self.root / MARKER).write_text("Finished stages of brsweep, by signature.\n", encoding="utf-8")

    def _damage(self, folder: Path, signature: str) -> str | None:
        """Why the entry can't be used; None where it can, or where there is none."""
        if not folder.is_dir():
            return None
        try:
            entry = json.loads((folder / ENTRY).read_text(encoding="utf-8"))
            if entry["signature"] != signature or entry["device"] != self.device:
                return f"it is the stage {entry['signature']} of {entry['device']}"
            if entry["sha256"] != _sha256(folder / STATE):
                return "its content does not match its hash"
            if not isinstance(entry["trained_by"], str) or not isinstance(entry["stage"], str):
                return "its entry.json lacks who trained it"
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            return " ".join(f"{type(error).__name__} {error}".split())[:120]
        return None

    def _set_aside(self, folder: Path) -> None:
        aside = folder.with_name(f"{folder.name}.damaged")
        shutil.rmtree(aside, ignore_errors=True)
        with suppress(FileNotFoundError):
            os.rename(folder, aside)


def stores(config: Mapping[str, Any]) -> list[Store]:
    """Where the stages of a run may lie: `device=auto` is known to the process that trains alone."""
    name = config["device"].partition(":")[0]
    return [Store(Path(config["store_dir"]), device) for device in (CPU, CUDA) if name in ("auto", device)]


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        line = f"{folder}: can't be written ({error.strerror}); make room, then run the same command again"
        raise BrsweepError(line) from None


@contextmanager
def os_lock(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """An exclusive OS lock on the file `path`, gone when the process is, however it ends.

    waiting: called once before waiting for another holder; None raises `BlockingIOError` instead of waiting.
    """
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "a")  # noqa: SIM115  closed below, with the lock
        except OSError as error:
            raise BrsweepError(f"{path.parent}: can't be written ({error.strerror}); choose another folder") from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting is None:
                    raise
                waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(file, path):  # else the holder before has removed it, and the next one takes another file
                yield
                return


def _is_at(file: IO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def lock_is_held(path: Path) -> bool:
    """Whether some process holds the OS lock on `path`. Takes it for an instant where none does."""
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such file, or not to be read: nobody holds it
        return False
    return False


def _is_ours(folder: Path) -> bool:
    named = NAME.fullmatch(folder.name)
    if not named or folder.is_symlink() or not folder.is_dir():
        return False
    held = [path for path in folder.iterdir() if not path.name.startswith(".")]
    known = HELD_BY[named.group(1) or ""]
    return all(path.name in known and not path.is_symlink() and path.is_file() for path in held)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
