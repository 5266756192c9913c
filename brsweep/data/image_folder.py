"""Your own images: a folder per class under train/ and under test/, as `torchvision.datasets.ImageFolder` reads them.

The files are decoded once, into a cache of memory-mapped arrays (`array_cache.py`) whose name is a hash of the root, of
every file's name, size and time of change, and of the image size: a changed file means a new cache. The old one stays
until somebody deletes it. The identity is the decoded content's own, so the same images elsewhere have the same one.
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import numpy as np

from brsweep.data.array_cache import ArrayCache, ArrayWriter, Damaged
from brsweep.data.decode import decode, decode_all
from brsweep.data.images import Images
from brsweep.data.listing import PARTS, Listing, list_images
from brsweep.errors import BrsweepError

DECODING = 1
"""Raised when decoding changes, so that no cache of another way is taken."""


class ImageFolder:
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
            manifest = self._arrays().manifest()
        except Damaged:
            raise BrsweepError(f"data.root={self.root}: not decoded yet; call prepare first") from None
        height, width = manifest.image_size
        return f"image_folder-{manifest.sha256[:16]} {width}x{height}"

    def load(self) -> Images:
        """The images, memory-mapped; in each part by class, then by file name."""
        return self._arrays().load()

    def _arrays(self) -> ArrayCache:
        if self._cache is None:
            listing = list_images(self.root)
            key = hashlib.sha256(f"{DECODING} {self.image_size} {listing.key}".encode()).hexdigest()[:32]
            self._cache = ArrayCache(self.cache_dir / key, partial(self._decode, listing), "data.cache_dir")
        return self._cache

    def _decode(self, listing: Listing, writer: ArrayWriter) -> tuple[str, ...]:
        like, _ = listing.files["train"][0]
        shape = decode(like, self.image_size).shape
        for part in PARTS:
            paths, labels = zip(*listing.files[part], strict=True)
            writer.write(f"{part}_images", (len(paths), *shape), decode_all(paths, self.image_size, shape, like))
            writer.write(f"{part}_labels", (len(paths),), [np.array(labels, np.int64)])
        return listing.classes
