"""How long what is left of a sweep will take, by the epochs of the same network, data and device that were trained.

Seeds, lambdas and bits hardly change an epoch's time, and a quantized epoch takes another than a float one: so times
are kept for each network on its data and device, float and quantized apart, and the median counts (the first epoch of
a process compiles). They are read from the records of finished runs under the output folder, the newest first, and of
the tasks that run. Where one kind is not known yet, the other stands for it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from brsweep.errors import BrsweepError
from brsweep.runs.folder import RESULT, RunFolder
from brsweep.runs.status import finite
from brsweep.stages.plan import outline
from brsweep.stages.signature import digest
from brsweep.sweep.tree import Task

ALIKE = ("model", "data", "precision", "compile", "cuda_graphs", "kernels", "device", "threads")
"""What of a configuration an epoch's time depends on, beside whether it is quantized."""
MOST_RUNS = 200
"""Finished runs that are looked at; a sweep of yesterday is among them."""


class Pace:
    """Times of epochs, in seconds, by what they depend on."""

    def __init__(self) -> None:
        self._times: dict[Path, tuple[str, dict[bool, list[float]]]] = {}  # of a folder: network, float and quantized
        self._medians: dict[tuple[str, bool], float] | None = {}  # None where the times have changed since

    def learn_finished(self, output: Path, wanted: Iterable[Mapping[str, Any]]) -> None:
        """Look at the newest finished runs under an output folder, until the networks of `wanted` are known."""
        missing = {network(config) for config in wanted}
        for path in sorted(output.glob(f"*/*/{RESULT}"), key=_changed, reverse=True)[:MOST_RUNS]:
            if not missing:
                return
            folder = RunFolder(path.parent)
            try:
                config = folder.result()["config"]
                if network(config) in missing and self.learn(folder, config):
                    missing.remove(network(config))
            except (BrsweepError, KeyError, TypeError, AttributeError):  # damaged, or of a version before
                continue

    def learn(self, folder: RunFolder, config: Mapping[str, Any]) -> int:
        """Take the times of the epochs on file; how many epochs there are. Raises `BrsweepError`."""
        records = folder.records(skip_damaged=True)
        quantized = {stage.name: stage.quantized for stage in outline(config)} if records else {}
        times: dict[bool, list[float]] = {}
        for record in records:
            seconds = finite(record.get("time_s"))
            if seconds is not None and record["stage"] in quantized:
                times.setdefault(quantized[record["stage"]], []).append(seconds)
        if times:
            self._times[folder.path], self._medians = (network(config), times), None
        return len(records)

    def epoch_s(self, of_network: str, quantized: bool) -> float | None:
        """Seconds of an epoch; None where no epoch of the network is known."""
        if self._medians is None:
            every: dict[tuple[str, bool], list[float]] = {}
            for name, times in self._times.values():
                for kind, seconds in times.items():
                    every.setdefault((name, kind), []).extend(seconds)
            self._medians = {key: statistics.median(seconds) for key, seconds in every.items()}
        return self._medians.get((of_network, quantized), self._medians.get((of_network, not quantized)))

    def task_s(self, task: Task, done: int = 0) -> float | None:
        """Seconds of the task's epochs behind the first `done`; None where that is not known."""
        total, name = 0.0, network(task.config)
        for stage in task.stages:
            left, done = max(0, stage.epochs - done), max(0, done - stage.epochs)
            seconds = self.epoch_s(name, stage.quantized) if left else 0.0
            if seconds is None:
                return None
            total += left * seconds
        return total


def time_left(pace: Pace, tasks: Sequence[Task], done: Mapping[str, int], at_once: int) -> float | None:
    """Seconds until all `tasks`, parents first, have ended; None where the pace of one is not known.

    done: epochs that a task has trained already. at_once: tasks that run at a time. No sweep ends before its longest
    chain of tasks, nor before the mean load of its slots: the larger of the two is told.
    """
    chains: dict[str | None, float] = {}
    total = 0.0
    for task in tasks:
        seconds = pace.task_s(task, done.get(task.name, 0))
        if seconds is None:
            return None
        total += seconds
        chains[task.name] = chains.get(task.parent, 0.0) + seconds
    return max([total / at_once, *chains.values()])


def network(config: Mapping[str, Any]) -> str:
    """The network on its data and device, as far as the time of an epoch depends on them."""
    return digest([config.get(key) for key in ALIKE])


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
