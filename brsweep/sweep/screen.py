"""What a launcher shows while it works: a line when a task begins and ends; on a terminal also a table that moves."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from brsweep.runs.status import run_status
from brsweep.runs.words import duration, progress
from brsweep.sweep.tree import FINISHED, Outcome, Task

REDRAW_S = 1.0
TimeLeft = Callable[[Sequence[Task]], float | None]


class Lines:
    """Plain lines on stdout: what a log keeps.

    words: what sets each run apart, by its name. time_left: tasks that run -> seconds until the sweep has ended, None
    where that is not known.
    """

    def __init__(self, words: Mapping[str, str], time_left: TimeLeft = lambda running: None) -> None:
        self._words, self._time_left = words, time_left

    def say(self, line: str) -> None:
        print(line, flush=True)

    def started(self, task: Task, device: str | None) -> None:
        stages = " + ".join(f"{stage.name} {stage.epochs}" for stage in task.stages)
        where = "" if device is None else f"  on device {device}"
        self.say(f"started  {task.name}  ({stages})  {self._words.get(task.name, '')}{where}".rstrip())

    def ended(self, outcome: Outcome) -> None:
        if outcome.status == FINISHED:
            left = self._time_left([outcome.task])
            said = f"  ({_about(left)})" if left else ""
            self.say(f"finished {outcome.task.name}{_result(outcome.task)}{said}")
        else:
            self.say(f"{outcome.status:8} {outcome.task.name}: {outcome.cause}")

    def look(self, running: Sequence[Task], left: int) -> None:
        """Nothing: a log has no table."""

    def close(self) -> None:
        """Nothing to put away."""


class LiveTable(Lines):
    """The same lines above a table of what runs, drawn by rich, which is imported when the first one is made."""

    def __init__(self, words: Mapping[str, str], time_left: TimeLeft = lambda running: None) -> None:
        super().__init__(words, time_left)
        from rich.console import Console
        from rich.live import Live

        self._console = Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._live.start()
        self._drawn = 0.0

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)

    def look(self, running: Sequence[Task], left: int) -> None:
        if time.monotonic() - self._drawn < REDRAW_S:
            return
        self._drawn = time.monotonic()
        self._live.update(self.picture(running, left), refresh=True)

    def picture(self, running: Sequence[Task], to_end: int) -> Any:
        """The table, for rich to draw."""
        from rich.table import Table

        left = self._time_left(running)
        caption = f"{to_end} of the sweep's tasks to end" + (f", {_about(left)}" if left else "")
        table = Table("running", "epoch", "validation", "left", caption=caption, min_width=len(caption))
        for column in table.columns[1:]:
            column.no_wrap, column.justify = True, "right"
        for task in running:
            status = run_status(task.folder.path, {"epochs": task.epochs_at_end})
            left = duration(status.time_left_s)
            table.add_row(self._label(task), progress(status), percent(status.val_accuracy), left)
        return table

    def _label(self, task: Task) -> str:
        """What sets a run apart; a shared stage by what the runs have in common that need it."""
        if task.upto is None:
            return self._words.get(task.name) or task.name
        told = [self._words.get(name, "").split() for name in task.runs]
        common = [word for word in told[0] if all(word in words for words in told)] if told else []
        stages = " + ".join(stage.name for stage in task.stages)
        return " ".join([stages, *common, f"(for {len(task.runs)} runs)"])

    def close(self) -> None:
        self._live.stop()


def screen(words: Mapping[str, str], time_left: TimeLeft) -> Lines:
    """The table on a terminal, else plain lines."""
    return (LiveTable if sys.stdout.isatty() else Lines)(words, time_left)


def _about(seconds: float) -> str:
    return f"about {duration(seconds)} left"


def percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"


def _result(task: Task) -> str:
    result = None if task.upto is not None else task.folder.result()
    if result is None:
        return ""
    val = "" if result["val_accuracy"] is None else f", validation {result['val_accuracy']:.2%}"
    return f"  test {result['test_accuracy']:.2%}{val}"
