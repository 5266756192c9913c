"""What a folder of decoded images says about itself: classes, and shape, type and SHA-256 of each array."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from brsweep.errors import BrsweepError

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


class Damaged(BrsweepError):
    """A folder that is not there, or not whole."""


@dataclass(frozen=True)
class Manifest:
    """classes; arrays: by name, `shape` (list), `dtype` (text) and `sha256` of the values."""

    classes: tuple[str, ...]
    arrays: dict[str, dict]

    @property
    def sha256(self) -> str:
        """Of the whole content: classes and arrays, and nothing of where they lie."""
        return hashlib.sha256(json.dumps([self.classes, self.arrays], sort_keys=True).encode()).hexdigest()

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return tuple(self.arrays["train_images"]["shape"][1:3])

    def write(self, path: Path) -> None:
        fields = {"sha256": self.sha256, "classes": self.classes, "arrays": self.arrays}
        with open(path, "w", encoding="utf-8") as file:
            file.write(json.dumps(fields, indent=1) + "\n")
            flush(file)

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Raises `Damaged`."""
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            manifest = cls(tuple(fields["classes"]), {name: dict(fields["arrays"][name]) for name in ARRAYS})
            whole = manifest.sha256 == fields["sha256"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Damaged(f"{path}: {type(error).__name__}") from None
        if not whole:
            raise Damaged(f"{path}: does not match its own sha256")
        return manifest


def flush(file: IO) -> None:
    """To the disk, not only to the system."""
    file.flush()
    os.fsync(file.fileno())
