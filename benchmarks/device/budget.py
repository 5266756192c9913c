"""What a part of the check gets: the device, the time that is its own, and the sizes that fit both."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Budget:
    """deadline: of the monotonic clock. out: the folder of the check. data: an image folder, or None."""

    device: str
    deadline: float
    out: Path
    data: Path | None

    @property
    def left(self) -> float:
        """Seconds."""
        return max(0.0, self.deadline - time.monotonic())

    @property
    def dry(self) -> bool:
        """Whether sizes are those of a try on a CPU."""
        return self.device == "cpu"
