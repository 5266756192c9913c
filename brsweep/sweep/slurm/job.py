"""A task on a compute node, as submitit calls it there; and a note of what the node was.

submitit's signal handler requeues the job when its time is nearly up or it is preempted, and pickles what `checkpoint`
returns: the same task again, since a task goes on from its last epoch by itself.
"""

from __future__ import annotations

import faulthandler
import json
import os
import platform
import socket
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from brsweep.errors import BrsweepError
from brsweep.runs.folder import RunFolder, write_atomically
from brsweep.sweep.worker import work

ENVIRONMENT = "environment.json"
TOLD = (
    "SLURM_CLUSTER_NAME", "SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT",
    "SLURM_JOB_PARTITION", "SLURM_JOB_ACCOUNT", "SLURM_JOB_QOS", "SLURM_JOB_NODELIST", "SLURM_CPUS_PER_TASK",
    "SLURM_CPUS_ON_NODE", "SLURM_MEM_PER_NODE", "SLURM_JOB_GPUS", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS",
)  # fmt: skip
"""Variables that are noted, by name: others may hold secrets."""


class Job:
    """task: as `worker.work` takes it. folder: the task's."""

    def __init__(self, task: Mapping[str, Any], folder: Path) -> None:
        self.task, self.folder = task, folder

    def __call__(self) -> None:
        faulthandler.enable()
        folder = RunFolder(self.folder)
        folder.forget_failure()
        try:
            write_atomically(self.folder / ENVIRONMENT, json.dumps(environment(), indent=1) + "\n")
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
