"""What a run folder holds of its quantized layers: histograms, confusion counts, arrays over epochs.

Needs numpy alone. A file that is missing gives nothing; a damaged one raises `BrsweepError`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brsweep.errors import BrsweepError
from brsweep.tracking.jsonl import read

if TYPE_CHECKING:
    import numpy as np

LAYERS, SNAPSHOTS = "layers.jsonl", "snapshots"
ABOUT = ("low", "high", "below", "above", "alpha", "bits")
MARGIN = 1.5
"""Histograms reach this many steps beyond the lowest and the highest level."""


@dataclass(frozen=True)
class Histogram:
    """Counts over value / alpha, in equal cells from `low` to `high` steps. Codes reach from qn to qp."""

    counts: np.ndarray
    low: float
    high: float
    bits: int

    @property
    def codes(self) -> range:
        """The grid's codes, qn to qp."""
        return range(round(self.low + MARGIN), round(self.high - MARGIN) + 1)

    def coarse(self, cells_per_step: int) -> tuple[np.ndarray, np.ndarray]:
        """Edges and counts with at most `cells_per_step` cells to a step, from neighbouring cells added up.

        Where cells are added up, levels lie in the middle of one, so that values on a level are not split in two.
        """
        import numpy as np

        fine = len(self.counts) / (self.high - self.low)
        group = max(round(fine / cells_per_step), 1)
        ahead = (group // 2 - round(MARGIN * fine)) % group
        counts = np.pad(self.counts, (ahead, -(ahead + len(self.counts)) % group)).reshape(-1, group).sum(axis=1)
        return self.low + (group * np.arange(len(counts) + 1) - ahead) / fine, counts

    def scale(self, counts: np.ndarray, edges: np.ndarray) -> float:
        """The largest of `counts`; for activations without the cell at 0, which half of ReLU's outputs fill."""
        import numpy as np

        at_zero = (edges[:-1] <= 0) & (edges[1:] > 0) & (self.codes[0] == 0)
        return max(float(np.where(at_zero, 0, counts).max()), 1.0)


def write(folder: Path, name: str, content: Mapping[str, Any]) -> None:
    """snapshots/<name>.npz, name being <stage>-start or <stage>-end: per site `<site>/counts` and `<site>/about` (low,
    high, below, above, alpha, bits), and `confusion` where the stage has ended."""
    import numpy as np

    arrays = {}
    for site, values in content.get("sites", {}).items():
        arrays[f"{site}/counts"] = np.asarray(values["counts"])
        arrays[f"{site}/about"] = np.array([values[key] for key in ABOUT], dtype=np.float64)
    if "confusion" in content:
        arrays["confusion"] = np.asarray(content["confusion"])
    (folder / SNAPSHOTS).mkdir(parents=True, exist_ok=True)
    part = folder / SNAPSHOTS / f".{name}.part.npz"
    np.savez_compressed(part, **arrays)
    part.replace(folder / SNAPSHOTS / f"{name}.npz")


def snapshot(folder: Path, name: str) -> tuple[dict[str, Histogram], np.ndarray | None]:
    """Of snapshots/<name>.npz: site -> histogram, and the confusion counts (rows: true classes) or None."""
    import numpy as np

    path = folder / SNAPSHOTS / f"{name}.npz"
    try:
        with open(path, "rb") as file, np.load(file) as arrays:
            held = {key: arrays[key] for key in arrays}
    except FileNotFoundError:
        return {}, None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise BrsweepError(f"{path}: can't be read ({error}); the same run with force=true writes it anew") from None
    histograms = {}
    for key, about in held.items():
        if key.endswith("/about"):
            site = key.removesuffix("/about")
            histograms[site] = Histogram(held[f"{site}/counts"], float(about[0]), float(about[1]), int(about[5]))
    return histograms, held.get("confusion")


def has_ended(folder: Path, stage: str) -> bool:
    """Whether the snapshot of the stage's end is on file."""
    return (folder / SNAPSHOTS / f"{stage}-end.npz").exists()


def layers(folder: Path) -> list[dict[str, Any]]:
    """The lines of layers.jsonl; none where there is no such file."""
    path = folder / LAYERS
    return read(path) if path.exists() else []
