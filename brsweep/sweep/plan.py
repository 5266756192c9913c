"""From the points of a grid to a plan, and the plan in words.

The same for every engine: points that are one run are one run, finished runs answer, the rest is a tree of tasks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from brsweep.errors import BrsweepError
from brsweep.runs.folder import RunFolder
from brsweep.runs.run import Run, finished_elsewhere, finished_result, sweeps_in
from brsweep.stages.plan import WAYS_TO_TRAIN
from brsweep.stages.signature import digest
from brsweep.stages.store import stores
from brsweep.sweep.manifest import add_to_manifest, stages_of
from brsweep.sweep.shared import STAGES
from brsweep.sweep.tree import Task, epochs_apart, grow

ONE_PER_SWEEP = ("sweep_name", "output_dir", "store_dir", "force", "stale")
NETWORK = ("model", "data", "pretrained", "pretrained_replace_head")
PARTS = (
    *NETWORK, *WAYS_TO_TRAIN, "quant", "reg", "float_optimizer", "qat_optimizer", "logger",
    "device", "kernels", "deterministic", "precision", "compile",
)  # fmt: skip
"""What of a configuration is checked before anything starts; the seed is none of it."""


class Point(NamedTuple):
    """A point of the grid: what was typed for it, and its checked configuration."""

    overrides: tuple[str, ...]
    config: Mapping[str, Any]


@dataclass(frozen=True)
class SweepPlan:
    """runs: each once, in the order of the grid. names: the run of each point. finished: results that are there.
    tasks: what is to do, parents first. elsewhere: of the finished ones, those to take over from another sweep.
    outdated: names of runs that are to be trained again, whose earlier results are still there. seeds: what decides
    how many seeds a row gets, where the launcher does."""

    path: Path
    runs: Sequence[Run]
    points: Sequence[Point]
    names: Sequence[str]
    finished: Mapping[str, Mapping[str, Any]]
    tasks: Sequence[Task]
    elsewhere: Mapping[str, RunFolder] = field(default_factory=dict)
    outdated: frozenset[str] = frozenset()
    seeds: Mapping[str, Any] | None = None

    @cached_property
    def words(self) -> dict[str, str]:
        """What sets each run apart from the others, as typed for the first of its points."""
        common = set.intersection(*(set(point.overrides) for point in self.points)) if len(self.points) > 1 else set()
        said = [" ".join(o for o in point.overrides if o not in common) for point in self.points]
        return dict(zip(reversed(self.names), reversed(said), strict=True))

    def begin(self, command: str) -> None:
        """Write the sweep's manifest, and take over results of other sweeps."""
        overrides = dict(zip(reversed(self.names), (p.overrides for p in reversed(self.points)), strict=True))
        runs = [
            {
                "name": run.name,
                "overrides": _alone(overrides[run.name]),
                "epochs": sum(stage.epochs for stage in run.stages),
                "stages": [stage.signature for stage in run.stages[:-1]],
            }
            for run in self.runs
        ]
        shared = {task.name: task.epochs_at_end for task in self.tasks if task.upto is not None}
        add_to_manifest(self.path, self.runs[0].config["sweep_name"], command, runs, shared, self.seeds)
        mine = {stage.signature for run in self.runs for stage in run.stages}
        for stage in stages_of(self.path):
            if stage.signature in mine and f"{STAGES}/{stage.status.name}" not in shared:
                RunFolder(stage.status.path).forget_failure()  # it is in the store by now, whoever trained it
        for run in self.runs:
            if run.name in self.elsewhere:
                with run.folder.locked():
                    run.folder.take(self.elsewhere[run.name], run.config["sweep_name"])
            elif run.name in self.finished:
                run.folder.tidy()

    def clear_outdated(self) -> None:
        """Let go of the results that are to be made again."""
        for run in self.runs:
            if run.name in self.outdated:
                with run.folder.locked():
                    run.folder.clear()

    def lines(self) -> list[str]:
        """The plan in words: runs, repeats, what is done, what they share, and the cost in epochs."""
        count, repeats = len(self.runs), len(self.points) - len(self.runs)
        lines = [f"sweep {self.path}: {many(count, 'run')}, {len(self.finished)} finished already"]
        if self.elsewhere:
            sweeps = sorted({folder.path.parent.name for folder in self.elsewhere.values()})
            lines.append(f"{len(self.elsewhere)} of them in other sweeps ({', '.join(sweeps)}), taken over from there")
        if repeats:
            verb = "is a repeat of another" if repeats == 1 else "are repeats of others"
            again = next(name for i, name in enumerate(self.names) if name in self.names[:i])
            lines.append(f"{repeats} of {len(self.points)} points {verb}, each run once; {self.words[again]} is one")
        shared = Counter(stage.name for task in self.tasks if task.upto is not None for stage in task.stages)
        if shared:
            stages = ", ".join(many(count, f"{name} stage") for name, count in shared.items())
            lines.append(f"shared and trained once: {stages}")
        if self.tasks:
            apart = epochs_apart(run for run in self.runs if run.name not in self.finished)
            together = sum(task.epochs for task in self.tasks)
            line = f"{together:,} epochs to train"
            if together < apart:
                line += f"; {apart:,} if every run trained by itself ({1 - together / apart:.0%} saved)"
            lines.append(line)
        return lines

    def tree(self) -> list[str]:
        """The tasks, a line each, indented below the one that they wait for."""
        depth: dict[str | None, int] = {None: 0}
        lines = []
        for task in self.tasks:
            depth[task.name] = depth[task.parent] + 1
            stages = " + ".join(f"{stage.name} {stage.epochs}" for stage in task.stages)
            users = f"  for {len(task.runs)} runs" if task.upto is not None else f"  {self.words[task.name]}"
            lines.append(f"{'  ' * depth[task.parent]}{task.name}  ({stages}){users}")
        return lines


def plan_sweep(points: Sequence[Point]) -> SweepPlan:
    """Prepare the data that the points name, and plan. Raises `BrsweepError`; nothing is trained or written then."""
    if not points:
        raise BrsweepError("the grid has no point: give a list of values, such as seed=42,43,44")
    for name in ONE_PER_SWEEP:
        found = list(dict.fromkeys(str(point.config[name]) for point in points))
        if len(found) > 1:
            raise BrsweepError(f"{name}={','.join(found)}: one for the whole sweep; launch a sweep for each")
    sources: dict[str, Any] = {}
    runs: dict[str, Run] = {}
    names = []
    for point in points:
        run = Run.of(dict(point.config) | {"force": False}, sources)  # the launcher forces once, not at each try
        runs.setdefault(run.name, run)
        names.append(run.name)
    finished = {} if points[0].config["force"] else _finished(list(runs.values()))
    sweeps = sweeps_in(Path(points[0].config["output_dir"]))
    missing = [run for name, run in runs.items() if name not in finished]
    elsewhere = {run.name: folder for run in missing if (folder := finished_elsewhere(run, sweeps)) is not None}
    finished |= {name: folder.result() for name, folder in elsewhere.items()}
    places = {(store.root, store.device): store for point in points for store in stores(point.config)}.values()
    to_do = [run for name, run in runs.items() if name not in finished]
    tasks = grow(to_do, lambda signature: any(store.find(signature) is not None for store in places))
    path = next(iter(runs.values())).folder.path.parent
    outdated = frozenset(run.name for run in to_do if run.folder.holds_result)
    return SweepPlan(path, list(runs.values()), points, names, finished, tasks, elsewhere, outdated)


def _finished(runs: Sequence[Run]) -> dict[str, Mapping[str, Any]]:
    finished, stale = {}, []
    for run in runs:
        try:
            result = finished_result(run)
        except BrsweepError as error:
            stale.append(str(error))
        else:
            if result is not None:
                finished[run.name] = result
    if stale:
        more = f" (and {len(stale) - 1} more of {len(runs)} runs)" if len(stale) > 1 else ""
        raise BrsweepError(stale[0] + more)
    return finished


def check_grid(plan: SweepPlan, device: bool = True) -> None:
    """Raise `BrsweepError`, naming the point, unless every run's parts can be made. Imports torch.

    device: whether the runs' devices and kernels have to be on this machine too.
    """
    from brsweep.stages.preflight import check_parts

    checked: dict[str, Run] = {}
    for run in plan.runs:
        if run.name not in plan.finished:
            checked.setdefault(digest({key: run.config[key] for key in PARTS}), run)
    made: dict[str, Any] = {}
    for run in _neighbours(checked.values()):
        try:
            check_parts(run.config, device, run.source, made)
        except BrsweepError as error:
            raise BrsweepError(f"{error} (at {plan.words[run.name]}; nothing was started)") from None


def _neighbours(runs: Iterable[Run]) -> list[Run]:
    """Runs of one network next to each other, and among them those that quantize it alike."""
    groups: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        network = groups.setdefault(digest([run.config[key] for key in NETWORK]), {})
        network.setdefault(digest(run.config["quant"]), []).append(run)
    return [run for network in groups.values() for alike in network.values() for run in alike]


def _alone(overrides: Sequence[str]) -> list[str]:
    """Overrides that make the one run again: a preset would switch multirun on."""
    preset = any(override.startswith("sweep=") for override in overrides)
    return [*overrides, "hydra.mode=RUN"] if preset else list(overrides)


def many(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"
