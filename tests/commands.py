"""The command, called in this process as a shell would: arguments in; exit code, standard output and error out."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from process_settings import kept

ROOT = Path(__file__).resolve().parents[1]
TINY = (
    "model=tiny", "data=synthetic", "logger=none", "threads=1", "device=cpu",
    "schedule.float_epochs=1", "schedule.warmup_epochs=1", "schedule.qat_epochs=2",
)  # fmt: skip
WITHOUT = "import sys; sys.argv[1:] = {arguments!r}; import runpy\n" + (
    "try: runpy.run_module('brsweep.train', run_name='__main__')\n"
    "except SystemExit as end: code = end.code or 0\n"
    "else: code = 0\n"
    "print('HEAVY', [m for m in {heavy!r} if m in sys.modules])\n"
    "sys.exit(code)"
)
"""A program: the command, which then says what heavy modules it loaded. To be formatted with `arguments`, `heavy`."""


class Answer(NamedTuple):
    code: int
    out: str
    err: str


def call(monkeypatch, capsys, *arguments: str, module: str = "train") -> Answer:
    """In this process; module: of brsweep, with a `main`. What a run sets for its process is put back."""
    from hydra.core.global_hydra import GlobalHydra

    main = import_module(f"brsweep.{module}").main
    monkeypatch.setattr(sys, "argv", ["brsweep-train", *arguments])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    capsys.readouterr()
    code = 0
    with kept():
        GlobalHydra.instance().clear()
        try:
            main()
        except SystemExit as end:
            code = end.code
    return Answer(code, *capsys.readouterr())


def shell(folder: Path, *arguments: str, program: tuple[str, ...] = ("-m", "brsweep.train"), **env: str) -> Answer:
    """In a process of its own, in `folder`."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    done = subprocess.run(
        [sys.executable, *program, *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=600
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def check_refused(answer: Answer, folder: Path, says: str) -> None:
    """One line that says so, and nothing in the folder in which the command was given."""
    lines = answer.err.splitlines()
    assert len(lines) == 1, answer.err
    assert lines[0].startswith("error: ")
    assert says in lines[0]
    assert answer.code == 1
    assert answer.out == ""
    assert list(folder.iterdir()) == [], "a refused command leaves nothing behind"
