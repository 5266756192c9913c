"""Which tasks need a job, and their jobs: submitted array by array, each recorded before the next.

<sweep>/slurm.json    {"version": 1, "jobs": {<task's name>: <job id>, ...}}
<sweep>/slurm/        submitit's: the scripts, the pickled tasks, the jobs' logs
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from brsweep.errors import BrsweepError
from brsweep.stages.store import os_lock
from brsweep.sweep.folder import write_atomically
from brsweep.sweep.launch import SweepPlan
from brsweep.sweep.pool import is_done
from brsweep.sweep.slurm import queue
from brsweep.sweep.slurm.arrays import arrays
from brsweep.sweep.slurm.job import Job
from brsweep.sweep.slurm.request import Request
from brsweep.sweep.tree import Task

RECORD, VERSION, FOLDER = "slurm.json", 1, "slurm"


def check_installed() -> None:
    """Raise `BrsweepError` unless submitit and SLURM's commands are here."""
    if find_spec("submitit") is None:
        raise BrsweepError("hydra/launcher=slurm: submitit is not installed; pip install brsweep[slurm]")
    if not queue.is_installed():
        raise BrsweepError(
            "hydra/launcher=slurm: sbatch, srun or squeue is not on the PATH; launch on a login node of the cluster, "
            "or take hydra/launcher=local"
        )


def job_name(sweep: Path) -> str:
    return f"brsweep-{sweep.name}"


def log_of(sweep: Path, job_id: str) -> Path:
    return sweep / FOLDER / f"{job_id}_0_log.out"


def read_jobs(sweep: Path) -> dict[str, str]:
    """The ids of the jobs that were submitted, by their task's name."""
    path = sweep / RECORD
    try:
        record = json.loads(path.read_text())
        if record["version"] == VERSION:
            return dict(record["jobs"])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise BrsweepError(
        f"{path}: damaged; end the sweep's jobs (scancel --name={job_name(sweep)}), remove it and launch again"
    )


def split(
    tasks: Sequence[Task], jobs: Mapping[str, str], known: Mapping[str, queue.Job], done: Callable[[Task], bool]
) -> tuple[list[Task], list[Task]]:
    """The tasks that are in the queue, and those that have to be submitted, parents first.

    jobs: recorded ids. known: what SLURM says of them. A job that waits for a parent that is submitted anew would wait
    for the old one's job, so it is submitted anew as well.
    """
    queued: list[Task] = []
    needed: list[Task] = []
    for task in tasks:
        job = known.get(jobs.get(task.name, ""))
        anew = any(task.parent == above.name for above in needed)
        if job is not None and job.active and not (anew and job.state == queue.PENDING):
            queued.append(task)
        elif not done(task):
            needed.append(task)
    return queued, needed


def submit(plan: SweepPlan, request: Request, largest: int | None, say: Callable[[str], None]) -> dict[str, str]:
    """Submit what is not in the queue; the job of each task. Raises `BrsweepError` where SLURM refuses one."""
    with os_lock(plan.path / ".slurm.lock", lambda: say("another launcher submits this sweep; waiting for it")):
        jobs, known = read_jobs(plan.path), own_jobs(plan.path)
        queued, needed = split(plan.tasks, jobs, known, is_done)
        replaced = [jobs[t.name] for t in needed if t.name in jobs and _waits(known.get(jobs[t.name]))]
        if replaced:
            queue.cancel(replaced)
        if queued:
            say(f"attached to jobs in the queue: {len(queued)}")
        live = {task.name for task in queued}
        for array in arrays(needed, largest or queue.largest_array()) if needed else ():
            after = jobs[array.parent] if array.parent in live else None
            ids = _submit_array(plan.path, array.tasks, request, after)
            jobs |= {task.name: job_id for task, job_id in zip(array.tasks, ids, strict=True)}
            live |= {task.name for task in array.tasks}
            write_atomically(plan.path / RECORD, json.dumps({"version": VERSION, "jobs": jobs}, indent=1) + "\n")
            number = ids[0].split("_")[0]
            say(f"submitted job {number}: tasks {len(ids)}" + (f", after job {after}" if after else ""))
    return jobs


def own_jobs(sweep: Path) -> dict[str, queue.Job]:
    """What SLURM says of the sweep's jobs; a number that another cluster gave to another job is none of them."""
    return {job_id: job for job_id, job in queue.squeue().items() if job.name == job_name(sweep)}


def _waits(job: queue.Job | None) -> bool:
    return job is not None and job.state == queue.PENDING


def _submit_array(sweep: Path, tasks: Sequence[Task], request: Request, after: str | None) -> list[str]:
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    for task in tasks:
        task.folder.forget_failure()
    executor: Any = SlurmExecutor(sweep / FOLDER, max_num_timeout=request.max_num_timeout)
    executor.update_parameters(**request.parameters(job_name(sweep), after))
    calls = [Job({"config": task.config, "upto": task.upto}, task.folder.path) for task in tasks]
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what it raises
            return [job.job_id for job in executor.submit_array(calls)]
    except (FailedJobError, FailedSubmissionError) as error:
        line = " ".join(str(error).split())
        raise BrsweepError(f"{line} (what was submitted before goes on; the same command submits the rest)") from None
