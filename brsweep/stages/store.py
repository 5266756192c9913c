"""Finished stages on disk, by signature.

    <root>/<signature>/state.pt      the stage's end: network, optimizer, records
    <root>/<signature>/entry.json    what it is, for people, and the SHA-256 of state.pt
    <root>/<signature>.partial/      the checkpoint of a stage in training
    <root>/locks/<signature>         held, by an OS lock, by the process that trains it

An entry appears whole, in one rename, or not at all. A damaged one is set aside and trained again, with a warning:
never a wrong result.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from brsweep.errors import BrsweepError

STATE, ENTRY = "state.pt", "entry.json"


class Store:
    """The stages under `root`, a folder that is made when the first one is locked."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, signature: str) -> Path | None:
        """The state of a finished stage, checked against its hash; None where there is none or it was damaged."""
        folder = self.root / signature
        if not folder.is_dir():
            return None
        try:
            entry = json.loads((folder / ENTRY).read_text())
            if entry["sha256"] == _sha256(folder / STATE):
                return folder / STATE
            damage = "its content does not match its hash"
        except (OSError, ValueError, KeyError, TypeError) as error:
            damage = str(error)
        warnings.warn(f"{folder}: damaged ({damage}); this stage is trained again", stacklevel=2)
        self._set_aside(folder)
        return None

    def entry(self, signature: str) -> dict[str, Any]:
        """What `publish` was told of the stage."""
        return json.loads((self.root / signature / ENTRY).read_text())

    def partial(self, signature: str) -> Path:
        """The folder for the checkpoint of a stage in training; whoever holds the lock may write to it."""
        return self.root / f"{signature}.partial"

    def publish(self, signature: str, about: Mapping[str, Any]) -> Path:
        """Turn the partial folder, which holds the finished STATE, into the entry. Call it with the lock held."""
        partial, folder = self.partial(signature), self.root / signature
        entry = dict(about) | {"sha256": _sha256(partial / STATE), "bytes": (partial / STATE).stat().st_size}
        with open(partial / ENTRY, "w") as file:
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
        with os_lock(self.root / "locks" / signature, waiting):
            yield

    def in_training(self, signature: str) -> bool:
        """Whether a process holds the stage."""
        return lock_is_held(self.root / "locks" / signature)

    def _set_aside(self, folder: Path) -> None:
        aside = folder.with_name(f"{folder.name}.damaged")
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(folder, aside)


@contextmanager
def os_lock(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """An exclusive OS lock on the file `path`, gone when the process is, however it ends.

    waiting: called once before waiting for another holder; None raises `BlockingIOError` instead of waiting.
    """
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
        yield


def lock_is_held(path: Path) -> bool:
    """Whether some process holds the OS lock on `path`. Takes it for an instant where none does."""
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
