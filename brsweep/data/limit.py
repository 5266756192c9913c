"""A part of a data set: so many images of each class, for a budget, and a handful of both parts, for a first try.

Which ones is a function of the labels and of nothing else: a fixed order by chance (the raw output of PCG64, as in
`split.py`), of which each class gives its first. So a larger limit holds the images of a smaller one. What is taken is
copied into memory; what a smaller data set leaves out, a larger one's arrays keep on disk.
"""

from __future__ import annotations

import numpy as np

from brsweep.data.images import Images, Source

ORDER_SEED = 0


class Limited(Source):
    """At most `per_class` training images of each class of `source`; its test images all."""

    def __init__(self, source: Source, per_class: int) -> None:
        self.source, self.per_class = source, per_class

    def prepare(self) -> None:
        self.source.prepare()

    def identity(self) -> str:
        return f"{self.source.identity()} limit={self.per_class}"

    def load(self) -> Images:
        images = self.source.load()
        rows = first_of_each_class(images.train_labels, self.per_class)
        test = images.test_images, images.test_labels
        return Images(images.train_images[rows], images.train_labels[rows], *test, images.classes)


class Handful(Source):
    """About `count` training and as many test images of `source`, equally of each class and two of each at least."""

    def __init__(self, source: Source, count: int) -> None:
        self.source, self.count = source, count

    def prepare(self) -> None:
        self.source.prepare()

    def identity(self) -> str:
        return f"{self.source.identity()} quick={self.count}"

    def load(self) -> Images:
        images = self.source.load()
        each = max(2, -(-self.count // len(images.classes)))
        train, test = (first_of_each_class(labels, each) for labels in (images.train_labels, images.test_labels))
        parts = images.train_images[train], images.train_labels[train], images.test_images[test]
        return Images(*parts, images.test_labels[test], images.classes)


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """Indices of `count` images of each class, or of all where it has fewer, int64, sorted. labels: int64 [N]."""
    by_chance = np.argsort(np.random.PCG64(ORDER_SEED).random_raw(len(labels)), kind="stable")
    by_class = by_chance[np.argsort(labels[by_chance], kind="stable")]
    counts = np.bincount(labels)
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(by_class[place < count])
