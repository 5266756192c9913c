"""The contract of a tracker, and the guard that keeps one from ending, delaying or failing a training.

A tracker's life, as the guard leads it:

    tracker = Guarded(lambda run: MyTracker(folder=folder, run=run), run)     # a constructor opens nothing
    tracker.replay(records)         # always, once: the epochs on file, [] for a new run; this opens the tracker
    tracker.log(record, step)       # once per epoch, after it is on file
    tracker.stage_ended("float")    # the stage's snapshot is on file; may also come for stages of before the replay
    tracker.summarise(values)       # final values, before the end
    tracker.finish("finished")      # always, last

`step` counts a run's epochs over all its stages from 1, strictly increasing, so the i-th record of a replay (i from 1)
is that of step i, and the first `log` after n replayed records has step n + 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from threading import TIMEOUT_MAX, Thread
from typing import Any

from brsweep.errors import BrsweepError
from brsweep.secrets import masked

Scalar = float | int | str | bool | None
Record = Mapping[str, Scalar]
"""One epoch's flat scalars, as metrics.jsonl holds them. None: not measured in this epoch."""

FINISHED, FAILED, INTERRUPTED = "finished", "failed", "interrupted"
STATUSES = (FINISHED, FAILED, INTERRUPTED)


@dataclass(frozen=True)
class RunInfo:
    """What a tracker is told of its run, and where it may speak.

    name: readable; sweep: the name of the group it belongs to; id: stable over resumes, unique among runs.
    config: the run's configuration as plain nested dicts. stage_ends: the steps that end a stage;
        stages: their names, first to last.
    notice, warn: take one line each, for people.

    Keys and passwords in names, tags and configuration are hidden (see `brsweep.secrets`).
    """

    name: str
    sweep: str
    config: Mapping[str, Any]
    tags: tuple[str, ...]
    id: str
    stage_ends: tuple[int, ...] = ()
    stages: tuple[str, ...] = ("float", "warmup", "br")
    notice: Callable[[str], None] = field(default=print, compare=False, repr=False)
    warn: Callable[[str], None] = field(default=print, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("name", "sweep", "config", "tags"):
            object.__setattr__(self, name, masked(getattr(self, name)))


class Tracker(ABC):
    """A mirror of the epochs' records; `log` is all that one has to write.

    The constructor takes `folder` (a Path, the run's folder), `run` (a `RunInfo`) and the tracker's own arguments,
    which its YAML states; it opens nothing and writes nothing. The methods are called in the order that the module's
    head shows, from one thread, which is not the main thread: `signal.signal` is not to be had there.

    A tracker may raise anything: it is then switched off, in one line, and the training goes on. The same happens where
    a call takes longer than its limit. The limits are class or instance attributes, in seconds.
    """

    open_timeout_s: float = 120.0
    """The limit of `replay`, and of `stage_ended` and `summarise`, which may draw or send much."""
    timeout_s: float = 30.0
    """The limit of `log`."""
    finish_timeout_s: float = 120.0
    """The limit of `finish`."""

    @abstractmethod
    def log(self, metrics: Record, step: int) -> None:
        """Add the record of one epoch."""

    def replay(self, records: Sequence[Record]) -> None:
        """Open the tracker and let its history hold exactly `records`, those of steps 1 to len(records).

        As it is here, each is logged: right for a tracker that keeps nothing of an earlier start of the run.
        """
        for step, record in enumerate(records, start=1):
            self.log(record, step)

    def stage_ended(self, stage: str) -> None:  # noqa: B027  most trackers have nothing to do here
        """The folder holds snapshots/<stage>-end.npz, and everything else that the stage leaves."""

    def summarise(self, values: Record) -> None:  # noqa: B027
        """Keep the run's final values."""

    def finish(self, status: str) -> None:  # noqa: B027
        """Close the tracker; `status` is one of STATUSES."""


CONSTRUCTOR_TIMEOUT_S = 60.0
"""The limit of a tracker's constructor, with the import of its module."""


class Guarded:
    """The tracker that `make` makes of a `RunInfo`, from its constructor to its end on a daemon thread of its own.

    The calling thread waits for each call, at most for the tracker's own limit. At the first exception, of whatever
    kind, or the first call over its limit, `run.warn` is told one line; no other call is made, and what the tracker
    says afterwards is not passed on. A call that never returns keeps its thread, which ends with the process. What
    interrupts the waiting thread, as Ctrl-C does, goes through.

    off: told why, in place of that line: for where there is no training that goes on.
    """

    def __init__(
        self, make: Callable[[RunInfo], Tracker], run: RunInfo, off: Callable[[str], None] | None = None
    ) -> None:
        self._off, self._name, self._on = off, "the logger", True
        self._warn = run.warn
        self._tracker: Tracker | None = None
        self._limits: dict[str, float] = {}
        self._calls: SimpleQueue[tuple[Future[None], Callable[[], Any]] | None] = SimpleQueue()
        told = replace(run, notice=self._while_on(run.notice), warn=self._while_on(run.warn))
        try:
            Thread(target=_serve, args=(self._calls,), daemon=True, name="brsweep-tracker").start()
        except RuntimeError as error:  # the system gives no more threads
            self._switch_off(one_line(error))
        self._call(lambda: self._make(make, told), CONSTRUCTOR_TIMEOUT_S)

    def replay(self, records: Sequence[Record]) -> None:
        self._forward("replay", masked(list(records)))

    def log(self, metrics: Record, step: int) -> None:
        self._forward("log", masked(metrics), step)

    def stage_ended(self, stage: str) -> None:
        self._forward("stage_ended", stage)

    def summarise(self, values: Record) -> None:
        self._forward("summarise", masked(values))

    def finish(self, status: str) -> None:
        self._forward("finish", status)
        self._on = False
        self._calls.put(None)

    def _make(self, make: Callable[[RunInfo], Tracker], run: RunInfo) -> None:
        tracker = make(run)
        if not isinstance(tracker, Tracker):
            raise BrsweepError(f"{type(tracker).__name__} is no subclass of {Tracker.__module__}.Tracker")
        limits = {name: seconds(f"{type(tracker).__name__}.{name}", getattr(tracker, name)) for name in LIMITS}
        self._tracker, self._limits, self._name = tracker, limits, type(tracker).__name__

    def _forward(self, method: str, *arguments: Any) -> None:
        if self._on:
            limit = self._limits[LIMIT_OF.get(method, "open_timeout_s")]
            self._call(lambda: getattr(self._tracker, method)(*arguments), limit)

    def _call(self, action: Callable[[], Any], limit_s: float) -> None:
        if not self._on:
            return
        ended: Future[None] = Future()
        self._calls.put((ended, action))
        try:
            error = ended.exception(limit_s)
        except TimeoutError:
            self._switch_off(f"no answer within {limit_s:g} s")
            return
        if error is not None:
            self._switch_off(one_line(error))

    def _switch_off(self, why: str) -> None:
        self._on = False
        self._calls.put(None)
        if self._off is None:
            self._warn(f"{self._name} is off for the rest of this run, the training goes on: {why}")
        else:
            self._off(why)

    def _while_on(self, say: Callable[[str], None]) -> Callable[[str], None]:
        return lambda line: say(line) if self._on else None


LIMITS = ("open_timeout_s", "timeout_s", "finish_timeout_s")
LIMIT_OF = {"log": "timeout_s", "finish": "finish_timeout_s"}


def _serve(calls: SimpleQueue) -> None:
    """Make the calls in turn and tell how each ended, until there is None in place of a call."""
    while (call := calls.get()) is not None:
        ended, action = call
        try:
            action()
        except BaseException as error:  # SystemExit too: no tracker ends a run
            ended.set_exception(error)
        else:
            ended.set_result(None)
        del call, ended, action  # an idle thread keeps no record alive


def seconds(name: str, value: Any) -> float:
    """`value` if it is a finite number over 0; else `BrsweepError`, which calls it `name`."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value <= TIMEOUT_MAX:
        raise BrsweepError(f"{name}={value!r:.40}: give a number of seconds over 0 and at most {TIMEOUT_MAX:.0f}")
    return float(value)


def one_line(error: BaseException) -> str:
    """An exception's type and message without line breaks and keys, at most 300 characters."""
    try:
        message = str(error)
    except BaseException:  # a message of somebody's own may raise anything
        message = "it has no readable message"
    text = masked(" ".join(f"{type(error).__name__}: {message}".split()))
    return text if len(text) <= 300 else text[:299] + "…"
