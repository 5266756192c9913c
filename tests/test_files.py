"""Whole files: what is there after a write, a failed one, a killed one, several at once; what is refused when read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsweep.files import read_file, replace_file, replacing


@settings(max_examples=20, deadline=None)
@given(st.lists(st.binary(max_size=64) | st.text(max_size=64), min_size=1, max_size=4))
def test_the_last_content_is_there_to_the_byte_and_no_other_file(contents):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a name.json"
        for content in contents:
            replace_file(path, content)
        expected = contents[-1].encode() if isinstance(contents[-1], str) else contents[-1]
        assert (path.read_bytes(), os.listdir(folder)) == (expected, [path.name])


@pytest.mark.parametrize("error", [OSError(28, "full"), RuntimeError("odd"), KeyboardInterrupt()])
@pytest.mark.parametrize("when", ["write", "fsync", "replace"])
def test_an_error_leaves_the_old_content_and_no_rest(tmp_path, monkeypatch, when, error):
    path = tmp_path / "file"
    replace_file(path, b"old")

    def fail(*_):
        raise error

    with monkeypatch.context() as patch, pytest.raises(type(error)), replacing(path) as file:
        file.write(b"new")
        if when == "write":
            raise error
        patch.setattr(os, when, fail)
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"old", ["file"])


def test_what_a_killed_process_left_is_used_up_by_the_next_writer(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from brsweep.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as file: file.write(b'x' * 99999); file.flush(); os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "file"
    replace_file(path, b"old")
    for _ in range(3):
        assert subprocess.run([sys.executable, "-c", code, path]).returncode == -signal.SIGKILL
        assert path.read_bytes() == b"old"
        assert len(os.listdir(tmp_path)) == 2
    replace_file(path, b"new")
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"new", ["file"])


def test_several_writers_of_one_file_take_turns(tmp_path):
    code = """
import sys; from pathlib import Path; from brsweep.files import replace_file
for n in range(100): replace_file(Path(sys.argv[1]), sys.argv[2] * (10_000 + n))
"""
    path = tmp_path / "file"
    writers = [subprocess.Popen([sys.executable, "-c", code, path, letter]) for letter in "abcd"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            content = path.read_text()
            assert len(set(content)) == 1 and 10_000 <= len(content) < 10_100
            seen.add(content[0])
    assert [writer.returncode for writer in writers] == [0] * 4
    assert seen and os.listdir(tmp_path) == ["file"]


def test_a_link_in_the_parts_place_is_not_followed(tmp_path):
    (tmp_path / "foreign").write_bytes(b"precious")
    (tmp_path / ".file.part").symlink_to(tmp_path / "foreign")
    with pytest.raises(OSError):
        replace_file(tmp_path / "file", b"new")
    assert (tmp_path / "foreign").read_bytes() == b"precious"


def test_only_a_regular_file_within_its_bound_is_read(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345678")
    assert read_file(path, 8) == b"12345678"
    with pytest.raises(OSError, match="Larger than 0 MiB"):
        read_file(path, 7)
    os.mkfifo(tmp_path / "pipe")
    for other in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match=r"Not a regular file|Is a directory"):
            read_file(other, 8)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "none", 8)
