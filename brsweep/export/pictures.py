"""Images as people have them (uint8 arrays, PIL images) to what a network takes: one size, one number of channels,
normalised as in its training.

Arrays have to fit, and values that are no uint8 are refused: pixels in [0, 1] would be taken for black. PIL images are
brought to the size as `brsweep.data.image_folder` brings them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from brsweep.data.decode import fitted
from brsweep.data.tables import Normalization
from brsweep.errors import BrsweepError

GREY, RGB = 1, 3


class Preprocess:
    """Images -> float32 [N, C, H, W] on the network's device.

    about: `size` (height, width), `channels`, `mean` and `std` per channel for pixels in [0, 1], as a result has them.
    """

    def __init__(self, about: Mapping[str, Any], device: torch.device, channels_last: bool) -> None:
        self.size, self.channels, self.device = tuple(about["size"]), about["channels"], device
        self.normalize = Normalization(about["mean"], about["std"], self.size, device, channels_last)

    def __call__(self, images: Any) -> Tensor:
        """One image or several: uint8 [H, W, C] or [N, H, W, C], without C where there is one channel; a PIL image; a
        sequence of either. Raises `BrsweepError` for what the network was not trained on."""
        pixels = torch.from_numpy(np.array(self._stacked(images), order="C"))
        return self.normalize(pixels.to(self.device))

    def _stacked(self, images: Any) -> np.ndarray:
        """uint8 [N, H, W, C]."""
        if _is_picture(images):
            return self._pixels(images)[np.newaxis]
        if isinstance(images, Sequence):
            if not images:
                raise BrsweepError("images: an empty sequence")
            return np.concatenate([self._stacked(image) for image in images])
        array = np.asarray(images)
        shape = (*self.size, self.channels)
        if array.dtype != np.uint8:
            raise BrsweepError(f"images: {array.dtype}; uint8 is wanted, 0 is black and 255 white")
        if self.channels == GREY and array.shape[-2:] == self.size:
            array = array[..., np.newaxis]
        if array.shape[-3:] != shape or array.ndim not in (3, 4):
            several = ", ".join(map(str, ("N", *shape)))
            raise BrsweepError(f"images: of shape {array.shape}; {shape} or ({several}) is wanted")
        return array.reshape(-1, *shape)

    def _pixels(self, picture: Any) -> np.ndarray:
        if picture.mode.startswith(("I", "F")):
            raise BrsweepError(f"images: a picture of more than 8 bits ({picture.mode}); convert it to 8 bits")
        if self.channels not in (GREY, RGB):
            raise BrsweepError(f"images: the network takes {self.channels} channels, which no PIL image has")
        height, width = self.size
        picture = picture.convert("L" if self.channels == GREY else "RGB")
        if picture.size != (width, height):
            if height != width:
                raise BrsweepError(f"images: a picture of {picture.width}x{picture.height}; {width}x{height} is wanted")
            picture = fitted(picture, height)
        return np.asarray(picture).reshape(*self.size, self.channels)


def _is_picture(images: Any) -> bool:
    return hasattr(images, "convert") and hasattr(images, "mode")
