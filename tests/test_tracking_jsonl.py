"""metrics.jsonl and its kind: what is on file after each call, after a crash, and on a full disk."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsweep.errors import BrsweepError
from brsweep.tracking.jsonl import HUGE, JsonLines, read

FLOATS = st.floats(-HUGE, HUGE, exclude_min=True, exclude_max=True)
SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | FLOATS
RECORDS = st.lists(st.dictionaries(st.text(max_size=8), SCALARS | st.text(max_size=8) | st.lists(SCALARS, max_size=3)))


@pytest.fixture
def lines(tmp_path):
    file = JsonLines(tmp_path / "metrics.jsonl")
    yield file
    file.close()


@settings(max_examples=50, deadline=None)  # each example waits for the disk twice
@given(RECORDS, st.integers(0, 10))
def test_what_is_appended_or_replaced_is_read_back_to_the_bit(records, kept):
    with tempfile.TemporaryDirectory() as folder:
        file = JsonLines(Path(folder) / "metrics.jsonl")
        for record in records:
            file.append(record)
        assert read(file.path) == records
        file.replace(records[:kept])
        file.append({"after": 1})
        file.close()
        assert read(file.path) == [*records[:kept], {"after": 1}]
        assert os.listdir(folder) == ["metrics.jsonl"]


def test_one_compact_line_per_record_is_on_file_when_append_returns(lines):
    lines.append({"epoch": 1, "acc": 0.5, "val": None, "shared": False})
    lines.append({"epoch": 2, "name": "é\n"})
    expected = b'{"epoch":1,"acc":0.5,"val":null,"shared":false}\n{"epoch":2,"name":"\\u00e9\\n"}\n'
    assert lines.path.read_bytes() == expected


def test_nan_and_infinity_are_null_at_any_depth(lines):
    lines.append({"loss": float("nan"), "layers": [1.0, float("inf"), {"a": (float("-inf"), 2)}]})
    assert lines.path.read_text() == '{"loss":null,"layers":[1.0,null,{"a":[null,2]}]}\n'


@pytest.mark.parametrize("cut", range(1, len('{"epoch":2}')))
def test_a_cut_last_line_is_left_out_and_cut_off_before_the_next(tmp_path, cut):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"epoch":1}\n' + b'{"epoch":2}'[:cut])
    assert read(path) == [{"epoch": 1}]
    file = JsonLines(path)
    file.append({"epoch": 3})
    file.close()
    assert path.read_bytes() == b'{"epoch":1}\n{"epoch":3}\n'


def test_a_whole_last_line_without_its_end_is_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"epoch":1}\n{"epoch":2}')
    assert read(path) == [{"epoch": 1}, {"epoch": 2}]
    file = JsonLines(path)
    file.append({"epoch": 3})
    file.close()
    assert read(path) == [{"epoch": 1}, {"epoch": 2}, {"epoch": 3}]


@pytest.mark.parametrize("damage", [b'{"epoch":', b"\0\0\0", b"\xff", b"[1]", b"3", b""])
def test_damage_that_is_no_cut_end_names_the_file_and_the_line(tmp_path, damage):
    path = tmp_path / "metrics.jsonl"
    for after in (b"", b'{"epoch":3}\n'):
        path.write_bytes(b'{"epoch":1}\n' + damage + b"\n" + after)
        with pytest.raises(BrsweepError, match=re.escape(f"{path}, line 2: not a JSON object")):
            read(path)


def test_a_missing_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(BrsweepError, match=re.escape(f"{tmp_path / 'none.jsonl'}: cannot read it (No such file")):
        read(tmp_path / "none.jsonl")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.symlink_to("/dev/full")
    file = JsonLines(path)
    with pytest.raises(BrsweepError) as caught:
        file.append({"epoch": 1})
    file.close()
    assert str(caught.value).startswith(f"{path}: cannot write it (No space left on device); ")
    assert "\n" not in str(caught.value)


FILLS_ITS_DISK = """
import json, resource, signal, sys
from pathlib import Path
from brsweep.errors import BrsweepError
from brsweep.tracking.jsonl import JsonLines
path = Path(sys.argv[1])
file = JsonLines(path)
file.append({"epoch": 1})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
errors = 0
for change in (lambda: file.append({"epoch": 2}), lambda: file.replace([{"epoch": 7, "long": "x" * 99}])):
    try:
        change()
    except BrsweepError as error:
        errors += str(error).startswith(f"{path}: cannot write it (")
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
file.append({"epoch": 3})
print(errors)
"""


def test_a_line_that_did_not_fit_leaves_no_rest_and_spoils_nothing(tmp_path):
    """The limit of 20 bytes lets 8 bytes of the second line through, as a disk that fills up does."""
    path = tmp_path / "metrics.jsonl"
    done = subprocess.run([sys.executable, "-c", FILLS_ITS_DISK, path], capture_output=True, text=True, check=True)
    assert done.stdout == "2\n"
    assert path.read_text() == '{"epoch":1}\n{"epoch":3}\n'
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_a_failed_replacement_leaves_the_old_content_and_no_other_file(lines, monkeypatch):
    lines.append({"epoch": 1})

    def fail(*_):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(BrsweepError, match="Input/output error"):
            lines.replace([])
    lines.append({"epoch": 2})
    assert read(lines.path) == [{"epoch": 1}, {"epoch": 2}]
    assert os.listdir(lines.path.parent) == ["metrics.jsonl"]


def test_lines_survive_kill_9(tmp_path):
    path = tmp_path / "metrics.jsonl"
    code = (
        "import os, sys; from brsweep.tracking.jsonl import JsonLines; f = JsonLines(sys.argv[1]);"
        "[f.append({'epoch': e}) for e in range(50)]; os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, path]).returncode == -9
    assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == list(range(50))
