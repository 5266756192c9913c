"""A sweep's tasks as jobs: which of them need one, their job arrays, the record of them, and what runs on the node.

    <sweep>/slurm.json    {"version": 1, "jobs": {<task's name>: <job id>, ...}}
    <sweep>/slurm/        submitit's: the scripts, the pickled tasks, the jobs' logs

Tasks with one parent are one array, which waits for the parent's job and holds no node meanwhile. Arrays are submitted
one by one, each recorded before the next; one that sbatch refuses leaves nothing behind. On the node submitit's signal
handler requeues the job when its time is nearly up or it is preempted, and pickles what `checkpoint` returns: the same
task again, since a task goes on from its last epoch by itself.
"""

from __future__ import annotations

import faulthandler
import io
import json
import os
import platform
import re
import socket
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, redirect_stderr, suppress
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from brsweep.errors import BrsweepError
from brsweep.files import read_file
from brsweep.runs.files import write_atomically
from brsweep.stages.store import os_lock
from brsweep.sweep.engine import is_done
from brsweep.sweep.local import work
from brsweep.sweep.plan import SweepPlan
from brsweep.sweep.slurm import cluster
from brsweep.sweep.slurm.cluster import JobState, Request
from brsweep.sweep.tree import Task

RECORD, RECORD_VERSION, RECORD_LOCK, FOLDER = "slurm.json", 1, ".slurm.lock", "slurm"
LARGEST_RECORD = 64 * 2**20
"""Bytes; a hundred thousand tasks need a tenth of it."""
UNSENT = re.compile(r"[0-9a-f]{32}\.pkl|\.submission_file_[0-9a-f]{32}\.sh")
"""submitit's files of a submission that has no job yet."""
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
        record = json.loads(read_file(path, LARGEST_RECORD).decode())
        whole = record["version"] == RECORD_VERSION and isinstance(record["jobs"], dict)
        if whole and all(isinstance(job_id, str) for job_id in record["jobs"].values()):
            return record["jobs"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
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


def submit(
    plan: SweepPlan,
    request: Request,
    largest: int | None,
    say: Callable[[str], None],
    accepted: Callable[[], None] = lambda: None,
) -> dict[str, str]:
    """Submit what is not in the queue; the job of each task.

    accepted: called once, when the first task has a job. Raises `BrsweepError` where SLURM refuses one; what was
    refused leaves nothing behind then, and keeps its earlier result.
    """
    made = [folder for folder in (plan.path, *plan.path.parents) if not folder.exists()]
    try:
        with os_lock(plan.path / RECORD_LOCK, lambda: say("another launcher submits this sweep; waiting for it")):
            try:
                return _submit(plan, request, largest, say, accepted)
            except BaseException:
                if made and not (plan.path / RECORD).exists():
                    (plan.path / RECORD_LOCK).unlink()
                raise
    except BaseException:
        for folder in (plan.path / FOLDER, *made):
            with suppress(OSError):  # it holds something, or was never made
                folder.rmdir()
        raise


def _submit(
    plan: SweepPlan,
    request: Request,
    largest: int | None,
    say: Callable[[str], None],
    accepted: Callable[[], None],
) -> dict[str, str]:
    jobs, known = read_jobs(plan.path), own_jobs(plan.path)
    queued, needed = split(plan.tasks, jobs, known, lambda task: task.name not in plan.outdated and is_done(task))
    largest = largest or (cluster.largest_array() if needed else 1)
    replaced = [jobs[t.name] for t in needed if t.name in jobs and _waits(known.get(jobs[t.name]))]
    if replaced:
        cluster.cancel(replaced)
    if queued:
        say(f"attached to jobs in the queue: {len(queued)}")
    if queued or not needed:
        accepted()
    live = {task.name for task in queued}
    for array in job_arrays(needed, largest):
        after = jobs[array.parent] if array.parent in live else None
        with ExitStack() as begun:
            for task in array.tasks:
                begun.enter_context(task.folder.anew())
            ids = _submit_array(plan.path, array.tasks, request, after)
        jobs |= {task.name: job_id for task, job_id in zip(array.tasks, ids, strict=True)}
        write_atomically(plan.path / RECORD, json.dumps({"version": RECORD_VERSION, "jobs": jobs}, indent=1) + "\n")
        if not live:
            accepted()
        live |= {task.name for task in array.tasks}
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

    executor: Any = SlurmExecutor(sweep / FOLDER, max_num_timeout=request.max_num_timeout)
    executor.update_parameters(**request.parameters(job_name(sweep), after))
    try:
        with redirect_stderr(io.StringIO()):  # submitit prints what it raises
            return [job.job_id for job in executor.submit_array([TaskCall(task) for task in tasks])]
    except BaseException as error:
        for path in (sweep / FOLDER).glob("*"):
            if UNSENT.fullmatch(path.name) and not path.is_symlink():
                path.unlink()
        if not isinstance(error, (FailedJobError, FailedSubmissionError, OSError)):
            raise
        line = " ".join(str(error).split())
        raise BrsweepError(f"{line} (what was submitted before goes on; the same command submits the rest)") from None


# --- on the node ------------------------------------------------------------------------------------------------------


class TaskCall:
    """A task as submitit pickles it, and calls it on the node."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __call__(self) -> None:
        """Do the task. One that is done already, or was done before something else failed, ends well and says so."""
        faulthandler.enable()
        task, folder = self.task, self.task.folder
        if is_done(task):
            print(f"finished already: {folder.path}")
            return
        folder.forget_failure()
        try:
            write_atomically(folder.path / NODE_FILE, json.dumps(environment(), indent=1) + "\n")
            work({"config": task.config, "upto": task.upto})
        except Exception as error:
            if is_done(task):
                traceback.print_exc()
                print(f"finished all the same: {folder.path}")
                return
            if folder.failure() is None and not folder.held:  # it failed before the training began
                cause = str(error) if isinstance(error, BrsweepError) else f"{type(error).__name__}: {error}"
                folder.write_failure(cause, _log_from(folder.path))
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
