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
from cat_arrays import CONTENT, SOURCE, build

from brsweep.data.array_cache import ARRAYS, ArrayCache
from brsweep.errors import BrsweepError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "cache" / "key"


def cache(folder: Path) -> ArrayCache:
    return ArrayCache(folder, SOURCE, build, "data.cache_dir")


def test_what_was_written_comes_back_mapped_and_read_only(folder):
    images = cache(folder).load()
    for name, array in CONTENT.items():
        found = getattr(images, name)
        assert np.array_equal(found, array) and isinstance(found, np.memmap) and not found.flags.writeable
    assert images.classes == ("cat", "dog")
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*(f"{name}.npy" for name in ARRAYS), "contents.json"]
    )


def test_a_writer_that_announces_other_rows_publishes_nothing(folder):
    def short(writer):
        writer.write("train_images", (7, 3, 3, 1), [CONTENT["train_images"]])

    with pytest.raises(TypeError, match="6 rows written, 7 announced"):
        ArrayCache(folder, SOURCE, short, "data.cache_dir").prepare()
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
@pytest.mark.parametrize("file", ["contents.json", *(f"{name}.npy" for name in ARRAYS)])
def test_damage_is_made_good_with_a_warning(folder, file, harm):
    cache(folder).prepare()
    contents = cache(folder).contents()
    HARMS[harm](folder / file)
    again = cache(folder)
    with pytest.warns(UserWarning, match=f"damaged image cache, decoded again: .*{file}") as caught:
        again.prepare()
        images = again.load()
    assert len(caught) == 1
    assert all(np.array_equal(getattr(images, name), array) for name, array in CONTENT.items())
    assert again.contents() == contents
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
    contents = folder / "contents.json"
    contents.write_text(contents.read_text().replace('"cat"', '"cow"'))
    with pytest.warns(UserWarning, match=r"contents.json: does not match its own sha256"):
        assert cache(folder).load().classes == ("cat", "dog")


def test_an_array_of_another_type_is_noticed_before_it_is_read(folder):
    cache(folder).prepare()
    np.save(folder / "test_labels.npy", CONTENT["test_labels"].astype(np.int32))
    with pytest.warns(UserWarning, match=r"test_labels.npy: int32 \(2,\) is not what the contents say"):
        cache(folder).prepare()


@pytest.mark.parametrize("source", ["dogs-1", "cats-2", ""])
def test_a_folder_of_another_source_or_version_is_not_taken(folder, source):
    """Whole, by its own sums, and not what was asked for."""
    ArrayCache(folder, source, build, "data.cache_dir").prepare()
    other = folder.with_name("other")
    folder.rename(other)
    negative = {name: array[::-1] if "images" in name else array for name, array in CONTENT.items()}

    def build_other(writer):
        for name, array in negative.items():
            writer.write(name, array.shape, [np.ascontiguousarray(array)])
        return ("cat", "dog")

    other.rename(folder)
    ours = ArrayCache(folder, SOURCE, build_other, "data.cache_dir")
    with pytest.raises(BrsweepError, match="decoded from"):
        ours.contents()
    with pytest.warns(UserWarning, match=rf"decoded again: .*contents.json: decoded from {source}, not from cats-1"):
        images = ours.load()
    assert np.array_equal(images.train_images, negative["train_images"]) and ours.contents().source == SOURCE


def test_a_folder_made_by_hand_is_not_taken(folder):
    folder.mkdir(parents=True)
    for name, array in CONTENT.items():
        np.save(folder / f"{name}.npy", array * 0)
    (folder / "contents.json").write_text('{"sha256": "", "classes": ["cat", "dog"], "arrays": {}}')
    with pytest.warns(UserWarning, match="decoded again"):
        assert np.array_equal(cache(folder).load().train_images, CONTENT["train_images"])


def test_sound_arrays_that_make_no_data_set_are_not_taken(folder):
    def wrong(writer):
        for name, array in CONTENT.items():
            writer.write(name, array.shape, [array + 5 if name == "train_labels" else array])
        return ("cat", "dog")

    with pytest.raises(BrsweepError, match="train labels run from 5 to 6"):
        ArrayCache(folder, SOURCE, wrong, "data.cache_dir").prepare()
    with pytest.warns(UserWarning, match="decoded again: .*train labels run from 5 to 6"):
        assert cache(folder).load().classes == ("cat", "dog")


@pytest.mark.parametrize("nested", [False, True])
def test_a_folder_with_other_files_is_left_as_it_is(folder, nested):
    folder.mkdir(parents=True)
    holder = folder / "photos"
    (holder / "x").mkdir(parents=True) if nested else holder.write_text("mine")
    with (
        pytest.warns(UserWarning, match="damaged image cache"),
        pytest.raises(
            BrsweepError, match=r"key: the decoded images belong here, and it holds photos; move that folder"
        ),
    ):
        cache(folder).prepare()
    assert holder.exists() and sorted(path.name for path in folder.parent.iterdir()) == ["key", "key.lock"]


def test_a_link_is_replaced_and_not_followed(folder, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "contents.json").write_text("{}")
    folder.parent.mkdir()
    folder.symlink_to(tmp_path / "mine")
    with pytest.warns(UserWarning, match="damaged image cache"):
        cache(folder).prepare()
    assert (tmp_path / "mine" / "contents.json").read_text() == "{}" and not folder.is_symlink()
    assert sorted(path.name for path in folder.parent.iterdir()) == ["key", "key.lock"]


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "null", "[]", '{"arrays": 3}', '{"arrays": {"train_images": 1}}', "\0"]
)
def test_contents_of_any_shape_are_noticed(folder, text):
    cache(folder).prepare()
    (folder / "contents.json").write_text(text)
    with pytest.warns(UserWarning, match="decoded again: .*contents.json"):
        cache(folder).prepare()


def test_arrays_in_use_outlive_their_repair(folder):
    images = cache(folder).load()
    (folder / "contents.json").unlink()
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
from brsweep.data.array_cache import ArrayCache
from cat_arrays import SOURCE, build
def slowly(writer):
    with open(sys.argv[2], "a") as log: log.write("built\\n")
    time.sleep(float(sys.argv[3]))
    return build(writer)
print(ArrayCache(Path(sys.argv[1]), SOURCE, slowly, "data.cache_dir").load().train_labels.tolist())
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
