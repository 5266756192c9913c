"""A sweep's tasks as jobs: which of them need one, their job arrays, the record of them, and what runs on the node.

    <sweep>/slurm.json    {"version": 1, "jobs": {<task's name>: <job id>, ...}}
    <sweep>/slurm/        submitit's: the scripts, the pickled tasks, the jobs' logs

Tasks with one parent are one array, which waits for the parent's job and holds no node meanwhile. Arrays are submitted
one by one, each recorded before the next. On the node submitit's signal handler requeues the job when its time is
nearly up or it is preempted, and pickles what `checkpoint` returns: the same task again, since a task goes on from its
last epoch by itself.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import os
import platform
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from brsweep.errors import BrsweepError
from brsweep.runs.folder import RunFolder, write_atomically
from brsweep.stages.store import os_lock
from brsweep.sweep.engine import is_done
from brsweep.sweep.local import work
from brsweep.sweep.plan import SweepPlan
from brsweep.sweep.slurm import cluster
from brsweep.sweep.slurm.cluster import JobState, Request
from brsweep.sweep.tree import Task

RECORD, RECORD_VERSION, FOLDER = "slurm.json", 1, "slurm"
NODE_FILE = "environment.json"
TOLD = (
    "SLURM_CLUSTER_NAME", "SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT",
    "SLURM_JOB_PARTITION", "SLURM_JOB_ACCOUNT", "SLURM_JOB_QOS", "SLURM_JOB_NODELIST", "SLURM_CPUS_PER_TASK",
    "SLURM_CPUS_ON_NODE", "SLURM_MEM_PER_NODE", "SLURM_JOB_GPUS", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS",
)  # fmt: skip
"""Variables that are noted, by name: others may hold secrets."""


@dataclass(frozen=True)
class JobArray:
    """Tasks that are submitted together. parent: the name of the task that has to end well first; None for none."""

    parent: str | None
    tasks: tuple[Task, ...]


def job_arrays(tasks: Sequence[Task], largest: int) -> list[JobArray]:
    """The arrays of `tasks`, which come parents first, and so do the arrays. largest: tasks in one array, at most."""
    groups: dict[str | None, list[Task]] = {}
    for task in tasks:
        groups.setdefault(task.parent, []).append(task)
    return [
        JobArray(parent, tuple(group[i : i + largest]))
        for parent, group in groups.items()
        for i in range(0, len(group), largest)
    ]


def check_installed() -> None:
    """Raise `BrsweepError` unless submitit and SLURM's commands are here."""
    if find_spec("submitit") is None:
        raise BrsweepError("hydra/launcher=slurm: submitit is not installed; pip install brsweep[slurm]")
    if not cluster.is_installed():
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
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["version"] == RECORD_VERSION:
            return dict(record["jobs"])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise BrsweepError(
        f"{path}: damaged; end the sweep's jobs (scancel --name={job_name(sweep)}), remove it and launch again"
    )


def split(
    tasks: Sequence[Task], jobs: Mapping[str, str], known: Mapping[str, JobState], done: Callable[[Task], bool]
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
        if job is not None and job.active and not (anew and job.state == cluster.PENDING):
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
            cluster.cancel(replaced)
        if queued:
            say(f"attached to jobs in the queue: {len(queued)}")
        live = {task.name for task in queued}
        for array in job_arrays(needed, largest or cluster.largest_array()) if needed else ():
            after = jobs[array.parent] if array.parent in live else None
            ids = _submit_array(plan.path, array.tasks, request, after)
            jobs |= {task.name: job_id for task, job_id in zip(array.tasks, ids, strict=True)}
            live |= {task.name for task in array.tasks}
            write_atomically(plan.path / RECORD, json.dumps({"version": RECORD_VERSION, "jobs": jobs}, indent=1) + "\n")
            number = ids[0].split("_")[0]
            say(f"submitted job {number}: tasks {len(ids)}" + (f", after job {after}" if after else ""))
    return jobs


def own_jobs(sweep: Path) -> dict[str, JobState]:
    """What SLURM says of the sweep's jobs; a number that another cluster gave to another job is none of them."""
    return {job_id: job for job_id, job in cluster.squeue().items() if job.name == job_name(sweep)}


def _waits(job: JobState | None) -> bool:
    return job is not None and job.state == cluster.PENDING


def _submit_array(sweep: Path, tasks: Sequence[Task], request: Request, after: str | None) -> list[str]:
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    for task in tasks:
        task.folder.forget_failure()
    executor: Any = SlurmExecutor(sweep / FOLDER, max_num_timeout=request.max_num_timeout)
    executor.update_parameters(**request.parameters(job_name(sweep), after))
    calls = [TaskCall({"config": task.config, "upto": task.upto}, task.folder.path) for task in tasks]
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what it raises
            return [job.job_id for job in executor.submit_array(calls)]
    except (FailedJobError, FailedSubmissionError) as error:
        line = " ".join(str(error).split())
        raise BrsweepError(f"{line} (what was submitted before goes on; the same command submits the rest)") from None


# --- on the node ------------------------------------------------------------------------------------------------------


class TaskCall:
    """task: as `worker.work` takes it. folder: the task's."""

    def __init__(self, task: Mapping[str, Any], folder: Path) -> None:
        self.task, self.folder = task, folder

    def __call__(self) -> None:
        faulthandler.enable()
        folder = RunFolder(self.folder)
        folder.forget_failure()
        try:
            write_atomically(self.folder / NODE_FILE, json.dumps(environment(), indent=1) + "\n")
            work(self.task)
        except Exception as error:
            if folder.failure() is None and not folder.held:  # it failed before the training began
                cause = str(error) if isinstance(error, BrsweepError) else f"{type(error).__name__}: {error}"
                folder.write_failure(cause, _log_from(self.folder))
            raise

    def checkpoint(self) -> Any:
        """What submitit pickles for the requeued job."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def environment() -> dict[str, Any]:
    """The node as the job finds it: host, harmless variables, CUDA devices, versions."""
    import torch

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)),
        "cuda_devices": devices,
        "versions": {"python": platform.python_version(), "cuda": torch.version.cuda}
        | {name: version(name) for name in ("torch", "numpy", "numba", "submitit")},
        "executable": sys.executable,
        "variables": {name: os.environ[name] for name in TOLD if name in os.environ},
    }


def _log_from(folder: Path) -> str:
    """The job's own log, as seen from `folder`."""
    from submitit import JobEnvironment

    return os.path.relpath(JobEnvironment().paths.stdout, folder)
