"""The contract of a tracker, and the guard that keeps a failing one from ending a training.

A tracker's life:

    tracker = Guarded(factory(folder=folder, run=run), warn=console.warn)   # a constructor opens nothing
    tracker.replay(records)         # always, once: the epochs on file, [] for a new run; this opens the tracker
    tracker.log(record, step)       # once per epoch, after it is on file
    tracker.stage_ended("float")    # the stage's snapshot is on file; may also come for stages of before the replay
    tracker.summarise(values)       # final values, before the end
    tracker.finish("finished")      # always, last

`step` counts a run's epochs over all its stages from 1, strictly increasing, so the i-th record of a replay (i from 1)
is that of step i, and the first `log` after n replayed records has step n + 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

Scalar = float | int | str | bool | None
Record = Mapping[str, Scalar]
"""One epoch's flat scalars, as metrics.jsonl holds them. None: not measured in this epoch."""

FINISHED, FAILED, INTERRUPTED = "finished", "failed", "interrupted"
STATUSES = (FINISHED, FAILED, INTERRUPTED)


@dataclass(frozen=True)
class RunInfo:
    """What a tracker is told of its run, and where it may speak.

    name: readable; sweep: the name of the group it belongs to; id: stable over resumes, unique among runs.
    config: the run's configuration as plain nested dicts. stage_ends: the steps that end a stage.
    notice, warn: take one line each, for people.
    """

    name: str
    sweep: str
    config: Mapping[str, Any]
    tags: tuple[str, ...]
    id: str
    stage_ends: tuple[int, ...] = ()
    notice: Callable[[str], None] = field(default=print, compare=False, repr=False)
    warn: Callable[[str], None] = field(default=print, compare=False, repr=False)


class Tracker(Protocol):
    """A mirror of the epochs' records. Its constructor takes `folder: Path`, `run: RunInfo` and its YAML arguments."""

    def replay(self, records: Sequence[Record]) -> None:
        """Open the tracker and let its history hold exactly `records`, those of steps 1 to len(records)."""

    def log(self, metrics: Record, step: int) -> None:
        """Add the record of one epoch."""

    def stage_ended(self, stage: str) -> None:
        """The folder holds snapshots/<stage>-end.npz, and everything else that the stage leaves."""

    def summarise(self, values: Record) -> None:
        """Keep the run's final values."""

    def finish(self, status: str) -> None:
        """Close the tracker; `status` is one of STATUSES."""


class Guarded:
    """`tracker`, switched off after its first exception, which `warn` is told of in one line."""

    def __init__(self, tracker: Tracker, warn: Callable[[str], None]) -> None:
        self._tracker, self._warn, self._on = tracker, warn, True

    def replay(self, records: Sequence[Record]) -> None:
        self._call("replay", records)

    def log(self, metrics: Record, step: int) -> None:
        self._call("log", metrics, step)

    def stage_ended(self, stage: str) -> None:
        self._call("stage_ended", stage)

    def summarise(self, values: Record) -> None:
        self._call("summarise", values)

    def finish(self, status: str) -> None:
        self._call("finish", status)

    def _call(self, method: str, *arguments: Any) -> None:
        if not self._on:
            return
        try:
            getattr(self._tracker, method)(*arguments)
        except Exception as error:
            self._on = False
            name = type(self._tracker).__name__
            self._warn(f"{name} is off for the rest of this run, the training goes on: {one_line(error)}")


def one_line(error: BaseException) -> str:
    """An exception's type and message without line breaks, at most 300 characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 300 else text[:299] + "…"
