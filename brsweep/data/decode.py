"""Image files to uint8 arrays, several at a time.

Every image becomes RGB: grey values are repeated, transparency is dropped. Samples of more than 8 bits are refused:
Pillow cuts most of them to their high byte without a word, so each file is asked for its own depth, and formats that
can't be asked, or that run other programs (EPS), are not read. Rotation marks (EXIF) are not applied; torchvision's
ImageFolder doesn't either.

Threads, not processes: Pillow decodes without the interpreter's lock. On two cores two threads take 0.57 of one's time
for 512x400 JPEG files; for 32x32 ones, all overhead, they take 1.4 of it: 0.1 ms a file.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from brsweep.errors import BrsweepError

EIGHT_BIT = ("JPEG", "MPO", "BMP", "DIB", "GIF", "WEBP", "PCX", "TGA", "QOI", "XBM", "XPM")
"""Formats in which Pillow reads nothing deeper."""
THREADS = min(8, os.cpu_count() or 1)
FILES_PER_CALL = 64


def decode(path: str, image_size: int | None) -> np.ndarray:
    """uint8 [H, W, 3]. image_size: the shorter side is brought to it, antialiased, and the middle square cut out; None
    leaves the image as it is. The same pixels as torchvision's Resize and CenterCrop. `BrsweepError` names the file."""
    from PIL import Image

    try:
        content = Path(path).read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            kind, bits = image.format, _bits(image, content)
            rgb = image.convert("RGB") if bits is not None and bits <= 8 else None
    except Exception as error:  # Pillow raises many kinds for broken files
        unknown = type(error).__name__ == "UnidentifiedImageError"
        reason = "not an image" if unknown else f"broken: {' '.join(str(error).split())}"
        raise BrsweepError(f"{path}: {reason}; remove or replace this file") from error
    if bits is None:
        raise BrsweepError(f"{path}: {kind} files are not read; convert it to PNG, or remove it")
    if rgb is None:
        raise BrsweepError(f"{path}: pixels of more than 8 bits ({bits}); convert this file to 8 bits per channel")
    return np.asarray(rgb if image_size is None else fitted(rgb, image_size))


def _bits(image, content: bytes) -> int | None:
    """Bits per sample in the file, whatever `image` makes of them; None where the format can't be asked."""
    if image.mode.startswith(("I", "F")):  # grey values that Pillow keeps whole
        return 16 if ";16" in image.mode else 32
    if image.format == "PNG":
        return content[content.index(b"IHDR") + 12]
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (1,)))
    if image.format == "PPM":
        arguments = image.tile[0][3]  # with the largest value that a sample may have, where that is not 255
        return (arguments[1] if isinstance(arguments, tuple) else 255).bit_length()
    if image.format == "JPEG2000":
        size = content.index(b"\xff\x4f\xff\x51") + 40
        samples = int.from_bytes(content[size : size + 2], "big")
        return max((depth & 127) + 1 for depth in content[size + 2 : size + 2 + 3 * samples : 3])
    if image.format == "SGI":
        return 8 * content[3]
    if image.format == "AVIF":
        return 10 if content[content.index(b"av1C") + 6] & 64 else 8
    return 8 if image.format in EIGHT_BIT else None


def fitted(image, size: int):
    """A PIL image with its shorter side brought to `size` pixels, antialiased, and the middle square cut out."""
    from PIL import Image

    width, height = image.size
    short = min(width, height)
    scaled = (size * width // short, size * height // short)
    if scaled != image.size:
        image = image.resize(scaled, Image.Resampling.BILINEAR)
    left, top = round((scaled[0] - size) / 2), round((scaled[1] - size) / 2)
    return image.crop((left, top, left + size, top + size))


def decode_all(
    paths: Sequence[str], image_size: int | None, shape: tuple[int, int, int], like: str
) -> Iterator[np.ndarray]:
    """uint8 [up to 64, *shape] pieces in the order of `paths`, a few at a time in memory.

    shape: that of `like`, an image of the set. Raises `BrsweepError` naming the first file of another size.
    """

    def piece(start: int) -> np.ndarray:
        images = np.empty((len(paths[start : start + FILES_PER_CALL]), *shape), np.uint8)
        for image, path in zip(images, paths[start : start + FILES_PER_CALL], strict=True):
            decoded = decode(path, image_size)
            if decoded.shape != shape:
                raise BrsweepError(
                    f"{path}: {_size(decoded.shape)} pixels, while {like} has {_size(shape)}; "
                    "set data.image_size=PIXELS to bring all images to one size"
                )
            image[:] = decoded
        return images

    starts = range(0, len(paths), FILES_PER_CALL)
    with ThreadPoolExecutor(THREADS) as pool:
        for first in range(0, len(starts), 4 * THREADS):
            yield from pool.map(piece, starts[first : first + 4 * THREADS])


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
