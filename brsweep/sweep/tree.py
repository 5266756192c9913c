"""A sweep's runs -> the tree of what they share, as tasks: one process each, a child after its parent.

Runs whose stages have equal signatures share them. Each shared stage at which the tree branches is a task of its own,
with the stages above it that nothing else branches off; each run is a task that goes on from the deepest of them:

    float ─┬─ warm-up w2a2 ─┬─ BR, lambda 0.1         5 tasks: "float + warm-up" would be one if all runs were w2a2;
           │                └─ BR, lambda 1           the last run trains its own warm-up, which nobody shares
           └─ warm-up w4a4 ─── BR, lambda 1

A stage that is in the store is no task. Plain data; no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from brsweep.runs.folder import RunFolder
from brsweep.runs.run import Run, shared_folder
from brsweep.stages.plan import Stage, outline


@dataclass(frozen=True)
class Task:
    """What one process does.

    name: a run's folder, or `stages/<stage>-<signature>`, in the sweep's folder.
    config: the run's; of a shared stage, that of the first run that needs it.
    upto: the signature of the shared stage that it ends with; None for a run.
    stages: those that it trains, first to last. parent: the name of the task that has to end first.
    runs: the runs that need it, itself included.
    """

    name: str
    config: Mapping[str, Any]
    upto: str | None
    stages: tuple[Stage, ...]
    parent: str | None
    runs: tuple[str, ...]

    @property
    def epochs(self) -> int:
        return sum(stage.epochs for stage in self.stages)

    @property
    def epochs_at_end(self) -> int:
        """Epochs of its stages and of those before, whose records come first in its folder."""
        stages = outline(self.config)
        last = [stage.name for stage in stages].index(self.stages[-1].name)
        return sum(stage.epochs for stage in stages[: last + 1])

    @property
    def folder(self) -> RunFolder:
        return RunFolder(Path(self.config["output_dir"]) / self.config["sweep_name"] / self.name)


class Outcome(NamedTuple):
    """What became of a task: status FINISHED, FAILED, CANCELLED or INTERRUPTED; cause and log where it failed."""

    task: Task
    status: str
    cause: str | None = None
    log: Path | None = None


FINISHED, FAILED, CANCELLED, INTERRUPTED = "finished", "failed", "cancelled", "interrupted"


def grow(runs: Sequence[Run], stored: Callable[[str], bool]) -> list[Task]:
    """The tasks of runs that are still to do, parents before children, each branch as a whole before the next.

    stored: whether the store holds the stage of that signature.
    """
    children: dict[str, dict[str, None]] = {}
    for run in runs:
        path = [*(stage.signature for stage in run.stages[:-1]), run.name]
        for above, below in pairwise(path):
            children.setdefault(above, {})[below] = None
    done = {signature for signature in children if stored(signature)}
    shared = [signature for signature, below in children.items() if len(below) > 1 and signature not in done]
    tasks: dict[str, Task] = {}
    users: dict[str, list[str]] = {}
    for run in runs:
        parent, begin = None, _after_stored(run.stages[:-1], done)
        for i, stage in enumerate(run.stages[:-1]):
            if stage.signature not in shared or i < begin:
                continue
            name = shared_folder(stage)
            users.setdefault(name, []).append(run.name)
            if name not in tasks:
                stages = tuple(run.stages[begin : i + 1])
                tasks[name] = Task(name, run.config, stage.signature, stages, parent, ())
            parent, begin = name, i + 1
        tasks[run.name] = Task(run.name, run.config, None, tuple(run.stages[begin:]), parent, (run.name,))
    found = [
        Task(t.name, t.config, t.upto, t.stages, t.parent, tuple(users.get(t.name, t.runs))) for t in tasks.values()
    ]
    return list(_depth_first(found, None))


def _after_stored(stages: Sequence[Stage], done: set[str]) -> int:
    """The index of the first stage behind the deepest one that is stored."""
    return max((i + 1 for i, stage in enumerate(stages) if stage.signature in done), default=0)


def _depth_first(tasks: Sequence[Task], parent: str | None) -> Iterable[Task]:
    for task in tasks:
        if task.parent == parent:
            yield task
            if task.upto is not None:
                yield from _depth_first(tasks, task.name)


def epochs_apart(runs: Iterable[Run]) -> int:
    """What training every run by itself would take."""
    return sum(stage.epochs for run in runs for stage in run.stages)
