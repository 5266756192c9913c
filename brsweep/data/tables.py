"""From a source to the three tables that training reads: train, validation, test.

Mean and standard deviation come from the training part alone. They are exact: integer sums of pixels and of their
squares, divided once in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from brsweep.data.images import Source
from brsweep.data.split import split_indices
from brsweep.data.table import MEMORY_LIMIT, ImageTable

ROWS_PER_SUM = 1024
"""At most 2^32 / 255^2 = 66,051, so that uint32 sums of squares cannot overflow."""


@dataclass(frozen=True, eq=False)
class Tables:
    """val: None where nothing was kept for it. image_size: (height, width) in pixels. mean, std: per channel, for
    pixels in [0, 1]."""

    train: ImageTable
    val: ImageTable | None
    test: ImageTable
    classes: tuple[str, ...]
    channels: int
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def build_tables(
    source: Source,
    *,
    val_fraction: float,
    split_seed: int,
    crop_padding: int,
    flip: bool,
    device: torch.device | str,
    channels_last: bool,
    memory_limit: int = MEMORY_LIMIT,
) -> Tables:
    """val_fraction, split_seed: see `split_indices`. crop_padding, flip: of the training table; see `ImageTable`.
    memory_limit: bytes that each table may take."""
    images = source.load()
    kept, held_out = split_indices(images.train_labels, val_fraction, split_seed)
    mean, std = channel_statistics(images.train_images, kept)

    def table(pixels: np.ndarray, labels: np.ndarray, rows: np.ndarray, padding: int, mirror: bool) -> ImageTable:
        return ImageTable(
            pixels,
            labels,
            mean,
            std,
            crop_padding=padding,
            flip=mirror,
            device=device,
            channels_last=channels_last,
            rows=rows,
            memory_limit=memory_limit,
        )

    height, width, channels = images.train_images.shape[1:]
    return Tables(
        train=table(images.train_images, images.train_labels, kept, crop_padding, flip),
        val=table(images.train_images, images.train_labels, held_out, 0, False) if len(held_out) else None,
        test=table(images.test_images, images.test_labels, np.arange(len(images.test_labels)), 0, False),
        classes=images.classes,
        channels=channels,
        image_size=(height, width),
        mean=mean,
        std=std,
    )


def channel_statistics(images: np.ndarray, rows: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation (1/n) of each channel over `images[rows]`, uint8 [N, H, W, C], for pixels in [0, 1].

    A channel without any variation gets the standard deviation 1, so that it is 0 after normalisation.
    """
    channels = images.shape[-1]
    total, squares = np.zeros(channels, np.int64), np.zeros(channels, np.int64)
    for first in range(0, len(rows), ROWS_PER_SUM):
        some = images[rows[first : first + ROWS_PER_SUM]]
        flat = some.reshape(len(some), -1)  # sums down the rows run over neighbouring values
        wide = flat.astype(np.uint16)
        total += flat.sum(0, dtype=np.uint32).reshape(-1, channels).sum(0, dtype=np.int64)
        squares += (wide * wide).sum(0, dtype=np.uint32).reshape(-1, channels).sum(0, dtype=np.int64)
    count = len(rows) * images.shape[1] * images.shape[2]
    # count * squares - total^2 is an integer: Python's own, which neither overflow nor cancel
    spread = [count * int(s) - int(t) ** 2 for s, t in zip(squares, total, strict=True)]
    std = tuple((value**0.5 / count / 255) if value else 1.0 for value in spread)
    return tuple(float(t) / count / 255 for t in total), std
