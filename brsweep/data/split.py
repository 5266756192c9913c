"""Which training images are kept for validation.

Stratified: each class gives its share. The order comes from the raw output of PCG64, sorted, and not from numpy's
`permutation` or `choice`: numpy promises the raw stream for ever, and the methods' streams only until it finds better
ones (NEP 19). A split is part of a run's identity, so an upgrade must not move it.
"""

from __future__ import annotations

import numpy as np

from brsweep.errors import BrsweepError


def split_indices(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training and of the validation part, int64, each sorted; together every index once.

    labels: int64 [N]. fraction: share of the validation part, 0 <= fraction < 1; it holds round(fraction * N) images,
    each class its share rounded down or up, the largest remainders up.

    Raises `BrsweepError` where a class would keep no training image.
    """
    if not 0 <= fraction < 1:
        raise BrsweepError(f"data.val_fraction={fraction}: has to be 0 or more and below 1")
    if seed < 0:
        raise BrsweepError(f"data.split_seed={seed}: has to be 0 or more")
    counts = np.bincount(labels)
    taken = _shares(counts, fraction)
    for label in np.flatnonzero((taken >= counts) & (counts > 0)):
        raise BrsweepError(
            f"data.val_fraction={fraction}: class {label} has {counts[label]} image(s), none left for training; "
            "choose a smaller fraction"
        )
    by_chance = np.argsort(np.random.PCG64(seed).random_raw(len(labels)), kind="stable")
    by_class = by_chance[np.argsort(labels[by_chance], kind="stable")]
    first = np.cumsum(counts) - counts
    validation = np.sort(np.concatenate([by_class[f : f + k] for f, k in zip(first, taken, strict=True)]))
    return np.setdiff1d(np.arange(len(labels)), validation, assume_unique=True), validation


def _shares(counts: np.ndarray, fraction: float) -> np.ndarray:
    exact = fraction * counts
    shares = np.floor(exact).astype(np.int64)
    missing = round(fraction * counts.sum()) - shares.sum()
    shares[np.argsort(shares - exact, kind="stable")[:missing]] += 1
    return shares
