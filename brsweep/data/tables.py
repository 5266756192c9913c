"""What training reads: each split of a data set as one uint8 tensor, augmented a batch at a time; three to a source.

A loader that decodes and augments image by image needs workers and still costs more than a small network's step. Here
the images lie in one tensor, NHWC, each with a border of zeros around it, on the device that trains:

    crop        every row of a crop is W*C neighbouring bytes, so one advanced index over all windows of that length
                (a strided view, no copy) gathers the rows of a whole batch
    flip        the gathered bytes mirrored, chosen per image
    normalise   (pixel - 255 mean) / (255 std), in place, with mean and std repeated for every value of an image: a
                broadcast over three channels would run its inner loop over three values

The border is black before normalisation, as in torchvision's RandomCrop(padding) on the raw image: it is -mean/std
afterwards, not 0.

Order, crops and flips of an epoch are functions of its seed alone. They are drawn on the CPU, all at once, and moved to
the device once, so no batch waits for the host.

A table beyond `memory_limit` bytes keeps its images where they are (memory-mapped) and gathers, moves and pads each
batch; the numbers are the same to the bit.

Mean and standard deviation come from the training part alone. They are exact: integer sums of pixels and of their
squares, divided once in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from brsweep.data.images import Images, Source
from brsweep.data.split import split_indices
from brsweep.errors import BrsweepError

MEMORY_LIMIT = 4 * 2**30
ROWS_PER_COPY = 4096
ROWS_PER_SUM = 1024
"""At most 2^32 / 255^2 = 66,051, so that uint32 sums of squares cannot overflow."""


class Normalization:
    """uint8 [N, H, W, C] -> float32 [N, C, H, W], (pixel - 255 mean) / (255 std); channels_last: its memory layout.

    mean, std: one number per channel, for pixels in [0, 1]. image_size: (height, width).
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        image_size: tuple[int, int],
        device: torch.device,
        channels_last: bool,
    ) -> None:
        pixels = image_size[0] * image_size[1]
        pixel_mean, pixel_scale = (torch.tensor(values, dtype=torch.float64) for values in (mean, std))
        self.mean, self.scale = (pixel_mean * 255).float(), (1 / (pixel_scale * 255)).float()
        self._means, self._scales = (part.repeat(pixels).to(device) for part in (self.mean, self.scale))
        self._channels_last = channels_last

    def __call__(self, images: Tensor) -> Tensor:
        values = images.reshape(len(images), -1).float().sub_(self._means).mul_(self._scales)
        values = values.view(images.shape).permute(0, 3, 1, 2)
        return values if self._channels_last else values.contiguous()


class ImageTable:
    """images: uint8 [N, H, W, C]; labels: int64 [N]; mean, std: one number per channel, for pixels in [0, 1].

    crop_padding: width of the border that crops reach into, in pixels; 0 for no cropping. flip: mirror every image left
    to right with probability 1/2. channels_last: memory layout of the batches. rows: which images belong to the table,
    in its order; None for all. memory_limit: bytes; 4 GiB holds 900,000 padded CIFAR images.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        crop_padding: int = 0,
        flip: bool = False,
        device: torch.device | str = "cpu",
        channels_last: bool = True,
        rows: np.ndarray | None = None,
        memory_limit: int = MEMORY_LIMIT,
    ) -> None:
        if not 0 <= crop_padding <= min(images.shape[1:3]):
            raise BrsweepError(
                f"data.crop_padding={crop_padding}: a number of pixels from 0 to the image's {min(images.shape[1:3])}"
            )
        rows = np.arange(len(images)) if rows is None else rows
        self._shape = height, width, channels = images.shape[1:]
        self._padding, self._flip = crop_padding, flip
        self._device = torch.device(device)
        padded = len(rows) * (height + 2 * crop_padding) * (width + 2 * crop_padding) * channels
        store = _InMemory if padded <= memory_limit else _Streamed
        self._store = store(images, rows, crop_padding, self._device)
        self._labels = torch.from_numpy(np.array(labels[rows])).to(self._device)
        self._row_steps = torch.arange(height, device=self._device) * (width + 2 * crop_padding)
        self._normalise = Normalization(mean, std, (height, width), self._device, channels_last)

    def __len__(self) -> int:
        return len(self._labels)

    def steps(self, batch_size: int) -> int:
        """How many batches `augmented` gives: whole ones, or the one that there is."""
        return max(1, len(self) // _checked(batch_size))

    def augmented(self, batch_size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch, shuffled: float32 [batch, C, H, W] and int64 [batch]. What is left over of a batch is dropped,
        unless the table is smaller than one. The same seed gives the same epoch, on every device;
        torch's CPU generator takes its low 32 bits."""
        generator = torch.Generator().manual_seed(seed)
        count, reach = len(self), 2 * self._padding + 1
        order = torch.randperm(count, generator=generator)
        offsets = torch.randint(reach, (2, count), generator=generator)
        mirrored = torch.randint(2, (count,), generator=generator, dtype=torch.uint8).bool()
        size = min(batch_size, count)
        yield from self._batches(order, offsets, mirrored if self._flip else None, size, self.steps(batch_size))

    def plain(
        self, batch_size: int = 512, limit: int | None = None, seed: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The images neither cropped nor flipped, the last batch as large as it comes out. None for all of them.

        seed: None for the table's order, of which `limit` takes evenly spaced images; otherwise shuffled by it, so
        that each batch is a fair sample: a table may be sorted by class.
        """
        count = len(self) if limit is None else min(limit, len(self))
        if seed is None:
            order = torch.arange(count) * len(self) // max(1, count)
        else:
            order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:count]
        offsets = torch.full((2, count), self._padding)
        yield from self._batches(order, offsets, None, batch_size, -(-count // _checked(batch_size)))

    def _batches(
        self, order: Tensor, offsets: Tensor, mirrored: Tensor | None, size: int, steps: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        fetched, order = (_moved(order, device) for device in (self._store.index_device, self._device))
        offsets = _moved(offsets, self._device)
        mirrored = None if mirrored is None else _moved(mirrored, self._device)
        for step in range(steps):
            batch = slice(step * size, (step + 1) * size)
            crops = self._cropped(*self._store.fetch(fetched[batch]), *offsets[:, batch])
            if mirrored is not None:
                crops = torch.where(mirrored[batch].view(-1, 1, 1, 1), crops.flip(2), crops)
            yield self._normalise(crops), self._labels[order[batch]]

    def _cropped(self, pixels: Tensor, slots: Tensor, down: Tensor, right: Tensor) -> Tensor:
        """uint8 [batch, H, W, C] out of padded `pixels`; slots: which of them; down, right: the crops' corners."""
        height, width, channels = self._shape
        windows = pixels.as_strided((pixels.numel() // channels - width + 1, width * channels), (channels, 1))
        corners = (slots * pixels.shape[1] + down) * pixels.shape[2] + right
        rows = corners[:, None] + self._row_steps
        return windows.index_select(0, rows.view(-1)).view(-1, height, width, channels)


class _InMemory:
    """All images on the device, padded."""

    def __init__(self, images: np.ndarray, rows: np.ndarray, padding: int, device: torch.device) -> None:
        self.index_device = device
        height, width, channels = images.shape[1:]
        shape = (len(rows), height + 2 * padding, width + 2 * padding, channels)
        self._pixels = torch.zeros(shape, dtype=torch.uint8, device=device)
        inner = self._pixels[:, padding : padding + height, padding : padding + width]
        for first in range(0, len(rows), ROWS_PER_COPY):
            some = slice(first, first + ROWS_PER_COPY)
            inner[some] = torch.from_numpy(np.asarray(images[rows[some]])).to(device)

    def fetch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Padded images, and where among them the wanted ones are."""
        return self._pixels, positions


class _Streamed:
    """Images stay where they are; a batch is gathered, moved and padded when it is wanted."""

    index_device = torch.device("cpu")

    def __init__(self, images: np.ndarray, rows: np.ndarray, padding: int, device: torch.device) -> None:
        self._images, self._rows, self._padding, self._device = images, rows, padding, device

    def fetch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        gathered = torch.from_numpy(np.asarray(self._images[self._rows[positions.numpy()]]))
        border = (0, 0, self._padding, self._padding, self._padding, self._padding)
        return F.pad(_moved(gathered, self._device), border), torch.arange(len(positions), device=self._device)


def _checked(batch_size: int) -> int:
    if batch_size < 1:
        raise BrsweepError(f"batch_size={batch_size}: has to be 1 or more")
    return batch_size


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device; to a GPU from pinned memory, so that the host need not wait."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


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
    if not isinstance(images, Images):
        raise BrsweepError(f"data: {type(source).__name__}.load gave a {type(images).__name__}; Images is wanted")
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
