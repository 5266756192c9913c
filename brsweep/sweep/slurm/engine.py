"""The engine of a SLURM cluster: submit what is missing, attach to the rest, and follow the jobs to their ends.

The queue keeps the sweep, not this process: it may end at any time, and the next one finds the jobs by the record.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import sleep

from brsweep.errors import BrsweepError
from brsweep.sweep.engine import Engine, is_done
from brsweep.sweep.plan import SweepPlan
from brsweep.sweep.slurm import cluster
from brsweep.sweep.slurm.cluster import JobState, Request
from brsweep.sweep.slurm.jobs import check_installed, job_arrays, job_name, log_of, own_jobs, submit
from brsweep.sweep.tree import CANCELLED, FAILED, FINISHED, Outcome, Task

GONE = 2
"""So many looks in a row have to find a job gone, and its task not done: a result takes a moment to be seen on other
machines, and so does a requeued job."""


class SlurmEngine(Engine):
    """request: what each job asks of the cluster. max_array_size: tasks in one array, None for what the site allows.
    poll_s: seconds between looks at the queue. wait: false submits and returns."""

    device_here = False

    def __init__(self, request: Request, max_array_size: int | None, poll_s: float, wait: bool) -> None:
        super().__init__()
        self.at_once = request.array_parallelism
        self.request, self.max_array_size, self.poll_s, self.waits = request, max_array_size, poll_s, wait
        self.sweep = Path()
        self.jobs: dict[str, str] = {}
        self.started: set[str] = set()
        self.gone: Counter = Counter()

    def check(self) -> None:
        check_installed()

    def dry_lines(self, plan: SweepPlan) -> list[str]:
        """The arrays that would be submitted, were none of their jobs in the queue. Needs no SLURM."""
        try:
            largest = self.max_array_size or cluster.largest_array()
        except BrsweepError:
            largest = cluster.USUAL_MAX_ARRAY_SIZE
        found = job_arrays(plan.tasks, largest)
        number = {task.name: i for i, array in enumerate(found, 1) for task in array.tasks}
        return [
            f"job array {i}: tasks {len(array.tasks)}"
            + ("" if array.parent is None else f", after {array.parent} of array {number[array.parent]}")
            for i, array in enumerate(found, 1)
        ]

    def words_at_interrupt(self, plan: SweepPlan) -> str:
        return (
            f"detached: the jobs go on, and the same command attaches to them again; "
            f"scancel --name={job_name(plan.path)} ends them"
        )

    def begin(self, plan: SweepPlan, command: str) -> None:
        if not plan.tasks:
            plan.begin(command)
            return
        self.jobs = submit(
            plan, self.request, self.max_array_size, self.screen.say, accepted=lambda: plan.begin(command)
        )

    def do(self, plan: SweepPlan) -> list[Outcome] | None:
        if plan.tasks and not self.waits:
            self.screen.say(
                f"the same command waits for the jobs and reports; status: python -m brsweep.sweep {plan.path}"
            )
            return None
        return self.follow(plan.path, plan.tasks, self.jobs) if plan.tasks else []

    def follow(self, sweep: Path, tasks: Sequence[Task], jobs: Mapping[str, str]) -> list[Outcome]:
        """Every task's outcome, in the order of the tasks; while SLURM doesn't answer it waits.

        jobs: the id of each task's job.
        """
        self.sweep, self.tasks, self.jobs = sweep, tasks, dict(jobs)
        silent = False
        while True:
            try:
                known = own_jobs(self.sweep)
            except BrsweepError as error:
                if not silent:
                    self.screen.say(f"{error}; still waiting")
                silent = True
            else:
                silent = False
                self._look(known)
            if len(self.outcomes) == len(self.tasks):
                return self.everything()
            sleep(self.poll_s)

    def _look(self, known: Mapping[str, JobState]) -> None:
        running = []
        for task in self.tasks:
            if task.name in self.outcomes:
                continue
            job = known.get(self.jobs.get(task.name, ""))
            if job is not None and job.active:
                self.gone[task.name] = 0
                if job.state == cluster.RUNNING:
                    running.append(task)
                continue
            self.gone[task.name] += 1
            if is_done(task):
                self.note(Outcome(task, FINISHED))
            elif self.gone[task.name] >= GONE:
                self.note(self._unfinished(task, job))
        for task in running:
            if task.name not in self.started:
                self.started.add(task.name)
                self.screen.started(task, None)
        self.screen.look(running, len(self.tasks) - len(self.outcomes))

    def _unfinished(self, task: Task, job: JobState | None) -> Outcome:
        cancelled = self.cancelled(task)
        if cancelled is not None:
            return cancelled
        folder, job_id = task.folder, self.jobs.get(task.name, "")
        state = job.state if job else cluster.state_in_accounts(job_id)
        if state == cluster.CANCELLED:
            return Outcome(task, CANCELLED, f"job {job_id} was cancelled")
        failure = folder.failure()
        if failure is None:
            log = log_of(self.sweep, job_id)
            failure = {"cause": job_cause(job_id, state), "log": os.path.relpath(log, folder.path)}
            folder.write_failure(**failure)
        return Outcome(task, FAILED, failure["cause"], Path(os.path.normpath(folder.path / failure["log"])))


def job_cause(job_id: str, state: str | None) -> str:
    """Why a job ended that left no cause of its own."""
    if state is None:
        return f"killed: job {job_id} left the queue without a result"
    more = {
        "OUT_OF_MEMORY": "; ask for more with hydra.launcher.mem_gb",
        "TIMEOUT": "; ask for more with hydra.launcher.timeout_min; its last checkpoint is kept",
    }
    return f"killed: job {job_id} ended as {state} without a result{more.get(state, '')}"
