"""The cache of decoded arrays: made once, whole or not at all, never wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from brsweep.data.array_cache import ARRAYS, ArrayCache, ArrayWriter

ROOT = Path(__file__).parents[1]
CONTENT = {
    "train_images": np.arange(54, dtype=np.uint8).reshape(6, 3, 3, 1),
    "train_labels": np.array([0, 0, 0, 1, 1, 1]),
    "test_images": np.arange(18, dtype=np.uint8).reshape(2, 3, 3, 1),
    "test_labels": np.array([0, 1]),
}


def build(writer: ArrayWriter) -> tuple[str, ...]:
    for name, array in CONTENT.items():
        writer.write(name, array.shape, [array[:1], array[1:]])
    return ("cat", "dog")


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "cache" / "key"


def cache(folder: Path) -> ArrayCache:
    return ArrayCache(folder, build, "data.cache_dir")


def test_what_was_written_comes_back_mapped_and_read_only(folder):
    images = cache(folder).load()
    for name, array in CONTENT.items():
        found = getattr(images, name)
        assert np.array_equal(found, array) and isinstance(found, np.memmap) and not found.flags.writeable
    assert images.classes == ("cat", "dog")
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*(f"{name}.npy" for name in ARRAYS), "manifest.json"]
    )


def test_a_writer_that_announces_other_rows_publishes_nothing(folder):
    def short(writer):
        writer.write("train_images", (7, 3, 3, 1), [CONTENT["train_images"]])

    with pytest.raises(TypeError, match="6 rows written, 7 announced"):
        ArrayCache(folder, short, "data.cache_dir").prepare()
    assert [path.name for path in folder.parent.iterdir()] == ["key.lock"]


def _flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)


HARMS = {
    "deleted": lambda path: path.unlink(),
    "emptied": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-8]),
    "one bit": _flip_bit,
    "header": lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\xff" + path.read_bytes()[9:]),
    "garbage": lambda path: path.write_bytes(os.urandom(100)),
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("file", ["manifest.json", *(f"{name}.npy" for name in ARRAYS)])
def test_damage_is_made_good_with_a_warning(folder, file, harm):
    cache(folder).prepare()
    manifest = cache(folder).manifest()
    HARMS[harm](folder / file)
    again = cache(folder)
    with pytest.warns(UserWarning, match=f"damaged image cache, decoded again: .*{file}") as caught:
        again.prepare()
        images = again.load()
    assert len(caught) == 1
    assert all(np.array_equal(getattr(images, name), array) for name, array in CONTENT.items())
    assert again.manifest() == manifest
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache(folder).load()
    assert sorted(path.name for path in folder.parent.iterdir()) == ["key", "key.lock"]


def test_an_array_that_is_whole_and_another_is_noticed(folder):
    cache(folder).prepare()
    np.save(folder / "train_images.npy", CONTENT["train_images"][::-1])
    with pytest.warns(UserWarning, match=r"train_images.npy: does not match its sha256"):
        assert np.array_equal(cache(folder).load().train_images, CONTENT["train_images"])


def test_a_class_name_changed_by_hand_is_noticed(folder):
    cache(folder).prepare()
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace("cat", "cow"))
    with pytest.warns(UserWarning, match=r"manifest.json: does not match its own sha256"):
        assert cache(folder).load().classes == ("cat", "dog")


def test_an_array_of_another_type_is_noticed_before_it_is_read(folder):
    cache(folder).prepare()
    np.save(folder / "test_labels.npy", CONTENT["test_labels"].astype(np.int32))
    with pytest.warns(UserWarning, match=r"test_labels.npy: int32 \(2,\) is not what the manifest says"):
        cache(folder).prepare()


def test_arrays_in_use_outlive_their_repair(folder):
    images = cache(folder).load()
    (folder / "manifest.json").unlink()
    with pytest.warns(UserWarning):
        cache(folder).prepare()
    assert np.array_equal(images.train_images, CONTENT["train_images"])


def test_a_whole_folder_needs_no_lock_and_is_checked_once(folder, monkeypatch):
    cache(folder).prepare()
    monkeypatch.setattr(ArrayCache, "_locked", None)  # a folder that may only be read has no lock to take
    reader = cache(folder)
    reader.prepare()
    images = reader.load()
    monkeypatch.setattr(ArrayCache, "_read", None)
    assert reader.load() is images


SLOW = """
import sys, time
from pathlib import Path
from test_data_cache import ArrayCache, build
def slowly(writer):
    with open(sys.argv[2], "a") as log: log.write("built\\n")
    time.sleep(float(sys.argv[3]))
    return build(writer)
print(ArrayCache(Path(sys.argv[1]), slowly, "data.cache_dir").load().train_labels.tolist())
"""
ANSWER = ("[0, 0, 0, 1, 1, 1]\n", "")


def start(folder: Path, log: Path, seconds: float) -> subprocess.Popen:
    arguments = [sys.executable, "-c", SLOW, str(folder), str(log), str(seconds)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_processes_at_once_make_it_once(folder, tmp_path):
    log = tmp_path / "log"
    running = [start(folder, log, 0.5) for _ in range(3)]
    assert [process.communicate(timeout=300) for process in running] == [ANSWER] * 3
    assert log.read_text() == "built\n"


def test_a_killed_maker_leaves_nothing_in_the_way(folder, tmp_path):
    log = tmp_path / "log"
    killed = start(folder, log, 600)
    deadline = time.monotonic() + 120
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=300)
    assert folder.with_name("key.partial").is_dir() and not folder.exists()
    assert start(folder, log, 0).communicate(timeout=300) == ANSWER
    assert sorted(path.name for path in folder.parent.iterdir()) == ["key", "key.lock"]
