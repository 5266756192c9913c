"""What a run folder holds of its quantized layers: histograms, confusion counts, arrays over epochs.

Needs numpy alone. A file that is missing gives nothing; one that is damaged, or holds other things than a run leaves,
raises `BrsweepError`.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brsweep.errors import BrsweepError
from brsweep.files import read_file, replacing
from brsweep.quant.grid import Grid
from brsweep.tracking.jsonl import read
from brsweep.tracking.tracker import one_line

if TYPE_CHECKING:
    import numpy as np

LAYERS, SNAPSHOTS = "layers.jsonl", "snapshots"
ABOUT = ("low", "high", "below", "above", "alpha", "bits")
MARGIN = 1.5
"""Histograms reach this many steps beyond the lowest and the highest level."""


AT_MOST = 2**28
"""Bytes that a snapshot may have, packed and unpacked: a thousand layers of 8 bits need a tenth of it."""
FARTHEST = 2**10
"""No histogram reaches beyond this many steps: grids have at most 8 bits."""


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
    path = folder / SNAPSHOTS / f"{name}.npz"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            np.savez_compressed(file, **arrays)
    except OSError as error:
        why = error.strerror or error
        raise BrsweepError(f"{path}: can't be written ({why}); make room, then run the same command again") from None


def snapshot(folder: Path, name: str) -> tuple[dict[str, Histogram], np.ndarray | None]:
    """Of snapshots/<name>.npz: site -> histogram, and the confusion counts (rows: true classes) or None."""
    path = folder / SNAPSHOTS / f"{name}.npz"
    try:
        held = _arrays(read_file(path, AT_MOST))
        names = [key.removesuffix("/about") for key in held if key.endswith("/about")]
        histograms = {site: _histogram(held[f"{site}/counts"], held[f"{site}/about"]) for site in names}
        return histograms, _confusion(held.get("confusion"))
    except FileNotFoundError:
        return {}, None
    except Exception as error:  # damaged bytes make zipfile, zlib and numpy raise whatever they meet
        cure = "the same run with force=true writes it anew"
        raise BrsweepError(f"{path}: can't be read ({one_line(error)}); {cure}") from None


def _arrays(content: bytes) -> dict[str, np.ndarray]:
    import numpy as np

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > AT_MOST:
            raise ValueError(f"unpacks to more than {AT_MOST // 2**20} MiB")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays}


def _histogram(counts: np.ndarray, about: np.ndarray) -> Histogram:
    low, high, *_, bits = about.astype(float).tolist()
    if about.shape != (6,) or not -FARTHEST <= low < high <= FARTHEST or not 1 <= bits <= 8:
        raise ValueError("a histogram of an unknown range")
    if high - low < 2 * MARGIN or counts.ndim != 1 or not high - low <= counts.size:
        raise ValueError("a histogram of an unknown shape")
    _check_counts(counts)
    return Histogram(counts, low, high, int(bits))


def _confusion(counts: np.ndarray | None) -> np.ndarray | None:
    if counts is not None:
        if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not counts.size:
            raise ValueError("confusion counts that are no square")
        _check_counts(counts)
    return counts


def _check_counts(counts: np.ndarray) -> None:
    if counts.dtype.kind not in "iuf" or not (counts.min() >= 0 and math.isfinite(counts.max())):
        raise ValueError("counts that are none")


def has_ended(folder: Path, stage: str) -> bool:
    """Whether the snapshot of the stage's end is on file."""
    return (folder / SNAPSHOTS / f"{stage}-end.npz").exists()


def layers(folder: Path) -> list[dict[str, Any]]:
    """The lines of layers.jsonl; none where there is no such file.

    Each has its stage and epoch, and lists of one length, one entry per site. "site" and "kind" hold texts, "low" truth
    values, "bits" whole numbers, "occupancy" a number for each bin, or null where there is no step size, and every
    other list numbers or null.
    """
    path = folder / LAYERS
    try:
        path.stat()
    except FileNotFoundError:
        return []
    except OSError:
        pass  # `read` says what is wrong
    lines = read(path)
    for number, line in enumerate(lines, start=1):
        if not _is_layers(line):
            raise BrsweepError(
                f"{path}, line {number}: not an epoch's arrays per layer, the file is damaged; "
                "restore it, or remove the run folder and run again"
            )
    return lines


def _is_layers(line: dict[str, Any]) -> bool:
    columns = {key: value for key, value in line.items() if key not in ("stage", "epoch")}
    if not isinstance(line.get("stage"), str) or type(line.get("epoch")) is not int or not columns.keys() >= COLUMNS:
        return False
    if not all(isinstance(column, list) and len(column) == len(columns["site"]) for column in columns.values()):
        return False
    if not all(OF_COLUMN.get(key, _is_measured)(item) for key, column in columns.items() for item in column):
        return False
    sites = zip(columns["occupancy"], columns["bits"], strict=True)
    return all(shares is None or len(shares) == Grid(bits, signed=False).bins for shares, bits in sites)


def _is_text(item: Any) -> bool:
    return isinstance(item, str)


def _is_truth(item: Any) -> bool:
    return isinstance(item, bool)


def _is_bits(item: Any) -> bool:
    return type(item) is int and 1 <= item <= 8


def _is_measured(item: Any) -> bool:
    return item is None or type(item) in (int, float)


def _is_shares(item: Any) -> bool:
    return item is None or (isinstance(item, list) and all(type(share) in (int, float) for share in item))


COLUMNS = {"site", "kind", "bits", "low", "alpha", "occupancy"}
OF_COLUMN = {"site": _is_text, "kind": _is_text, "low": _is_truth, "bits": _is_bits, "occupancy": _is_shares}
