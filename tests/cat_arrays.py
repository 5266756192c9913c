"""Arrays of cats and dogs as a source builds them into the cache: eight images of nine pixels."""

from __future__ import annotations

import numpy as np

from brsweep.data.array_cache import ArrayWriter

SOURCE = "cats-1"
CONTENT = {
    "train_images": np.arange(54, dtype=np.uint8).reshape(6, 3, 3, 1),
    "train_labels": np.array([0, 0, 0, 1, 1, 1]),
    "test_images": np.arange(18, dtype=np.uint8).reshape(2, 3, 3, 1),
    "test_labels": np.array([0, 1]),
}


def build(writer: ArrayWriter) -> tuple[str, ...]:
    for name, array in CONTENT.items():
        writer.write(name, array.shape, [array[:1], array[1:]])
    return ("cat", "dog")
