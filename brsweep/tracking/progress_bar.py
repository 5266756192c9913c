"""A bar that shows how far an epoch is, drawn by rich, which is imported when the first bar is made."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

REDRAW_S = 0.25
"""Seconds between two pictures of the bar; each takes less than a millisecond."""


class NoBar:
    """What stands in for the bar where there is no terminal."""

    def advance(self, n: int = 1) -> None:
        pass


class TerminalBar:
    """rich's bar without its thread: the calls that advance it redraw it, at most every REDRAW_S.

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
