"""What every data source delivers, and what a source is.

To add one: one subclass of `Source`, one YAML file in conf/data that names it. Numpy alone: planning a sweep asks for
identities and imports no torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from brsweep.errors import BrsweepError


class Source(ABC):
    """Where images come from, named by `_target_` in conf/data.

    The constructor takes the source's own options and is cheap: a plan makes one per run, opens no file and imports
    nothing heavy. It raises `BrsweepError`, one line, for an option out of range. The launching process calls
    `prepare` before it asks for the identity, and each run calls `load` in a process of its own; several processes
    may call either at once, on several machines that share a disk. All three raise `BrsweepError`, one line that
    names the file or option and says what to do.
    """

    @abstractmethod
    def prepare(self) -> None:
        """Do what is done once on this machine (download, decode); a second call finds it done and is cheap. What it
        makes is whole or absent, also where the process is killed."""

    @abstractmethod
    def identity(self) -> str:
        """Name and version of the content, such as "digits-1". Equal identities promise equal images, labels, order
        and classes: results are shared by them. Reads no image; raises where only `prepare` can tell."""

    @abstractmethod
    def load(self) -> Images:
        """The images, prepared first where that was left out. The same ones at every call."""


@dataclass(frozen=True, eq=False)
class Images:
    """A data set with its official split.

    train_images, test_images: uint8 [N, H, W, C], 0 is black; in memory or memory-mapped, not to be written to.
    train_labels, test_labels: int64 [N], each an index into `classes`.

    Raises `BrsweepError` for fewer than two classes, a label without a class, an empty part, or shapes that disagree.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.classes)) < max(2, len(self.classes)):
            raise BrsweepError(f"data: classes {list(self.classes)}: there have to be two or more, all different")
        _check_part("train", self.train_images, self.train_labels, len(self.classes))
        _check_part("test", self.test_images, self.test_labels, len(self.classes))
        train, test = self.train_images.shape[1:], self.test_images.shape[1:]
        if train != test:
            raise BrsweepError(f"data: train images are {train} and test images {test} (height, width, channels)")


def _check_part(part: str, images: np.ndarray, labels: np.ndarray, classes: int) -> None:
    for name, array in (("images", images), ("labels", labels)):
        if not isinstance(array, np.ndarray):
            raise BrsweepError(f"data: {part} {name} are a {type(array).__name__}; a numpy array is wanted")
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise BrsweepError(f"data: {part} images are {images.dtype} {images.shape}; uint8 [N, H, W, C] is wanted")
    if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
        raise BrsweepError(f"data: {part} labels are {labels.dtype} {labels.shape}; int64 [{len(images)}] is wanted")
    if labels.min() < 0 or labels.max() >= classes:
        raise BrsweepError(
            f"data: {part} labels run from {labels.min()} to {labels.max()}; there are {classes} classes"
        )
