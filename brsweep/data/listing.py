"""The files of an image folder, without opening one: which, how large, last changed when.

    <root>/train/<class>/<image>
    <root>/test/<class>/<image>          the same classes

Names that start with a dot are passed over. Anything else that is in the way is an error: an image that lies in the
wrong place would otherwise be missing without a word.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from brsweep.errors import BrsweepError

PARTS = ("train", "test")


@dataclass(frozen=True)
class Listing:
    """classes: sorted. files: by part, (path, class index), by class and then by name. key: changes with any file's
    name, size or time of change, and with the root."""

    classes: tuple[str, ...]
    files: dict[str, list[tuple[str, int]]]
    key: str


def list_images(root: Path) -> Listing:
    """Raises `BrsweepError` naming what is missing, empty, of one class only, or where it does not belong."""
    try:
        return _list(root)
    except OSError as error:
        raise BrsweepError(f"{error.filename}: cannot be read ({error.strerror}); data.root={root}") from error


def _list(root: Path) -> Listing:
    classes: dict[str, tuple[str, ...]] = {}
    for part in PARTS:
        if not (root / part).is_dir():
            raise BrsweepError(f"data.root={root}: there is no folder {part}/ in it; wanted: {part}/<class>/<image>")
        classes[part] = tuple(entry.name for entry in _entries(root / part, folders=True))
    _check_classes(root, classes["train"], classes["test"])
    digest = hashlib.sha256(os.fsencode(root.resolve()))
    files: dict[str, list[tuple[str, int]]] = {part: [] for part in PARTS}
    for part in PARTS:
        for label, name in enumerate(classes["train"]):
            folder = root / part / name
            entries = _entries(folder, folders=False)
            if not entries:
                raise BrsweepError(f"{folder}: no images in it; add some, or remove the class from train/ and test/")
            for entry in entries:
                status = entry.stat()
                line = f"\0{part}/{name}/{entry.name}\0{status.st_size}\0{status.st_mtime_ns}"
                digest.update(os.fsencode(line))
                files[part].append((entry.path, label))
    return Listing(classes["train"], files, digest.hexdigest())


def _entries(folder: Path, folders: bool) -> list[os.DirEntry]:
    with os.scandir(folder) as found:
        entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in entries:
        if not (entry.is_dir() if folders else entry.is_file()):
            wanted = "class folders alone" if folders else "image files alone"
            raise BrsweepError(f"{folder / entry.name}: does not belong here; {folder} holds {wanted}, so move it out")
    return entries


def _check_classes(root: Path, train: tuple[str, ...], test: tuple[str, ...]) -> None:
    for part, names, others in (("train", train, test), ("test", test, train)):
        missing = sorted(set(others) - set(names))
        if missing:
            other = "test" if part == "train" else "train"
            raise BrsweepError(
                f"{root / part}: no folder for {', '.join(missing)}, which {other}/ has; both need the same classes"
            )
    if len(train) < 2:
        raise BrsweepError(f"{root / 'train'}: {len(train)} class folder(s); a classifier needs two or more")
