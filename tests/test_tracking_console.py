"""The console: its exact lines and its log file."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from epoch_records import LINE, RECORD

from brsweep.tracking.console import Console, epoch_line

FLOAT_LINE = "Epoch 31/100 [FLOAT] (LR=0.004987): Train Acc=92.34%, Val Acc=91.20%, Test Acc=90.45%, 1.2 s"


def test_the_line_of_an_epoch_has_exactly_this_form():
    assert epoch_line(RECORD) == LINE


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"val_accuracy": None}, LINE.replace(", Val Acc=91.20%", "")),
        ({"shared": True}, LINE + " (shared)"),
        ({"stage": "warmup"}, LINE.replace("[BR]", "[WARMUP]")),
        ({"stage": "float"}, LINE.replace("[BR]", "[FLOAT]")),
        ({"penalty_weight": 0.0}, LINE.replace("BR_W=0.012345", "BR_W=0.000000")),
        ({"penalty_act": None}, LINE.replace(", BR_A=0.023456", "")),
        ({"stage": "float", "penalty_weight": 0.0, "penalty_act": None}, FLOAT_LINE),
        ({"penalty_act": float("nan")}, LINE.replace("0.023456", "nan")),
        ({"lr": 1e-7, "time_s": 3600.04}, LINE.replace("LR=0.004987", "LR=0.000000").replace("1.2 s", "3600.0 s")),
        ({"train_accuracy": 1.0, "test_accuracy": 0.0}, LINE.replace("92.34%", "100.00%").replace("90.45%", "0.00%")),
    ],
)  # fmt: skip
def test_what_an_epoch_lacks_is_left_out(change, expected):
    assert epoch_line(RECORD | change) == expected


def talk(console):
    console.say("start [bold]")
    console.warn("no GPU")
    console.banner("alpha is frozen")
    with console.progress("epoch 1", total=3) as bar:
        for _ in range(3):
            bar.advance()
        console.epoch(RECORD)


PLAIN = f"start [bold]\nwarning: no GPU\nalpha is frozen\n{LINE}\n"


def test_without_a_terminal_there_are_plain_lines_and_the_log_has_the_same(tmp_path, capsys):
    (tmp_path / "console.log").write_text("of the first start\n")
    console = Console(tmp_path / "console.log")
    talk(console)
    console.close()
    console.say("to stdout alone")
    assert capsys.readouterr() == (PLAIN + "to stdout alone\n", "")
    assert (tmp_path / "console.log").read_text() == "of the first start\n" + PLAIN


def test_each_line_is_on_file_when_it_is_said(tmp_path):
    console = Console(tmp_path / "console.log")
    for count in (1, 2):
        console.say("line")
        assert (tmp_path / "console.log").read_text() == "line\n" * count
    console.close()


def test_without_a_terminal_rich_is_not_imported():
    code = """
import sys; from brsweep.tracking.console import Console
with Console(None).progress("epoch", 2) as bar: bar.advance()
print("rich" in sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_log_file_that_cannot_be_written_is_told_of_once(tmp_path, capsys):
    (tmp_path / "console.log").symlink_to("/dev/full")
    console = Console(tmp_path / "console.log")
    console.say("one")
    console.say("two")
    console.close()
    assert capsys.readouterr().out == (
        f"warning: {tmp_path / 'console.log'}: no longer written (No space left on device)\none\ntwo\n"
    )
    Console(tmp_path / "none" / "console.log").say("three")
    assert capsys.readouterr().out == (
        f"warning: {tmp_path / 'none' / 'console.log'}: no longer written (No such file or directory)\nthree\n"
    )


def test_a_terminal_that_cannot_show_a_character_shows_its_code(tmp_path):
    code = "from brsweep.tracking.console import Console; Console(None).say('\\u03b1 = 1')"
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=True)
    assert done.stdout == b"\\u03b1 = 1\n"
