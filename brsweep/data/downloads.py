"""CIFAR-10, CIFAR-100 and MNIST: downloaded and checked by torchvision, decoded once.

The files lie in `root`, as torchvision lays them out; the decoded arrays in `root/decoded-<name>` (`array_cache.py`),
so that several sets may share a root. torchvision compares the files with known MD5 sums, so the identity is a constant
and asks for no file.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

import numpy as np

from brsweep.data.array_cache import ArrayCache, ArrayWriter
from brsweep.data.images import Images, Source
from brsweep.errors import BrsweepError


class Download(Source):
    """One of torchvision's data sets. root: the folder for its files; made, and filled, where they are missing."""

    name: ClassVar[str]
    torchvision_name: ClassVar[str]

    def __init__(self, root: str) -> None:
        self.root = Path(root).expanduser()
        self._cache = ArrayCache(self.root / f"decoded-{self.name}", self.identity(), self._decode, "data.root")

    def prepare(self) -> None:
        """Download and decode unless that was done. Raises `BrsweepError` with the file to fetch by hand."""
        self._cache.prepare()

    def identity(self) -> str:
        return f"{self.name}-1"

    def load(self) -> Images:
        """The images, memory-mapped, in torchvision's order."""
        return self._cache.load()

    def _decode(self, writer: ArrayWriter) -> tuple[str, ...]:
        from brsweep.torchvision_import import import_torchvision

        kind = getattr(import_torchvision().datasets, self.torchvision_name)
        classes: tuple[str, ...] = ()
        for part in ("train", "test"):
            dataset = self._open(kind, part == "train")
            images, labels = self._pixels(dataset), np.fromiter(map(int, dataset.targets), np.int64)
            writer.write(f"{part}_images", images.shape, [images])
            writer.write(f"{part}_labels", labels.shape, [labels])
            classes = tuple(dataset.classes)
        return classes

    def _open(self, kind: type, train: bool):
        try:
            return kind(self.root, train=train, download=True)
        except Exception as error:  # no network, a wrong checksum, a damaged archive: all mended in the same way
            reason = " ".join(str(error).split()) or type(error).__name__
            raise BrsweepError(
                f"{self.name}: download failed ({reason}); {self._by_hand(kind)}, then run again"
            ) from error

    @abstractmethod
    def _pixels(self, dataset) -> np.ndarray:
        """uint8 [N, H, W, C], C-contiguous."""

    @abstractmethod
    def _by_hand(self, kind: type) -> str:
        """Which file to put where."""


class _Cifar(Download):
    def _pixels(self, dataset) -> np.ndarray:
        return np.ascontiguousarray(dataset.data)

    def _by_hand(self, kind: type) -> str:
        return f"fetch {kind.url} and put {kind.filename} into {self.root}"


class Cifar10(_Cifar):
    """60,000 colour images of 32x32 pixels, 10 classes, 50,000 to train (Krizhevsky, 2009). 170 MB to download."""

    name, torchvision_name = "cifar10", "CIFAR10"


class Cifar100(_Cifar):
    """The same sizes with 100 classes (Krizhevsky, 2009). 169 MB to download."""

    name, torchvision_name = "cifar100", "CIFAR100"


class Mnist(Download):
    """70,000 grey images of 28x28 pixels, 10 digits, 60,000 to train (LeCun et al., 1998). 12 MB to download."""

    name, torchvision_name = "mnist", "MNIST"

    def _pixels(self, dataset) -> np.ndarray:
        return dataset.data.numpy()[..., np.newaxis]

    def _by_hand(self, kind: type) -> str:
        files = ", ".join(file for file, _ in kind.resources)
        return f"fetch {files} from {kind.mirrors[0]} and put them into {self.root / 'MNIST' / 'raw'}"
