"""Your own images: a folder per class under train/ and under test/, as `torchvision.datasets.ImageFolder` reads them.

    <root>/train/<class>/<image>
    <root>/test/<class>/<image>          the same classes

Names that start with a dot are passed over. Anything else that is in the way is an error: an image that lies in the
wrong place would otherwise be missing without a word.

The files are decoded once, into a cache of memory-mapped arrays (`array_cache.py`) whose name is a hash of the root, of
every file's name, size and time of change, and of the image size: a changed file means a new cache. The old one stays
until somebody deletes it. The identity is the decoded content's own, so the same images elsewhere have the same one.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from brsweep.data.array_cache import ArrayCache, ArrayWriter, Damaged
from brsweep.data.decode import decode, decode_all
from brsweep.data.images import Images, Source
from brsweep.errors import BrsweepError

PARTS = ("train", "test")
DECODING = 2
"""Raised when decoding changes, so that no cache of another way is taken."""


class ImageFolder(Source):
    """root: holds train/ and test/. image_size: pixels along each side, after resizing the shorter side and cutting out
    the middle; None where all images have one size already. cache_dir: where the decoded arrays go."""

    def __init__(self, root: str, image_size: int | None, cache_dir: str) -> None:
        whole = isinstance(image_size, int) and not isinstance(image_size, bool) and image_size > 0
        if image_size is not None and not whole:
            raise BrsweepError(
                f"data.image_size={image_size}: a whole number of pixels above 0, or null to keep the size"
            )
        self.root, self.image_size = Path(root).expanduser(), image_size
        self.cache_dir = Path(cache_dir).expanduser()
        self._cache: ArrayCache | None = None

    def prepare(self) -> None:
        """Look at the files again, and decode them unless that was done. Raises `BrsweepError` naming the bad place."""
        self._cache = None
        self._arrays().prepare()

    def identity(self) -> str:
        """ "image_folder-", 16 digits of the content's SHA-256, and width x height."""
        try:
            contents = self._arrays().contents()
        except Damaged:
            raise BrsweepError(f"data.root={self.root}: not decoded yet; call prepare first") from None
        height, width = contents.image_size
        return f"image_folder-{contents.sha256[:16]} {width}x{height}"

    def load(self) -> Images:
        """The images, memory-mapped; in each part by class, then by file name."""
        return self._arrays().load()

    def _arrays(self) -> ArrayCache:
        if self._cache is None:
            listing = list_images(self.root)
            key = hashlib.sha256(f"{DECODING} {self.image_size} {listing.key}".encode()).hexdigest()
            source = f"image_folder {key}"
            self._cache = ArrayCache(
                self.cache_dir / key[:32], source, partial(self._decode, listing), "data.cache_dir"
            )
        return self._cache

    def _decode(self, listing: Listing, writer: ArrayWriter) -> tuple[str, ...]:
        like, _ = listing.files["train"][0]
        shape = decode(like, self.image_size).shape
        for part in PARTS:
            paths, labels = zip(*listing.files[part], strict=True)
            writer.write(f"{part}_images", (len(paths), *shape), decode_all(paths, self.image_size, shape, like))
            writer.write(f"{part}_labels", (len(paths),), [np.array(labels, np.int64)])
        return listing.classes


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
