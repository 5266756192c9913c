"""Tasks on this machine: one process each, as many at once as there are slots, a child when its parent has ended.

A task that ends in any way but well (an exception, sys.exit, a signal, out of memory, the time limit) ends alone; what
waits for it is cancelled. Tasks that another launcher is at are left to it and looked at again. Workers live in
sessions of their own, so that Ctrl-C reaches the launcher alone, which then ends them in order.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from brsweep.stages.store import Store
from brsweep.sweep.plan import CANCELLED, FAILED, FINISHED, INTERRUPTED, Outcome
from brsweep.sweep.process import LOG, Worker
from brsweep.sweep.tree import Task

LOOK_S = 0.05
GRACE_S = 15.0
"""A worker that was asked to end and has not by then is killed."""


class Screen(Protocol):
    """Where the sweep's progress is shown."""

    def started(self, task: Task, device: str | None) -> None: ...
    def ended(self, outcome: Outcome) -> None: ...
    def look(self, running: Sequence[Task], left: int) -> None: ...


@dataclass(frozen=True)
class Options:
    """devices: one per slot, as CUDA_VISIBLE_DEVICES names them; None leaves the environment's. threads: of each
    worker, 0 for torch's choice. time_limit_s: of one task. retries: of each task."""

    devices: Sequence[str | None] = (None,)
    threads: int = 0
    fail_fast: bool = False
    retries: int = 0
    time_limit_s: float | None = None


@dataclass
class LocalPool:
    """Does tasks, parents first, and says what became of each."""

    tasks: Sequence[Task]
    options: Options
    screen: Screen
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    running: list[Worker] = field(default_factory=list)
    tries: dict[str, int] = field(default_factory=dict)
    ending: bool = False

    def run(self) -> list[Outcome]:
        """Every task's outcome, in the order of the tasks. On KeyboardInterrupt the workers are asked to end first."""
        try:
            while len(self.outcomes) < len(self.tasks):
                for worker in [w for w in self.running if w.process.poll() is not None]:
                    self._reap(worker)
                self._end_overdue()
                if self.ending:
                    self._end_all(signal.SIGINT)
                    break
                self._start_ready()
                self.screen.look([worker.task for worker in self.running], len(self.tasks) - len(self.outcomes))
                time.sleep(LOOK_S)
        except KeyboardInterrupt:
            self._end_all(signal.SIGINT)
            raise
        except BaseException:
            self._end_all(signal.SIGKILL)
            raise
        return [self.outcomes.get(task.name, Outcome(task, INTERRUPTED)) for task in self.tasks]

    def _start_ready(self) -> None:
        free = list(self.options.devices)
        for worker in self.running:
            free.remove(worker.device)
        started = {worker.task.name for worker in self.running}
        for task in self._ready():
            if not free:
                return
            if task.name in started or is_elsewhere(task):
                continue
            if is_done(task):
                self._note(Outcome(task, FINISHED))
                continue
            self._start(task, free.pop(0))

    def _ready(self) -> Iterator[Task]:
        """Tasks whose parent has ended well, in order; those below one that has not are cancelled on the way."""
        for task in self.tasks:
            above = self.outcomes.get(task.parent) if task.parent else None
            if task.name in self.outcomes or (task.parent and above is None):
                continue
            if above is not None and above.status != FINISHED:
                self._note(Outcome(task, CANCELLED, f"{above.task.name} {above.status}", above.log))
            else:
                yield task

    def _start(self, task: Task, device: str | None) -> None:
        try:
            worker = Worker.start(task, device, self.options.threads)
        except OSError as error:
            why = f"{task.folder.path}: can't be written ({error.strerror}); free the disk or choose another output_dir"
            self._note(Outcome(task, FAILED, why))
            return
        self.running.append(worker)
        self.tries[task.name] = self.tries.get(task.name, 0) + 1
        self.screen.started(task, device)

    def _reap(self, worker: Worker) -> None:
        self.running.remove(worker)
        worker.process.stdin.close()
        task, code = worker.task, worker.process.returncode
        if code == 0 and is_done(task):
            self._note(Outcome(task, FINISHED))
            return
        if is_elsewhere(task):
            return  # another launcher was a moment faster; it is looked at again
        failure = task.folder.failure()
        if failure is None or worker.over_time:
            failure = {"cause": worker.cause(self.options.time_limit_s), "log": LOG}
            task.folder.write_failure(**failure)
        if self.tries[task.name] <= self.options.retries:
            return  # it is ready again, and goes on from its checkpoint
        self._note(Outcome(task, FAILED, failure["cause"], task.folder.path / failure["log"]))

    def _note(self, outcome: Outcome) -> None:
        self.outcomes[outcome.task.name] = outcome
        self.ending = self.ending or (self.options.fail_fast and outcome.status == FAILED)
        self.screen.ended(outcome)

    def _end_overdue(self) -> None:
        limit = self.options.time_limit_s
        for worker in self.running if limit is not None else ():
            over = time.monotonic() - worker.began - limit
            if over > 0 and not worker.over_time:
                worker.over_time = True
                worker.process.send_signal(signal.SIGINT)
            elif over > GRACE_S:
                worker.process.kill()

    def _end_all(self, how: signal.Signals) -> None:
        """End the workers and wait for them; those that take too long, or at a second Ctrl-C all, are killed."""
        for worker in self.running:
            worker.process.send_signal(how)
        deadline = time.monotonic() + GRACE_S
        try:
            for worker in self.running:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            pass
        finally:
            for worker in self.running:
                worker.process.kill()
                worker.process.wait()
                worker.process.stdin.close()


def is_done(task: Task) -> bool:
    """Whether what the task is for is on disk."""
    if task.upto is None:
        return task.folder.result() is not None
    return Store(Path(task.config["store_dir"])).find(task.upto) is not None


def is_elsewhere(task: Task) -> bool:
    """Whether another process trains the task, or a stage that it would have to train itself."""
    store = Store(Path(task.config["store_dir"]))
    return task.folder.held or any(store.in_training(stage.signature) for stage in task.stages)
