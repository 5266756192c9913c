"""CIFAR and MNIST through torchvision, on files made here; nothing is downloaded."""

from __future__ import annotations

import hashlib
import pickle
import shutil
import urllib.error

import numpy as np
import pytest

from brsweep.data.downloads import Cifar10, Cifar100, Download, Mnist
from brsweep.errors import BrsweepError


@pytest.fixture
def fake_cifar(tmp_path, monkeypatch):
    """Ten images in CIFAR-10's own format, under checksums of their own."""
    from brsweep.torchvision_import import import_torchvision

    kind = import_torchvision().datasets.CIFAR10
    folder = tmp_path / "cifar10" / kind.base_folder
    folder.mkdir(parents=True)
    flat = np.random.default_rng(0).integers(0, 256, (12, 3 * 32 * 32), dtype=np.uint8)
    contents = {f"data_batch_{i + 1}": (flat[2 * i : 2 * i + 2], [2 * i, 2 * i + 1]) for i in range(5)}
    contents["test_batch"] = (flat[10:], [3, 4])
    sums = {}
    for name, (data, labels) in contents.items():
        sums[name] = _write(folder / name, {"data": data, "labels": labels})
    meta = _write(folder / "batches.meta", {"label_names": [f"c{i}" for i in range(10)]})
    monkeypatch.setattr(kind, "train_list", [[f"data_batch_{i}", sums[f"data_batch_{i}"]] for i in range(1, 6)])
    monkeypatch.setattr(kind, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(kind, "meta", {"filename": "batches.meta", "key": "label_names", "md5": meta})
    return tmp_path / "cifar10", flat


def _write(path, content) -> str:
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_cifar_is_decoded_once_and_read_without_torchvision(fake_cifar, monkeypatch, capfd):
    root, flat = fake_cifar
    Cifar10(str(root)).prepare()
    assert capfd.readouterr().out == ""
    monkeypatch.setattr("brsweep.torchvision_import.import_torchvision", None)
    source = Cifar10(str(root))
    source.prepare()
    images = source.load()
    chw = flat.reshape(12, 3, 32, 32)
    assert np.array_equal(images.train_images, chw[:10].transpose(0, 2, 3, 1))
    assert np.array_equal(images.test_images[1, :, :, 2], chw[11, 2])
    assert images.train_labels.tolist() == list(range(10)) and images.test_labels.tolist() == [3, 4]
    assert images.classes == tuple(f"c{i}" for i in range(10))
    assert source.load() is images


def test_a_damaged_cifar_cache_is_made_again_from_the_files(fake_cifar):
    root, flat = fake_cifar
    Cifar10(str(root)).prepare()
    (root / "decoded-cifar10" / "test_images.npy").write_bytes(b"")
    with pytest.warns(UserWarning, match="damaged image cache, decoded again: .*test_images.npy"):
        images = Cifar10(str(root)).load()
    assert np.array_equal(images.test_images[0, :, :, 0], flat[10].reshape(3, 32, 32)[0])


class Named(Download):
    """A data set of one grey level; its decoding stands in for torchvision's."""

    def _decode(self, writer):
        for part in ("train", "test"):
            writer.write(f"{part}_images", (2, 4, 4, 1), [np.full((2, 4, 4, 1), self.level, np.uint8)])
            writer.write(f"{part}_labels", (2,), [np.arange(2)])
        return ("a", "b")

    def _pixels(self, dataset): ...
    def _by_hand(self, kind): ...


class Dark(Named):
    name, level = "dark", 1


class Bright(Named):
    name, level = "bright", 200


def test_sources_in_one_root_keep_apart(tmp_path):
    for _ in range(2):
        for kind in (Dark, Bright):
            assert (kind(str(tmp_path)).load().train_images == kind.level).all()


@pytest.mark.parametrize("place", ["decoded", "decoded-bright"])
def test_a_foreign_cache_never_passes(tmp_path, place):
    """Another source's, whole, where ours belongs or where an older version kept it."""
    Dark(str(tmp_path)).prepare()
    shutil.copytree(tmp_path / "decoded-dark", tmp_path / place)
    if place == "decoded":
        images = Bright(str(tmp_path)).load()
        assert (np.load(tmp_path / "decoded" / "test_images.npy") == 1).all()  # neither believed nor deleted
    else:
        with pytest.warns(UserWarning, match="decoded again: .*decoded from dark-1, not from bright-1"):
            images = Bright(str(tmp_path)).load()
    assert (images.test_images == 200).all()


def test_mnist_gets_a_channel(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (10, 28, 28), dtype=np.uint8)
    for name in ("train", "t10k"):
        header = (0x803).to_bytes(4, "big") + b"".join(n.to_bytes(4, "big") for n in pixels.shape)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        header = (0x801).to_bytes(4, "big") + (10).to_bytes(4, "big")
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(header + bytes(range(10)))
    images = Mnist(str(tmp_path)).load()
    assert np.array_equal(images.train_images, pixels[..., np.newaxis])
    assert images.test_labels.tolist() == list(range(10)) and len(images.classes) == 10


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Cifar10, ["cifar10", "cifar-10-python.tar.gz"]),
        (Cifar100, ["cifar100", "cifar-100-python.tar.gz"]),
        (Mnist, ["mnist", "train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz", "MNIST/raw"]),
    ],
)
def test_no_network_is_one_line_that_says_what_to_put_where(kind, words, tmp_path, monkeypatch, capfd):
    def refuse(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    source = kind(str(tmp_path))
    assert source.identity() == f"{kind.name}-1"  # asks for no file
    with pytest.raises(BrsweepError) as caught:
        source.prepare()
    message = str(caught.value)
    assert "\n" not in message and str(tmp_path) in message and all(word in message for word in words)
    assert not list(tmp_path.glob("decoded*/*")) and not list(tmp_path.glob("*.partial"))
    assert capfd.readouterr().out == ""
