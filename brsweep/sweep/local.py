"""A sweep on this machine: where its runs go, and in which form."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from brsweep.errors import BrsweepError
from brsweep.sweep.plan import FINISHED, Outcome, SweepPlan, check_grid, close
from brsweep.sweep.pool import LocalPool, Options, Screen
from brsweep.sweep.screen import screen
from brsweep.sweep.tree import Task


def launch(
    plan: SweepPlan,
    command: str,
    *,
    n_jobs: int | None,
    devices: Sequence[Any] | None,
    runs_per_device: int,
    fail_fast: bool,
    retries: int,
    time_limit_min: float | None,
    in_process: bool,
    dry_run: bool,
) -> dict[str, Mapping[str, Any]]:
    """Do what the plan holds on this machine and return the results by run name; see `LocalConf` for the options.

    Raises `BrsweepError` where a run is not finished in the end, and KeyboardInterrupt when it was asked to stop.
    """
    places = slots(n_jobs, devices, runs_per_device)
    if dry_run:
        print("\n".join([*plan.lines(), *plan.tree()]))
        return dict(plan.finished)
    if plan.tasks:
        check_grid(plan)
    plan.begin(command)
    shown = screen(plan.words)
    try:
        for line in plan.lines():
            shown.say(line)
        if in_process:
            outcomes = do_here(plan.tasks, shown)
        else:
            limit = None if time_limit_min is None else 60 * time_limit_min
            threads = threads_for(len(places), [task.config for task in plan.tasks])
            outcomes = LocalPool(plan.tasks, Options(places, threads, fail_fast, retries, limit), shown).run()
    except KeyboardInterrupt:
        shown.say("interrupted: checkpoints are kept; the same command goes on from them")
        raise
    finally:
        shown.close()
    close(plan, outcomes, shown.say)
    return {run.name: run.folder.result() for run in plan.runs}


def do_here(tasks: Sequence[Task], screen: Screen) -> list[Outcome]:
    """The tasks in this process, one after the other, for a debugger: an exception is raised where it happens."""
    from brsweep.sweep.worker import work

    outcomes = []
    for task in tasks:
        screen.started(task, None)
        work({"config": task.config, "upto": task.upto})
        outcomes.append(Outcome(task, FINISHED))
        screen.ended(outcomes[-1])
    return outcomes


def slots(n_jobs: int | None, devices: Sequence[Any] | None, runs_per_device: int) -> list[str | None]:
    """A device for each process that may run at once."""
    if runs_per_device < 1 or (n_jobs is not None and n_jobs < 1):
        raise BrsweepError("hydra.launcher.n_jobs and runs_per_device: whole numbers, 1 or more")
    if not devices:
        return [None] * (n_jobs or 1)
    every = [str(device) for _ in range(runs_per_device) for device in devices]
    return every[: n_jobs or len(every)]


def threads_for(slot_count: int, configs: Sequence[Mapping[str, Any]]) -> int:
    """CPU threads of each worker, where the runs leave the choice and there are several: the cores, shared out."""
    if slot_count == 1 or any(config["threads"] for config in configs):
        return 0
    return max(1, len(os.sched_getaffinity(0)) // slot_count)
