"""What does a sweep's tasks, and what every such engine has in common: the life of a launch, and what became of tasks.

    engine.launch(plan, command)    dry run, or: check the grid, begin the sweep, do the tasks, say how it ended

`LocalEngine` (local.py) gives each task a process of this machine, `SlurmEngine` (slurm/engine.py) a job of a cluster.
Whether a task is done is asked of the disk, so a task that ends without a word, or in any way after its result was
written, is judged by what it left.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from brsweep.errors import BrsweepError
from brsweep.runs.words import duration
from brsweep.stages.store import stores
from brsweep.sweep.pace import Pace, time_left
from brsweep.sweep.plan import SweepPlan, check_grid, many
from brsweep.sweep.screen import Lines, screen
from brsweep.sweep.tree import CANCELLED, FAILED, FINISHED, INTERRUPTED, Outcome, Task


class Engine(ABC):
    """Does the tasks of one sweep. An object serves one launch."""

    device_here = True
    """Whether runs train on this machine, so that their devices and kernels can be checked here."""
    at_once = 1
    """How many tasks may run at a time."""
    waits = True
    """Whether `do` ends when the tasks have, so that one can go on by what they gave."""

    def __init__(self) -> None:
        self.tasks: Sequence[Task] = ()
        self.outcomes: dict[str, Outcome] = {}
        self.screen: Lines = Lines({})
        self.pace = Pace()

    # --- to write -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def do(self, plan: SweepPlan) -> Sequence[Outcome] | None:
        """Do the plan's tasks, parents first, noting what becomes of each; the outcomes in the order of the tasks.
        None where the tasks go on without this process."""

    @abstractmethod
    def words_at_interrupt(self, plan: SweepPlan) -> str:
        """What Ctrl-C leaves, and how it goes on."""

    @abstractmethod
    def check(self) -> None:
        """Raise `BrsweepError` unless the engine can work here."""

    def begin(self, plan: SweepPlan, command: str) -> None:
        """Write the manifest, without the results that are to be made again. Raises `BrsweepError` where the tasks
        can't begin; then everything is as it was."""
        plan.begin(command)
        plan.clear_outdated()

    def dry_lines(self, plan: SweepPlan) -> list[str]:
        """What the engine adds to the plan in words."""
        return []

    # --- what every engine has ----------------------------------------------------------------------------------------

    def launch(self, plan: SweepPlan, command: str, *, dry_run: bool) -> dict[str, Mapping[str, Any]]:
        """Do what the plan holds and return the results by run name.

        Raises `BrsweepError` where a run is not finished in the end, and KeyboardInterrupt when asked to stop.
        """
        if dry_run:
            print("\n".join(self.dry(plan)))
            return dict(plan.finished)
        outcomes = self.train(plan, command, plan.lines())
        if outcomes is None:
            return dict(plan.finished)
        close(plan, outcomes, self.screen)
        return {run.name: run.folder.result() for run in plan.runs}

    def dry(self, plan: SweepPlan, ahead: Sequence[str] = ()) -> list[str]:
        """Check the grid and say the plan, `ahead` between its size and its tree. Devices and kernels are left out:
        the machine that plans is often not the one that trains."""
        check_grid(plan, device=False)
        return [*plan.lines(), *self.time_lines(plan), *ahead, *plan.tree(), *self.dry_lines(plan)]

    def train(self, plan: SweepPlan, command: str, lines: Sequence[str]) -> Sequence[Outcome] | None:
        """Check the grid, say `lines`, begin the sweep and do its tasks; what became of each, as of `do`.

        Raises `BrsweepError` where the tasks can't begin, and KeyboardInterrupt when asked to stop.
        """
        self.tasks = plan.tasks
        if plan.tasks:
            self.check()
            check_grid(plan, self.device_here)
        lines = [*lines, *self.time_lines(plan)]
        self.screen = screen(plan.words, self.time_left_s)
        try:
            for line in lines:
                self.screen.say(line)
            self.begin(plan, command)
            return self.do(plan)
        except KeyboardInterrupt:
            self.screen.say(self.words_at_interrupt(plan))
            raise
        finally:
            self.screen.close()

    def note(self, outcome: Outcome) -> None:
        """Keep what became of a task and show it. A failure that lies in a finished run's folder goes."""
        if outcome.status == FINISHED:
            outcome.task.folder.forget_failure()
        self.outcomes[outcome.task.name] = outcome
        self.screen.ended(outcome)

    def time_left_s(self, running: Sequence[Task]) -> float | None:
        """Seconds until the sweep's tasks have ended, by the epochs that were trained so far; None before the first.
        running: tasks whose folders are looked at again."""
        done = {}
        for task in running:
            with suppress(BrsweepError):
                done[task.name] = self.pace.learn(task.folder, task.config) - task.epochs_at_end + task.epochs
        left = [task for task in self.tasks if task.name not in self.outcomes]
        return time_left(self.pace, left, done, self.at_once)

    def time_lines(self, plan: SweepPlan) -> list[str]:
        """How long the plan's tasks take, where earlier runs tell."""
        if not plan.tasks:
            return []
        self.tasks = plan.tasks
        self.pace.learn_finished(Path(plan.runs[0].config["output_dir"]), [task.config for task in plan.tasks])
        seconds = self.time_left_s([])
        at_once = f", {self.at_once} tasks at once" if self.at_once > 1 else ""
        return [] if seconds is None else [f"about {duration(seconds)}{at_once}, by the epochs of earlier runs"]

    def cancelled(self, task: Task) -> Outcome | None:
        """The outcome of a task whose parent did not end well; None where it did, or has not ended."""
        above = self.outcomes.get(task.parent) if task.parent else None
        if above is None or above.status == FINISHED:
            return None
        return Outcome(task, CANCELLED, f"{above.task.name} {above.status}", above.log)

    def everything(self) -> list[Outcome]:
        """Every task's outcome, in the order of the tasks."""
        return [self.outcomes.get(task.name, Outcome(task, INTERRUPTED)) for task in self.tasks]


def is_done(task: Task) -> bool:
    """Whether what the task is for is on disk."""
    if task.upto is None:
        return task.folder.finished
    return any(store.find(task.upto) is not None for store in stores(task.config))


def close(plan: SweepPlan, outcomes: Sequence[Outcome], shown: Lines) -> None:
    """Say what became of the sweep. Raises `BrsweepError` where a run is missing now, so that the command exits 1."""
    by_status = Counter(outcome.status for outcome in outcomes if outcome.task.upto is None)
    counts = {"finished": by_status[FINISHED] + len(plan.finished)} | {
        status: by_status[status] for status in (FAILED, CANCELLED, INTERRUPTED) if by_status[status]
    }
    shown.say(f"sweep {plan.path}: {many(len(plan.runs), 'run')}; " + ", ".join(f"{n} {s}" for s, n in counts.items()))
    for outcome in outcomes:
        if outcome.status in (FAILED, CANCELLED):
            log = f"; log: {outcome.log}" if outcome.log else ""
            shown.say(f"  {outcome.status} {outcome.task.name}: {outcome.cause}{log}")
    missing = len(plan.runs) - counts["finished"]
    shown.say(f"table and figures: python -m brsweep.report {plan.path}")
    if missing:
        raise BrsweepError(f"{missing} of {len(plan.runs)} runs not finished; the same command goes on with them")
