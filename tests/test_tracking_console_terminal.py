"""The console on a terminal, played by a pty, and readers that go away."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import statistics
import struct
import subprocess
import sys
import termios
import time

from epoch_records import LINE, RECORD

from brsweep.tracking.console import Console

TALK = f"""
import sys, time
from pathlib import Path
from brsweep.tracking.console import Console
c = Console(Path(sys.argv[1])); c.say("start [bold]"); c.warn("no GPU"); c.banner("alpha is frozen")
with c.progress("a description that is far too long for a terminal of forty columns", total=4) as bar:
    bar.advance(); time.sleep(0.3); bar.advance(2)
    c.say("x" * 100)
c.epoch({RECORD!r})
"""


def on_terminal(tmp_path, columns=40, **environment):
    """All that TALK writes to a terminal of that width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES", "FORCE_COLOR")}
    command = [sys.executable, "-c", TALK, tmp_path / "console.log"]
    with subprocess.Popen(command, stdout=theirs, stdin=theirs, env=kept | {"TERM": "xterm"} | environment) as process:
        os.close(theirs)
        written = b""
        with contextlib.suppress(OSError):  # EIO: the other side is closed
            while chunk := os.read(ours, 65536):
                written += chunk
    os.close(ours)
    assert process.returncode == 0
    return written.decode()


COLOUR = re.compile(r"\x1b\[[0-9;]*m")
SAID = f"start [bold]\nwarning: no GPU\nalpha is frozen\n{'x' * 100}\n{LINE}\n"


def visible(written, columns):
    """What stands on a terminal in the end, its lines whole: carriage return, cursor up and erase line are obeyed."""
    lines, row, column = [""], 0, 0
    for part in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)", COLOUR.sub("", written)):
        if part == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif part == "\r":
            column = 0
        elif part == "\x1b[2K":
            lines[row] = ""
        elif re.fullmatch(r"\x1b\[\d*A", part):
            row -= int(part[2:-1] or 1)
        elif not part.startswith("\x1b"):
            lines[row] = lines[row][:column] + part + lines[row][column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines]


def test_on_a_terminal_the_bar_runs_fits_and_goes_and_every_line_stays(tmp_path):
    written = on_terminal(tmp_path)
    frames = [COLOUR.sub("", frame) for frame in re.findall(r"[^\r\n]*\d/4[^\r\n]*", written)]
    frames = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frame) for frame in frames]
    assert {re.search(r"\d/4", frame).group() for frame in frames} == {"0/4", "3/4"}
    assert max(len(frame.rstrip()) for frame in frames) <= 40
    assert "\x1b[33mwarning: no GPU\x1b[0m" in written
    rule = "─" * 40
    shown = visible(written, 40)
    assert shown[:5] == ["start [bold]", "warning: no GPU", rule, "alpha is frozen", rule]
    assert [line for line in shown[5:] if line] == ["x" * 100, LINE]
    assert (tmp_path / "console.log").read_text() == SAID


def test_no_color_takes_the_colour_and_a_dumb_terminal_the_bar(tmp_path):
    assert not COLOUR.search(on_terminal(tmp_path, NO_COLOR="1"))
    written = on_terminal(tmp_path, TERM="dumb", NO_COLOR="1")
    assert "\x1b" not in written
    assert "/4" not in written


def test_a_reader_that_goes_away_ends_nothing(tmp_path):
    code = (
        TALK + "\nfor i in range(9999): c.say(f'line {i}')\nprint('another part, not flushed'); sys.stderr.write('end')"
    )
    command = [sys.executable, "-c", code, tmp_path / "console.log"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "start [bold]\n"
        process.stdout.close()
        assert process.stderr.read() == "end"
    assert process.returncode == 0
    assert (tmp_path / "console.log").read_text().endswith("line 9998\n")


def test_a_terminal_that_goes_away_under_the_bar_ends_nothing(tmp_path):
    ours, theirs = pty.openpty()
    code = TALK.replace("bar.advance(); time", "print('up', file=sys.stderr, flush=True); sys.stdin.readline(); time")
    command = [sys.executable, "-c", code, tmp_path / "console.log"]
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, stdout=theirs, text=True, env=os.environ | {"TERM": "xterm"}, **pipes) as process:
        os.close(theirs)
        assert process.stderr.readline() == "up\n"
        os.close(ours)
        _, errors = process.communicate("go\n", timeout=20)
    assert (process.returncode, errors) == (0, "")
    assert (tmp_path / "console.log").read_text() == SAID


def test_advancing_the_bar_costs_less_than_50_us(monkeypatch):
    """Redraws included: the median of five rounds of 4,000 calls, about 0.1 us each and one redraw in 0.25 s."""
    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(theirs, "w") as terminal, contextlib.redirect_stdout(terminal):
        rounds = []
        with Console(None).progress("epoch", total=20_000) as bar:
            for _ in range(5):
                bar._next = 0.0  # one redraw in each round, however short it is
                started = time.perf_counter()
                for _ in range(4000):
                    bar.advance()
                rounds.append((time.perf_counter() - started) / 4000)
    os.close(ours)
    assert statistics.median(rounds) < 50e-6
