"""Commands whose output nobody reads to its end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT

from benchmarks.synthetic_sweep import write_run
from brsweep.output import CLOSED, reader_may_leave

COMMANDS = ("sweep", "sweep.cleanup", "sweep.sync", "report", "export", "tracking.workspace", "train", "search")


def run(*words: str, **options) -> tuple[int, str]:
    """The exit code of `python -m brsweep.<words>`, and what it said on standard error."""
    command = [sys.executable, "-m", f"brsweep.{words[0]}", *words[1:]]
    env = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}  # argparse hides its failures
    options |= {"stderr": subprocess.PIPE, "text": True, "cwd": ROOT, "env": env, "check": False, "timeout": 120}
    done = subprocess.run(command, **options)
    return done.returncode, done.stderr


@pytest.fixture
def unread():
    """A pipe whose reader has left."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_reader_that_left_costs_no_traceback(name, unread):
    assert run(name, "--help", stdout=unread) == (CLOSED, "")


def test_a_table_that_nobody_reads(unread, tmp_path: Path):
    write_run(tmp_path / "s", {})
    assert run("sweep", str(tmp_path / "s"), stdout=unread) == (CLOSED, "")


def test_another_pipe_that_breaks_is_no_reader_that_left():
    with pytest.raises(BrokenPipeError), reader_may_leave():
        raise BrokenPipeError("a worker's")


def test_an_error_is_said_all_the_same(unread, tmp_path: Path):
    code, said = run("sweep", str(tmp_path / "none"), stdout=unread)
    assert code == 1 and said.startswith("error: ") and said.count("\n") == 1


def test_without_any_output(tmp_path: Path):
    write_run(tmp_path / "s", {})
    assert run("sweep", str(tmp_path / "s"), preexec_fn=lambda: os.close(1)) == (0, "")
