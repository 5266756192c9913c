"""ImageTable: every batch against plain slicing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from brsweep.data.tables import ImageTable
from brsweep.errors import BrsweepError

MEAN, STD = (0.5, 0.25, 0.4, 0.3), (0.2, 0.3, 0.25, 0.1)


def make(count=12, height=5, width=4, channels=3, seed=0, **options) -> tuple[np.ndarray, ImageTable]:
    """Random images whose label is their own index."""
    images = np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    labels = np.arange(count, dtype=np.int64)
    return images, ImageTable(images, labels, MEAN[:channels], STD[:channels], **options)


def pixels(batch: torch.Tensor) -> np.ndarray:
    """Undo the normalisation: uint8 [B, H, W, C]."""
    channels = batch.shape[1]
    mean, std = (torch.tensor(v[:channels], dtype=torch.float64).view(1, -1, 1, 1) for v in (MEAN, STD))
    raw = (batch.double() * std + mean) * 255
    # float32 resolves 255 to 2^-16, and two operations were rounded
    assert (raw - raw.round()).abs().max() < 1e-4
    return raw.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def crops(image: np.ndarray, padding: int, flip: bool) -> dict[bytes, tuple[int, int, bool]]:
    """Every crop that may come out of an image, by plain slicing, with its place."""
    height, width, _ = image.shape
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    found = {}
    for down, right in itertools.product(range(2 * padding + 1), repeat=2):
        crop = padded[down : down + height, right : right + width]
        found[crop.tobytes()] = (down, right, False)
        if flip:
            found[crop[:, ::-1].tobytes()] = (down, right, True)
    return found


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 9),
    height=st.integers(3, 6),
    width=st.integers(3, 6),
    channels=st.integers(1, 4),
    padding=st.integers(0, 3),
    flip=st.booleans(),
    seed=st.integers(0, 2**63 - 1),
    limit=st.sampled_from([0, 2**30]),
)
def test_each_augmented_image_is_a_crop_of_its_own(count, height, width, channels, padding, flip, seed, limit):
    images, table = make(count, height, width, channels, crop_padding=padding, flip=flip, memory_limit=limit)
    seen = []
    for batch, labels in table.augmented(3, seed):
        assert batch.dtype == torch.float32 and labels.dtype == torch.int64
        assert batch.shape == (len(labels), channels, height, width)
        for image, label in zip(pixels(batch), labels.tolist(), strict=True):
            assert image.tobytes() in crops(images[label], padding, flip)
            seen.append(label)
    assert len(set(seen)) == len(seen) == (count // 3 * 3 or count)
    assert table.steps(3) == max(1, count // 3)


def test_crops_flips_and_order_are_uniform():
    images, table = make(40, 6, 6, 1, crop_padding=1, flip=True)
    places = [crops(image, 1, True) for image in images]
    offsets, flips, first = np.zeros((3, 3)), 0, np.zeros(40)
    epochs = 250
    for seed in range(epochs):
        for step, (batch, labels) in enumerate(table.augmented(40, seed)):
            assert step == 0
            first[labels[0]] += 1
            for image, label in zip(pixels(batch), labels.tolist(), strict=True):
                down, right, flipped = places[label][image.tobytes()]
                offsets[down, right] += 1
                flips += flipped
    drawn = 40 * epochs
    # multinomial counts: five standard deviations
    assert np.abs(offsets - drawn / 9).max() < 5 * (drawn * (1 / 9) * (8 / 9)) ** 0.5
    assert abs(flips - drawn / 2) < 5 * (drawn / 4) ** 0.5
    assert first.max() < 25 and (first > 0).sum() > 35  # 6.25 each on average


def test_an_epoch_is_a_function_of_its_seed_alone():
    _, table = make(30, crop_padding=1, flip=True)
    torch.manual_seed(1)
    one = list(table.augmented(8, 5))
    state = torch.get_rng_state()
    running = table.augmented(8, 5)
    same = [next(running)]
    list(table.augmented(8, 6))  # another epoch in between
    same += list(running)
    assert torch.equal(torch.get_rng_state(), state)
    for (a, x), (b, y) in zip(one, same, strict=True):
        assert torch.equal(a, b) and torch.equal(x, y)
    assert not torch.equal(one[0][1], next(table.augmented(8, 6))[1])


def test_flip_and_padding_leave_the_order_alone():
    orders = [[labels.tolist() for _, labels in make(30, **options)[1].augmented(8, 5)] for options in OPTIONS]
    assert orders[0] == orders[1] == orders[2]


OPTIONS = ({}, {"flip": True}, {"crop_padding": 2, "flip": True})


def test_normalisation_against_float64():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    table = ImageTable(images, np.zeros(1, np.int64), MEAN[:3], STD[:3])
    batch, _ = next(table.plain())
    expected = (images[0].astype(np.float64) / 255 - np.array(MEAN[:3])) / np.array(STD[:3])
    # float32: 255 * mean, 1 / (255 std), the difference and the product are each rounded once
    bound = 4 * 2.0**-24 * (np.abs(expected) + 1 / np.array(STD[:3]))
    assert (np.abs(batch[0].permute(1, 2, 0).double().numpy() - expected) <= bound).all()


def test_the_border_is_black_before_normalisation():
    table = ImageTable(np.full((1, 2, 2, 1), 255, np.uint8), np.zeros(1, np.int64), [0.5], [0.25], crop_padding=2)
    values = torch.cat([batch.flatten() for seed in range(20) for batch, _ in table.augmented(1, seed)])
    assert set(values.tolist()) == {2.0, -2.0}  # (1 - 1/2) * 4 and (0 - 1/2) * 4


@pytest.mark.parametrize("memory_limit", [0, 2**30])
@pytest.mark.parametrize("padding", [0, 2])
def test_plain_gives_all_in_order(padding, memory_limit):
    images, table = make(11, crop_padding=padding, flip=True, memory_limit=memory_limit)
    batches = list(table.plain(4))
    assert [len(labels) for _, labels in batches] == [4, 4, 3]
    assert torch.cat([labels for _, labels in batches]).tolist() == list(range(11)) and len(table) == 11
    assert np.array_equal(pixels(torch.cat([batch for batch, _ in batches])), images)


def test_plain_with_a_limit_is_evenly_spaced():
    """A table may be sorted by class: its first images would be one class alone."""
    _, table = make(12)
    assert [labels.tolist() for _, labels in table.plain(2, limit=3)] == [[0, 4], [8]]
    assert sum(len(labels) for _, labels in table.plain(5, limit=100)) == 12
    assert list(table.plain(5, limit=0)) == []


@pytest.mark.parametrize("memory_limit", [0, 2**30])
def test_plain_with_a_seed_is_shuffled_and_neither_cropped_nor_flipped(memory_limit):
    """Of a table that is sorted by class each batch holds its share of every class."""
    images, table = make(1000, crop_padding=2, flip=True, memory_limit=memory_limit)
    batches = list(table.plain(100, limit=300, seed=7))
    labels = torch.cat([labels for _, labels in batches])
    assert [len(labels) for _, labels in batches] == [100] * 3 and len(labels.unique()) == 300
    assert np.array_equal(pixels(torch.cat([batch for batch, _ in batches])), images[labels.numpy()])
    # ten sorted classes: 10 of each in a batch of 100, standard deviation 2.8; five of them
    assert all(np.abs(np.bincount(some // 100, minlength=10) - 10).max() < 15 for _, some in batches)
    again, other = (torch.cat([some for _, some in table.plain(100, 300, seed)]) for seed in (7, 8))
    assert torch.equal(labels, again) and not torch.equal(labels, other)
    assert sorted(torch.cat([some for _, some in table.plain(64, seed=1)]).tolist()) == list(range(1000))


def test_streamed_from_a_file_equals_in_memory_to_the_bit(tmp_path):
    images, _ = make(50, 7, 6, 3)
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    labels, rows = np.arange(50, dtype=np.int64), np.arange(1, 50, 2)
    options = {"crop_padding": 2, "flip": True, "rows": rows}
    memory = ImageTable(mapped, labels, MEAN[:3], STD[:3], **options)
    streamed = ImageTable(mapped, labels, MEAN[:3], STD[:3], memory_limit=0, **options)
    for ours, theirs in ((memory.augmented(8, 3), streamed.augmented(8, 3)), (memory.plain(8), streamed.plain(8))):
        for (a, x), (b, y) in zip(ours, theirs, strict=True):
            assert torch.equal(a, b) and torch.equal(x, y)
            assert (x % 2 == 1).all()


def test_the_limit_counts_padded_bytes():
    exact = 12 * (5 + 2) * (4 + 2) * 3
    assert type(make(crop_padding=1, memory_limit=exact)[1]._store).__name__ == "_InMemory"
    assert type(make(crop_padding=1, memory_limit=exact - 1)[1]._store).__name__ == "_Streamed"


@pytest.mark.parametrize("channels_last", [True, False])
def test_memory_layout(channels_last):
    _, table = make(8, crop_padding=1, flip=True, channels_last=channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for batch, _ in itertools.chain(table.augmented(4, 0), table.plain(4)):
        assert batch.is_contiguous(memory_format=layout)


def test_batches_do_not_share_memory_with_the_table():
    images, table = make()
    for batch, labels in table.plain(4):
        batch.zero_()
        labels.zero_()
    assert np.array_equal(pixels(next(table.plain(12))[0]), images)
    assert next(table.plain(12))[1].tolist() == list(range(12))


def test_options_out_of_range():
    for padding in (-1, 5, 10**12):
        with pytest.raises(BrsweepError, match=rf"crop_padding={padding}: .* from 0 to the image's 4"):
            make(crop_padding=padding)
    with pytest.raises(BrsweepError, match="batch_size=0"):
        make()[1].steps(0)
    with pytest.raises(BrsweepError, match="batch_size=0"):
        next(make()[1].plain(0))
    with pytest.raises(BrsweepError, match="batch_size=0"):
        next(make()[1].augmented(0, 1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("memory_limit", [0, 2**30])
def test_a_gpu_gives_the_same_bits_and_no_batch_waits_for_it(memory_limit):
    options = {"crop_padding": 2, "flip": True, "memory_limit": memory_limit}
    _, here = make(300, 8, 8, 3, **options)
    _, there = make(300, 8, 8, 3, device="cuda", **options)
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = list(there.augmented(32, 1))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for (a, x), (b, y) in zip(here.augmented(32, 1), batches, strict=True):
        assert torch.equal(a, b.cpu()) and torch.equal(x, y.cpu())
