"""What becomes of tasks whose jobs are in the queue: asked of SLURM from time to time, and decided by the disk."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import sleep

from brsweep.errors import BrsweepError
from brsweep.sweep.plan import CANCELLED, FAILED, FINISHED, Outcome
from brsweep.sweep.pool import Screen, is_done
from brsweep.sweep.slurm import queue
from brsweep.sweep.slurm.submit import log_of, own_jobs
from brsweep.sweep.tree import Task

LOOKS = 2
"""So many looks in a row have to find a job gone, and its task not done: a result takes a moment to be seen on other
machines, and so does a requeued job."""


@dataclass
class Watch:
    """jobs: the id of each task's job. poll_s: seconds between looks."""

    sweep: Path
    tasks: Sequence[Task]
    jobs: Mapping[str, str]
    screen: Screen
    say: Callable[[str], None]
    poll_s: float
    look: Callable[[Path], Mapping[str, queue.Job]] = own_jobs
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)
    gone: Counter = field(default_factory=Counter)

    def run(self) -> list[Outcome]:
        """Every task's outcome, in the order of the tasks; while SLURM doesn't answer it waits."""
        silent = False
        while True:
            try:
                known = self.look(self.sweep)
            except BrsweepError as error:
                if not silent:
                    self.say(f"{error}; still waiting")
                silent = True
            else:
                silent = False
                self._follow(known)
            if len(self.outcomes) == len(self.tasks):
                return [self.outcomes[task.name] for task in self.tasks]
            sleep(self.poll_s)

    def _follow(self, known: Mapping[str, queue.Job]) -> None:
        running = []
        for task in self.tasks:
            if task.name in self.outcomes:
                continue
            job = known.get(self.jobs.get(task.name, ""))
            if job is not None and job.active:
                self.gone[task.name] = 0
                if job.state == queue.RUNNING:
                    running.append(task)
                continue
            self.gone[task.name] += 1
            if is_done(task):
                self._note(Outcome(task, FINISHED))
            elif self.gone[task.name] >= LOOKS:
                self._note(self._unfinished(task, job))
        for task in running:
            if task.name not in self.started:
                self.started.add(task.name)
                self.screen.started(task, None)
        self.screen.look(running, len(self.tasks) - len(self.outcomes))

    def _note(self, outcome: Outcome) -> None:
        self.outcomes[outcome.task.name] = outcome
        self.screen.ended(outcome)

    def _unfinished(self, task: Task, job: queue.Job | None) -> Outcome:
        above = self.outcomes.get(task.parent) if task.parent else None
        if above is not None and above.status != FINISHED:
            return Outcome(task, CANCELLED, f"{above.task.name} {above.status}", above.log)
        folder, job_id = task.folder, self.jobs.get(task.name, "")
        state = job.state if job else queue.state_in_accounts(job_id)
        if state == queue.CANCELLED:
            return Outcome(task, CANCELLED, f"job {job_id} was cancelled")
        failure = folder.failure()
        if failure is None:
            log = log_of(self.sweep, job_id)
            failure = {"cause": cause(job_id, state), "log": os.path.relpath(log, folder.path)}
            folder.write_failure(**failure)
        return Outcome(task, FAILED, failure["cause"], Path(os.path.normpath(folder.path / failure["log"])))


def cause(job_id: str, state: str | None) -> str:
    """Why a job ended that left no cause of its own."""
    if state is None:
        return f"killed: job {job_id} left the queue without a result"
    more = {
        "OUT_OF_MEMORY": "; ask for more with hydra.launcher.mem_gb",
        "TIMEOUT": "; ask for more with hydra.launcher.timeout_min; its last checkpoint is kept",
    }
    return f"killed: job {job_id} ended as {state} without a result{more.get(state, '')}"
