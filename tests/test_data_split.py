"""split_indices: a partition, stratified, a function of the seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brsweep.data.split import split_indices
from brsweep.errors import BrsweepError


@given(st.lists(st.integers(0, 4), min_size=20, max_size=200), st.floats(0, 0.5), st.integers(0, 2**32))
def test_a_partition_with_each_class_at_its_share(labels, fraction, seed):
    labels = np.array(labels, np.int64)
    counts = np.bincount(labels)
    if (np.ceil(fraction * counts) >= counts)[counts > 0].any():
        return  # a class might keep nothing
    train, val = split_indices(labels, fraction, seed)
    assert sorted([*train, *val]) == list(range(len(labels)))
    assert (np.diff(train) > 0).all() and (np.diff(val) > 0).all()
    assert len(val) == round(fraction * len(labels))
    taken = np.bincount(labels[val], minlength=len(counts))
    assert (np.abs(taken - fraction * counts) < 1).all()
    again = split_indices(labels, fraction, seed)
    assert np.array_equal(train, again[0]) and np.array_equal(val, again[1])


def test_literal_indices_of_a_small_split():
    """Pinned: a run's identity holds the split's seed, not its indices."""
    train, val = split_indices(np.array([0, 1] * 10), 0.25, 0)
    assert val.tolist() == [2, 3, 8, 11, 18]
    assert train.dtype == val.dtype == np.int64


def test_other_seeds_choose_others_and_every_image_is_chosen_equally_often():
    labels = np.repeat([0, 1], [100, 60])
    often = np.zeros(len(labels))
    for seed in range(400):
        often[split_indices(labels, 0.25, seed)[1]] += 1
    # 400 draws at 1/4: mean 100, standard deviation 8.7; five of them
    assert (abs(often - 100) < 44).all()
    assert len(np.unique(often)) > 10


def test_nothing_for_validation():
    train, val = split_indices(np.array([1, 0, 1]), 0.0, 0)
    assert train.tolist() == [0, 1, 2] and val.tolist() == [] and val.dtype == np.int64


def test_a_class_that_would_keep_nothing_is_named():
    labels = np.array([0] * 9 + [1])
    with pytest.raises(BrsweepError, match=r"val_fraction=0.9: class 1 has 1 image.*smaller fraction"):
        split_indices(labels, 0.9, 0)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2, float("nan")])
def test_fractions_outside_the_range(fraction):
    with pytest.raises(BrsweepError, match="val_fraction"):
        split_indices(np.array([0, 1]), fraction, 0)


def test_a_seed_below_zero():
    with pytest.raises(BrsweepError, match="split_seed=-1"):
        split_indices(np.array([0, 1, 0, 1]), 0.5, -1)
