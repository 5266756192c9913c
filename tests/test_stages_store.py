"""The store of finished stages: whole or not there, checked before use, one trainer at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from brsweep.errors import BrsweepError
from brsweep.stages.store import CUDA, ENTRY, STATE, Store, os_lock, stores

ROOT = Path(__file__).parents[1]
HOLD = "import sys; from pathlib import Path; from brsweep.stages.store import os_lock\n"


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def publish(store: Store, content: bytes = b"weights" * 100, signature: str = "abc") -> Path:
    partial = store.partial(signature)
    partial.mkdir(parents=True, exist_ok=True)
    (partial / STATE).write_bytes(content)
    return store.publish(signature, {"stage": "float", "trained_by": "default/one"})


def test_what_is_published_is_found(store):
    assert store.find("abc") is None
    path = publish(store)
    assert store.find("abc") == path and path.read_bytes() == b"weights" * 100
    assert store.entry("abc")["trained_by"] == "default/one" and store.entry("abc")["bytes"] == 700
    assert store.find("abd") is None and not store.partial("abc").exists()


def test_a_partial_folder_is_no_entry(store):
    store.partial("abc").mkdir(parents=True)
    (store.partial("abc") / STATE).write_bytes(b"weights")
    assert store.find("abc") is None
    (store.partial("abc") / ENTRY).write_text("{}")
    assert store.find("abc") is None


def flip(folder: Path) -> None:
    content = bytearray((folder / STATE).read_bytes())
    content[350] ^= 1
    (folder / STATE).write_bytes(content)


def cut(name: str):
    def damage(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:-5])

    return damage


def remove(name: str):
    return lambda folder: (folder / name).unlink()


def write(text: str):
    return lambda folder: (folder / ENTRY).write_text(text)


@pytest.mark.parametrize(
    "damage",
    [flip, cut(STATE), remove(STATE), cut(ENTRY), remove(ENTRY), write("[]"), write("{}"), write('{"sha256": null}')],
)
def test_damage_is_noticed_and_set_aside(store, damage):
    folder = publish(store).parent
    damage(folder)
    with pytest.warns(UserWarning, match="damaged .*trained again") as warned:
        assert store.find("abc") is None
    assert len(warned) == 1 and "\n" not in str(warned[0].message)
    assert store.find("abc") is None  # without a second warning: warnings are errors here
    assert publish(store, b"anew") == store.find("abc")


def test_an_entry_names_only_its_own_content(store):
    """Two entries' states exchanged: both are damage."""
    one, two = publish(store, b"one", "1"), publish(store, b"two", "2")
    one.write_bytes(b"two")
    two.write_bytes(b"one")
    for signature in ("1", "2"):
        with pytest.warns(UserWarning, match="does not match its hash"):
            assert store.find(signature) is None


def test_publishing_over_an_entry_replaces_it(store):
    publish(store, b"old")
    assert publish(store, b"new").read_bytes() == b"new"
    assert store.find("abc") is not None


def test_publish_writes_nothing_into_place_before_the_move(store, monkeypatch):
    monkeypatch.setattr(os, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        publish(store)
    assert not (store.root / "abc").exists() and store.find("abc") is None


def holder(path: Path) -> subprocess.Popen:
    """A process that holds the lock until its input ends."""
    code = HOLD + f"with os_lock(Path({str(path)!r}), None):\n    print('held', flush=True)\n    sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_waits(store):
    with holder(store.root / "locks" / "abc") as other:
        calls = []

        def waiting() -> None:
            calls.append(other.poll())
            other.stdin.close()

        with store.lock("abc", waiting):
            assert calls == [None]
        assert other.wait() == 0
    with store.lock("abc", pytest.fail):
        pass


def test_another_stage_is_not_held(store):
    with holder(store.root / "locks" / "abc"), store.lock("abd", pytest.fail):
        pass


def test_a_lock_dies_with_its_process(tmp_path):
    with holder(tmp_path / "lock") as other:
        with pytest.raises(BlockingIOError), os_lock(tmp_path / "lock"):
            pytest.fail("two processes hold one lock")
        other.kill()
    with os_lock(tmp_path / "lock"):
        pass


def test_a_lock_whose_file_its_holder_removes_is_still_held_by_one_alone(tmp_path):
    with holder(tmp_path / "lock") as other:

        def waiting() -> None:
            (tmp_path / "lock").unlink()
            other.stdin.close()

        with os_lock(tmp_path / "lock", waiting), pytest.raises(BlockingIOError), os_lock(tmp_path / "lock"):
            pytest.fail("two hold one lock")


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "store")
    with pytest.raises(BrsweepError, match=r"can't be written.*choose another folder") as raised, store.lock("abc"):
        pass
    assert "\n" not in str(raised.value)


def test_the_entry_says_what_it_is(store):
    folder = publish(store).parent
    entry = json.loads((folder / ENTRY).read_text())
    assert entry["stage"] == "float" and set(entry) == {"stage", "trained_by", "signature", "device", "sha256", "bytes"}


@pytest.mark.parametrize("call", ["rename", "fsync"])
def test_a_full_disk_is_one_line_and_the_entry_is_not_there(store, monkeypatch, call):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(BrsweepError, match=r"abc: can't be written \(No space left on device\); make room") as raised:
        publish(store)
    assert "\n" not in str(raised.value) and not (store.root / "abc").exists()
    monkeypatch.undo()
    assert publish(store)


def test_a_marker_that_cannot_be_written_is_one_line(store, monkeypatch):
    store.root.mkdir(parents=True)
    (store.root / ".brsweep-store").symlink_to(store.root / "no" / "such")
    with pytest.raises(BrsweepError, match="can't be written") as raised, store.lock("abc"):
        pytest.fail("a store without its marker")
    assert "\n" not in str(raised.value)


# --- types of devices ------------------------------------------------------------------------------------------------


def test_what_one_type_of_device_trained_is_none_of_the_others(tmp_path):
    """Side by side, each found by its own; the one who plans asks for both where the device is not known yet."""
    cpu, cuda = Store(tmp_path / "store"), Store(tmp_path / "store", CUDA)
    publish(cpu, b"by the processor")
    assert cuda.find("abc") is None and cuda.elsewhere("abc") and not cpu.elsewhere("abc")
    publish(cuda, b"by the card")
    assert cpu.find("abc").read_bytes() == b"by the processor" and cuda.find("abc").read_bytes() == b"by the card"
    assert [cpu.entry("abc")["device"], cuda.entry("abc")["device"]] == ["cpu", "cuda"]
    with cuda.lock("abc"), cpu.lock("abc", pytest.fail):
        assert cuda.in_training("abc")


def test_an_entry_under_the_name_of_another_device_is_damage(tmp_path):
    cpu, cuda = Store(tmp_path / "store"), Store(tmp_path / "store", CUDA)
    publish(cuda).parent.rename(cpu.root / "abc")
    with pytest.warns(UserWarning, match=r"damaged \(it is the stage abc of cuda\)"):
        assert cpu.find("abc") is None


@pytest.mark.parametrize(
    ("name", "devices"), [("auto", ["cpu", "cuda"]), ("cpu", ["cpu"]), ("cuda", ["cuda"]), ("cuda:3", ["cuda"])]
)
def test_where_the_stages_of_a_run_may_lie(name, devices, tmp_path):
    found = stores({"device": name, "store_dir": str(tmp_path)})
    assert [store.device for store in found] == devices and {store.root for store in found} == {tmp_path}


def test_folders_of_every_device_are_the_stores(tmp_path):
    """Clean-up sees them all, and takes nothing else for one of them."""
    signature = "0123456789abcdef"
    cuda = Store(tmp_path / "store", CUDA)
    publish(cuda, signature=signature)
    with cuda.lock(signature):
        for name in (f"{signature}-cuda.partial", f"{signature}-mine", f"{signature}-"):
            (cuda.root / name).mkdir()
        assert [path.name for path in Store(cuda.root).folders()] == [f"{signature}-cuda", f"{signature}-cuda.partial"]
        assert not Store(cuda.root).remove(cuda.root / f"{signature}-cuda")  # a process is at it
    assert Store(cuda.root).remove(cuda.root / f"{signature}-cuda") and cuda.find(signature) is None
