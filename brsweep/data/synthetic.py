"""Made-up images that a small network learns within a few epochs: for tests, and for trying a sweep without data.

Each class has one pattern, drawn once: 4x4 random grey levels per channel, enlarged to the image's size. An image is
its class's pattern plus Gaussian noise, rounded and cut to 0..255. Labels take turns: 0, 1, 2, ..., 0, 1, 2, ...
"""

from __future__ import annotations

import numpy as np

from brsweep.data.images import Images, Source
from brsweep.errors import BrsweepError

COARSE = 4
DARKEST, BRIGHTEST = 64, 192
LIMIT = 2**63


class Synthetic(Source):
    """classes, train_images and test_images: counts. image_size: pixels along each side. channels: as a colour image.

    noise: standard deviation in grey levels; the patterns themselves run from 64 to 191. seed: of patterns and noise.
    """

    def __init__(
        self,
        *,
        classes: int,
        train_images: int,
        test_images: int,
        image_size: int,
        channels: int,
        noise: float,
        seed: int,
    ) -> None:
        for name, value, least in (
            ("classes", classes, 2),
            ("train_images", train_images, classes),
            ("test_images", test_images, 1),
            ("image_size", image_size, 1),
            ("channels", channels, 1),
            ("noise", noise, 0),
            ("seed", seed, 0),
        ):
            if not least <= value < LIMIT:
                raise BrsweepError(f"data.{name}={value}: has to be {least} or more, and finite")
            if name != "noise" and not isinstance(value, int):
                raise BrsweepError(f"data.{name}={value}: a whole number is wanted")
        self.classes, self.train_images, self.test_images = classes, train_images, test_images
        self.image_size, self.channels, self.noise, self.seed = image_size, channels, float(noise), seed

    def prepare(self) -> None:
        """Nothing to do."""

    def identity(self) -> str:
        return "synthetic-1 " + " ".join(f"{name}={value}" for name, value in vars(self).items())

    def load(self) -> Images:
        try:
            return self._draw()
        except (MemoryError, ValueError) as error:  # numpy's words for more than there is, and more than it can count
            counts = f"{self.train_images} + {self.test_images} images of {self.image_size}x{self.image_size}"
            raise BrsweepError(f"data: {counts} pixels do not fit into memory; choose fewer or smaller ones") from error

    def _draw(self) -> Images:
        generator = np.random.Generator(np.random.PCG64(self.seed))
        coarse = generator.integers(DARKEST, BRIGHTEST, (self.classes, COARSE, COARSE, self.channels))
        enlarged = np.arange(self.image_size) * COARSE // self.image_size
        patterns = coarse[:, enlarged[:, np.newaxis], enlarged].astype(np.float32)
        parts = []
        for count in (self.train_images, self.test_images):
            labels = np.arange(count) % self.classes
            noise = generator.standard_normal((count, *patterns.shape[1:]), dtype=np.float32) * self.noise
            parts += [np.rint(patterns[labels] + noise).clip(0, 255).astype(np.uint8), labels.astype(np.int64)]
        return Images(*parts, classes=tuple(f"class-{label}" for label in range(self.classes)))
