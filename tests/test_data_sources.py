"""Images, the sources without a folder of one's own, tables, and the data YAMLs."""

from __future__ import annotations

import hashlib
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from brsweep.data.digits import Digits
from brsweep.data.images import Images, Source
from brsweep.data.synthetic import Synthetic
from brsweep.data.tables import build_tables, channel_statistics
from brsweep.errors import BrsweepError
from brsweep.stages.source import OPTIONS

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "conf" / "data").glob("*.yaml"))
SMALL = {"classes": 3, "train_images": 60, "test_images": 9, "image_size": 6, "channels": 2, "noise": 20.0, "seed": 1}


def part(count=2, shape=(4, 4, 1), labels=None):
    return np.zeros((count, *shape), np.uint8), np.array(range(count) if labels is None else labels, np.int64)


@pytest.mark.parametrize(
    ("train", "test", "classes", "words"),
    [
        (part(labels=[0, 0]), part(labels=[0, 0]), ("a",), "two or more"),
        (part(), part(), ("a", "a"), "different"),
        (part(labels=[0, 2]), part(), ("a", "b"), "train labels run from 0 to 2; there are 2 classes"),
        (part(), part(labels=[-1, 0]), ("a", "b"), "test labels run from -1 to 0"),
        (part(), part(shape=(5, 4, 1)), ("a", "b"), "test images"),
        (part(), part(0), ("a", "b"), r"test images are uint8 \(0, 4, 4, 1\)"),
        (part(shape=(4, 4)), part(), ("a", "b"), "uint8 .* is wanted"),
        ((part()[0].astype(float), part()[1]), part(), ("a", "b"), "train images are float64"),
        ((part()[0], part()[1].astype(np.int32)), part(), ("a", "b"), "train labels are int32"),
        ((part()[0], part(3)[1]), part(), ("a", "b"), r"train labels are int64 \(3,\)"),
    ],
)
def test_images_that_make_no_data_set(train, test, classes, words):
    with pytest.raises(BrsweepError, match=words):
        Images(*train, *test, classes)


def test_digits_are_the_embedded_ones_and_their_split_is_fixed():
    from sklearn.datasets import load_digits

    images = Digits().load()
    assert images.train_images.shape == (1437, 8, 8, 1) and images.test_images.shape == (360, 8, 8, 1)
    raw = load_digits().images
    ours = np.concatenate([images.train_images, images.test_images])[..., 0]
    # v * 255 / 16 is half a grey level only at v = 8: 127.5, which rounds to even
    scaled = {v: round(v * 255 / 16) for v in range(17)}
    assert scaled[0] == 0 and scaled[8] == 128 and scaled[16] == 255
    expected = [tuple(scaled[v] for v in image.ravel().astype(int)) for image in raw]
    assert sorted(tuple(image.ravel().tolist()) for image in ours) == sorted(expected)
    share = np.bincount(images.test_labels) / np.bincount(np.r_[images.train_labels, images.test_labels])
    assert np.abs(share - 360 / 1797).max() < 1 / 174  # the smallest class has 174 images


def test_digits_content_is_what_the_identity_stands_for():
    """Another content wants another number in the identity."""
    images = Digits().load()
    digest = hashlib.sha256()
    for array in (images.train_images, images.train_labels, images.test_images, images.test_labels):
        digest.update(np.ascontiguousarray(array))
    assert (Digits().identity(), digest.hexdigest()) == ("digits-1", DIGITS_SHA256)


DIGITS_SHA256 = "145fa5bc2d935fbc686a79264a0c995541c920c702d98c1c8a0e173298a7f09f"


def test_synthetic_is_a_function_of_its_arguments():
    one, same, other = (Synthetic(**SMALL | {"seed": seed}) for seed in (1, 1, 2))
    assert one.identity() == same.identity() != other.identity()
    assert all(f"{name}={value}" in one.identity() for name, value in SMALL.items())
    assert np.array_equal(one.load().train_images, same.load().train_images)
    assert not np.array_equal(one.load().train_images, other.load().train_images)
    images = one.load()
    assert images.train_images.shape == (60, 6, 6, 2) and images.test_images.shape == (9, 6, 6, 2)
    assert len(images.classes) == 3 and np.bincount(images.train_labels).tolist() == [20, 20, 20]


def test_synthetic_patterns_are_shared_by_the_two_parts():
    images = Synthetic(**SMALL | {"noise": 0.0}).load()
    for label in range(3):
        (pattern,) = np.unique(images.train_images[images.train_labels == label], axis=0)
        assert (images.test_images[images.test_labels == label] == pattern).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("classes", 1), ("train_images", 2), ("noise", -1), ("image_size", 0), ("noise", float("nan"))),
        *(("noise", float("inf")), ("seed", -1), ("train_images", 1e3), ("image_size", 2**64)),
    ],
)
def test_synthetic_arguments_out_of_range(name, value):
    with pytest.raises(BrsweepError, match=f"data.{name}={value}"):
        Synthetic(**SMALL | {name: value})


@pytest.mark.parametrize(("name", "value"), [("image_size", 10**9), ("train_images", 10**18), ("test_images", 2**62)])
def test_more_synthetic_images_than_memory_are_one_line(name, value):
    source = Synthetic(**SMALL | {name: value})
    with pytest.raises(BrsweepError, match=r"^data: [^\n]* do not fit into memory[^\n]*$"):
        source.load()


def test_a_source_is_whole_or_can_not_be_made():
    class Half(Source):
        def prepare(self): ...
        def identity(self):
            return "half-1"

    with pytest.raises(TypeError, match="load"):
        Half()


@pytest.mark.parametrize("given", [None, {"train": 1}, (np.zeros(3),)])
def test_a_source_that_gives_anything_else_is_named(given):
    class Wrong(Source):
        def prepare(self): ...
        def identity(self):
            return "wrong-1"

        def load(self):
            return given

    options = {"split_seed": 0, "crop_padding": 1, "flip": True, "device": "cpu", "channels_last": True}
    with pytest.raises(BrsweepError, match=rf"^data: Wrong.load gave a {type(given).__name__}; Images is wanted$"):
        build_tables(Wrong(), val_fraction=0.2, **options)


@pytest.mark.parametrize("kind", [list, torch.as_tensor])
def test_arrays_of_another_library_are_named(kind):
    images, labels = part()
    with pytest.raises(BrsweepError, match=r"^data: train images are a (list|Tensor); a numpy array is wanted$"):
        Images(kind(images), labels, images, labels, ("a", "b"))
    with pytest.raises(BrsweepError, match=r"^data: test labels are a (list|Tensor); a numpy array is wanted$"):
        Images(images, labels, images, kind(labels), ("a", "b"))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 2100), st.integers(1, 4), st.integers(0, 5))
def test_statistics_against_float64(count, channels, seed):
    images = np.random.default_rng(seed).integers(0, 256, (count, 3, 2, channels), dtype=np.uint8)
    rows = np.arange(0, count, 2)
    mean, std = channel_statistics(images, rows)
    exact = images[rows].astype(np.float64) / 255
    assert mean == pytest.approx(exact.mean((0, 1, 2)), rel=1e-12)
    assert std == pytest.approx(exact.std((0, 1, 2)), rel=1e-9)  # the reference cancels, ours doesn't


def test_statistics_at_the_largest_sums_and_of_a_constant_channel():
    images = np.full((1500, 2, 2, 2), 255, np.uint8)
    images[::2, ..., 0] = 0
    mean, std = channel_statistics(images, np.arange(1500))
    assert mean == (0.5, 1.0) and std == (0.5, 1.0)


def test_tables_split_and_normalise_by_the_training_part_alone():
    source = Synthetic(**SMALL)
    options = {"split_seed": 0, "crop_padding": 1, "flip": True, "device": "cpu", "channels_last": True}
    tables = build_tables(source, val_fraction=0.2, **options)
    assert (len(tables.train), len(tables.val), len(tables.test)) == (48, 12, 9)
    assert (tables.channels, tables.image_size, len(tables.classes)) == (2, (6, 6), 3)
    values = torch.cat([batch for batch, _ in tables.train.plain()]).double()
    # float32 values around 1, averaged
    assert values.mean((0, 2, 3)).abs().max() < 1e-6 and (values.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-6
    again = torch.cat([batch for batch, _ in tables.val.augmented(12, 3)]).sort(0).values
    assert torch.equal(again, next(tables.val.plain())[0].sort(0).values)  # validation is never augmented
    assert build_tables(source, val_fraction=0.0, **options).val is None


def test_a_small_network_learns_the_synthetic_images():
    from brsweep.models.build import build_model
    from brsweep.models.tiny import tiny

    source = Synthetic(**SMALL | {"classes": 4, "train_images": 512, "test_images": 128, "channels": 3, "noise": 32.0})
    options = {"val_fraction": 0.0, "split_seed": 0, "crop_padding": 0, "flip": False}
    tables = build_tables(source, **options, device="cpu", channels_last=True)
    model = build_model(tiny, len(tables.classes), tables.channels, 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(3):
        for images, labels in tables.train.augmented(32, epoch):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    images, labels = next(tables.test.plain())
    assert (model.eval()(images).argmax(1) == labels).float().mean() > 0.95


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_every_data_file_binds_to_its_source(path, monkeypatch):
    from omegaconf import OmegaConf

    monkeypatch.setenv("BRSWEEP_DATA", "/somewhere")
    node = OmegaConf.load(path)
    if OmegaConf.is_missing(node, "root"):
        node.root = "/images"
    node = OmegaConf.to_container(node, resolve=True)
    assert node.keys() >= set(OPTIONS)
    module, _, name = node.pop("_target_").rpartition(".")
    __import__(module)
    kind = getattr(sys.modules[module], name)
    own = {key: value for key, value in node.items() if key not in OPTIONS}
    inspect.signature(kind).bind(**own)
    source = kind(**own)
    assert isinstance(source, Source)


def test_the_data_files_are_all_here():
    assert {p.stem for p in SOURCES} >= {"digits", "cifar10", "cifar100", "mnist", "image_folder", "synthetic"}


def test_sources_and_identities_load_nothing_heavy(tmp_path):
    code = (
        "import sys\n"
        "from brsweep.data import digits, downloads, image_folder, split, synthetic\n"
        "digits.Digits().identity(), downloads.Cifar10('x').identity()\n"
        "try: image_folder.ImageFolder(sys.argv[1], None, 'x').identity()\n"
        "except ValueError: pass\n"
        "print(sorted({'torch', 'torchvision', 'sklearn', 'PIL', 'omegaconf'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[]\n", done.stderr
