"""A sweep on a SLURM cluster, for one command: submit what is missing, attach to the rest, report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from brsweep.errors import BrsweepError
from brsweep.sweep.plan import SweepPlan, check_grid, close
from brsweep.sweep.screen import screen
from brsweep.sweep.slurm import queue
from brsweep.sweep.slurm.arrays import arrays
from brsweep.sweep.slurm.request import Request
from brsweep.sweep.slurm.submit import check_installed, job_name, submit
from brsweep.sweep.slurm.watch import Watch


def launch(
    plan: SweepPlan,
    command: str,
    *,
    max_array_size: int | None,
    poll_s: float,
    wait: bool,
    dry_run: bool,
    **request: Any,
) -> dict[str, Mapping[str, Any]]:
    """Do what the plan holds on the cluster and return the results by run name; see `SlurmConf` for the options.

    Raises `BrsweepError` where a run is not finished in the end, and KeyboardInterrupt where it stops waiting.
    """
    asked = Request(**request)
    if max_array_size is not None and max_array_size < 1:
        raise BrsweepError(f"hydra.launcher.max_array_size={max_array_size}: tasks in one array, 1 or more")
    if dry_run:
        print("\n".join([*plan.lines(), *plan.tree(), *array_lines(plan, max_array_size)]))
        return dict(plan.finished)
    if plan.tasks:
        check_installed()
        check_grid(plan, device=False)
    plan.begin(command)
    shown = screen(plan.words)
    try:
        for line in plan.lines():
            shown.say(line)
        jobs = submit(plan, asked, max_array_size, shown.say) if plan.tasks else {}
        if plan.tasks and not wait:
            shown.say(f"the same command waits for the jobs and reports; status: python -m brsweep.sweep {plan.path}")
            return dict(plan.finished)
        outcomes = Watch(plan.path, plan.tasks, jobs, shown, shown.say, poll_s).run()
    except KeyboardInterrupt:
        shown.say(
            f"detached: the jobs go on, and the same command attaches to them again; "
            f"scancel --name={job_name(plan.path)} ends them"
        )
        raise
    finally:
        shown.close()
    close(plan, outcomes, shown.say)
    return {run.name: run.folder.result() for run in plan.runs}


def array_lines(plan: SweepPlan, max_array_size: int | None) -> list[str]:
    """The arrays that would be submitted, were none of their jobs in the queue. Needs no SLURM."""
    try:
        largest = max_array_size or queue.largest_array()
    except BrsweepError:
        largest = queue.USUAL_MAX_ARRAY_SIZE
    found = arrays(plan.tasks, largest)
    number = {task.name: i for i, array in enumerate(found, 1) for task in array.tasks}
    return [
        f"job array {i}: tasks {len(array.tasks)}"
        + ("" if array.parent is None else f", after {array.parent} of array {number[array.parent]}")
        for i, array in enumerate(found, 1)
    ]
