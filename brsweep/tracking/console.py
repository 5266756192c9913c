"""What a person reads: lines on stdout and, plain, in console.log; while an epoch runs, a progress bar on a terminal.

Colour, rules and the bar need a terminal; in a pipe or a log file there is a line and nothing else, and NO_COLOR takes
the colour alone. A line is never broken or cut here: terminals wrap, and files are searched. Keys and passwords in it
are hidden. Neither a reader that goes away (`| head`) nor a log file that cannot be written ends a training: the
console goes on without it.

The bar is rich's. By itself rich draws from a thread, leaves an empty line in pipes and on dumb terminals, and raises
when the terminal goes away: what stands around it here takes that from it.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from brsweep.secrets import masked
from brsweep.tracking.tracker import Record

YELLOW, BOLD, PLAIN = "\x1b[33m", "\x1b[1m", "\x1b[0m"


class Console:
    """Says lines on stdout, as it is at each call, and appends them to the file `log_path` (None: to no file)."""

    def __init__(self, log_path: Path | None) -> None:
        self._log_path, self._log, self._stdout_gone = log_path, None, False
        self._bar: TerminalBar | None = None
        if log_path is not None:
            with self._log_may_fail():
                self._log = open(log_path, "a", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115

    def say(self, line: str) -> None:
        self._both(line, line)

    def warn(self, line: str) -> None:
        text = f"warning: {line}"
        self._both(text, self._styled(text, YELLOW))

    def banner(self, line: str) -> None:
        """A line that marks a turn of the training, between two rules on a terminal."""
        rule = "─" * min(shutil.get_terminal_size().columns, 80)
        shown = f"{rule}\n{self._styled(line, BOLD)}\n{rule}" if _is_terminal() else line
        self._both(line, shown)

    def epoch(self, record: Record) -> None:
        """One line for an epoch's record, in the form of `epoch_line`."""
        self.say(epoch_line(record))

    @contextmanager
    def progress(self, description: str, total: int) -> Iterator[TerminalBar | NoBar]:
        """A bar of `total` steps on a terminal, gone at the end; `.advance(n=1)` moves it. Elsewhere it does nothing.

        It counts calls, so it never waits for a device.
        """
        if self._stdout_gone or not _is_terminal() or os.environ.get("TERM") == "dumb":
            yield NoBar()
            return
        bar = self._bar = TerminalBar(description, total, self._lose_stdout)
        try:
            yield bar
        finally:
            self._bar = None
            bar.hide()

    def close(self) -> None:
        """Close the log file; what is said afterwards goes to stdout alone."""
        if self._log is not None:
            with self._log_may_fail():
                self._log.close()
            self._log = None

    def _styled(self, text: str, style: str) -> str:
        return f"{style}{text}{PLAIN}" if _is_terminal() and not os.environ.get("NO_COLOR") else text

    def _both(self, plain: str, shown: str) -> None:
        plain, shown = masked(plain), masked(shown)
        if self._log is not None:
            with self._log_may_fail():
                self._log.write(plain + "\n")
        self._print(shown)

    def _print(self, text: str) -> None:
        if self._stdout_gone:
            return
        if self._bar is not None:
            self._bar.hide()
        try:
            print(text, flush=True)
        except UnicodeEncodeError:
            encoding = sys.stdout.encoding or "ascii"
            self._print(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError):  # ValueError: closed
            self._lose_stdout()
        if self._bar is not None:
            self._bar.show()

    def _lose_stdout(self) -> None:
        """Stop printing; what is left in stdout's buffer goes nowhere, or the interpreter's exit would fail on it."""
        self._stdout_gone, self._bar = True, None
        with suppress(OSError, ValueError, AttributeError):  # no file behind it
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())
            os.close(null)

    @contextmanager
    def _log_may_fail(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            log, self._log = self._log, None
            if log is not None:
                with suppress(OSError):
                    log.close()
            self._print(f"warning: {self._log_path}: no longer written ({error.strerror or error})")


def epoch_line(record: Record) -> str:
    """`Epoch 31/100 [BR] (LR=0.004987): Train Acc=92.34%, Val Acc=91.20%, Test Acc=90.45%, BR_W=0.012345, 1.2 s`

    An accuracy that was not measured is left out. Penalties stand there in the stage br, and elsewhere where they are
    not 0. `(shared)` at the end: the epoch was trained by another run, and is this run's as well.
    """
    parts = [
        f"{name} Acc={100 * record[key]:.2f}%"
        for name, key in (("Train", "train_accuracy"), ("Val", "val_accuracy"), ("Test", "test_accuracy"))
        if record.get(key) is not None
    ]
    for name, key in (("BR_W", "penalty_weight"), ("BR_A", "penalty_act")):
        penalty = record.get(key)
        if penalty is not None and (record["stage"] == "br" or penalty != 0):
            parts.append(f"{name}={penalty:.6f}")
    if record.get("time_s") is not None:
        parts.append(f"{record['time_s']:.1f} s")
    head = f"Epoch {record['epoch']}/{record['epochs']} [{record['stage'].upper()}] (LR={record['lr']:.6f}): "
    return head + ", ".join(parts) + (" (shared)" if record.get("shared") else "")


def _is_terminal() -> bool:
    try:
        return sys.stdout.isatty()
    except (AttributeError, ValueError):  # None, or closed
        return False


REDRAW_S = 0.25
"""Seconds between two pictures of the bar; each takes less than a millisecond."""


class NoBar:
    """What stands in for the bar where there is no terminal."""

    def advance(self, n: int = 1) -> None:
        pass


class TerminalBar:
    """rich's bar without its thread: the calls that advance it redraw it, at most every REDRAW_S. rich is imported when
    the first one is made.

    `lost` is called once, when the terminal takes no more; the bar is silent from then on.
    """

    def __init__(self, description: str, total: int, lost: Callable[[], None]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        self._lost, self._silent, self._waiting = lost, False, 0
        console = Console(file=sys.stdout)
        name = Column(no_wrap=True, overflow="ellipsis", max_width=max(console.width // 3, 8))  # the count needs room
        self._progress = Progress(
            TextColumn("{task.description}", markup=False, table_column=name),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task(description, total=total)
        self.show()

    def advance(self, n: int = 1) -> None:
        self._waiting += n
        if time.monotonic() >= self._next:
            self._progress.advance(self._task, self._waiting)
            self._waiting = 0
            self._draw(self._progress.refresh)

    def show(self) -> None:
        self._draw(self._progress.start)

    def hide(self) -> None:
        """Take the bar off the screen, so that a line can be printed where it was."""
        self._draw(self._progress.stop)

    def _draw(self, action: Callable[[], None]) -> None:
        self._next = time.monotonic() + REDRAW_S
        if self._silent:
            return
        try:
            action()
        except (OSError, ValueError):  # ValueError: closed
            self._silent = True
            self._lost()
