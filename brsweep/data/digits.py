"""The handwritten digits embedded in scikit-learn: 1,797 grey images of 8x8 pixels, no download.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, 1998; scikit-learn ships
its test part. There is no official split of it, so this one is fixed here: 1,437 to train, 360 to test, stratified.
"""

from __future__ import annotations

import numpy as np

from brsweep.data.images import Images, Source
from brsweep.data.split import split_indices

TOTAL, TEST = 1797, 360
SPLIT_SEED = 0
WHITE = 16
"""The file counts the inked pixels of each 4x4 block, so its values run from 0 to 16."""


class Digits(Source):
    """`load` gives uint8 [N, 8, 8, 1], value v of 0..16 as round(v * 255 / 16)."""

    def prepare(self) -> None:
        """Nothing to do."""

    def identity(self) -> str:
        return "digits-1"

    def load(self) -> Images:
        from sklearn.datasets import load_digits

        raw = load_digits()
        images = np.rint(raw.images * (255 / WHITE)).astype(np.uint8)[..., np.newaxis]
        labels = raw.target.astype(np.int64)
        train, test = split_indices(labels, TEST / TOTAL, SPLIT_SEED)
        classes = tuple(str(digit) for digit in range(10))
        return Images(images[train], labels[train], images[test], labels[test], classes)
