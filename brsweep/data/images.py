"""What every data source delivers, and what a source is.

A source is a plain class, named by `_target_` in conf/data: its constructor takes its own arguments and is cheap,
`prepare` does whatever is done once (download, decode), `identity` names the content without reading it, and `load`
returns the images. To add one: one such class, one YAML file. Numpy alone: planning a sweep asks for identities and
imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from brsweep.errors import BrsweepError


class Source(Protocol):
    def prepare(self) -> None:
        """Make the content ready on this machine; a second call finds it ready. Processes may call it at once."""

    def identity(self) -> str:
        """Name and version of the content, such as "digits-1". `BrsweepError` where only `prepare` can tell."""

    def load(self) -> Images:
        """The images, prepared first where that was left out."""


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
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise BrsweepError(f"data: {part} images are {images.dtype} {images.shape}; uint8 [N, H, W, C] is wanted")
    if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
        raise BrsweepError(f"data: {part} labels are {labels.dtype} {labels.shape}; int64 [{len(images)}] is wanted")
    if labels.min() < 0 or labels.max() >= classes:
        raise BrsweepError(
            f"data: {part} labels run from {labels.min()} to {labels.max()}; there are {classes} classes"
        )
