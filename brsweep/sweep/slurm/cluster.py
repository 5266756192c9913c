"""A SLURM cluster: what each job asks of it, and what it says of jobs. In sbatch's words, as submitit takes them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from brsweep.errors import BrsweepError

ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
}  # fmt: skip
RUNNING, PENDING, CANCELLED = "RUNNING", "PENDING", "CANCELLED"
NEVER = "DependencyNeverSatisfied"
PATIENCE_S = 120.0
USUAL_MAX_ARRAY_SIZE = 1001
"""SLURM's default of MaxArraySize, for a plan that is made where there is no SLURM."""


class JobState(NamedTuple):
    """A job as squeue tells of it. state and reason in SLURM's words; name: as submitted."""

    state: str
    reason: str
    name: str

    @property
    def active(self) -> bool:
        """Whether it runs or may still come to run."""
        return self.state not in ENDED and self.reason != NEVER


def squeue() -> dict[str, JobState]:
    """This user's jobs by their id, `12`, or `12_0` in an array; those that ended minutes ago are among them.

    Raises `BrsweepError` where SLURM doesn't answer.
    """
    form = "--format=%i|%T|%r|%j"
    answer = _call("squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", form)
    rows = (line.split("|", 3) for line in answer.splitlines() if line.count("|") >= 3)
    return {job_id: JobState(state, reason, name) for job_id, state, reason, name in rows}


def state_in_accounts(job_id: str) -> str | None:
    """How a job ended that squeue has forgotten; None where the site keeps no accounts, or they don't tell."""
    try:
        answer = _call("sacct", "--noheader", "--allocations", "--parsable2", "--format=State", f"--jobs={job_id}")
    except BrsweepError:
        return None
    words = answer.split()
    return words[0] if words and words[0] in ENDED else None


def largest_array() -> int:
    """How many tasks an array may have on this site. Raises `BrsweepError` where SLURM doesn't answer."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _call("scontrol", "show", "config"), re.MULTILINE)
    return max(1, int(found.group(1))) if found else USUAL_MAX_ARRAY_SIZE


def cancel(job_ids: Iterable[str]) -> None:
    _call("scancel", *job_ids)


def is_installed() -> bool:
    return all(shutil.which(program) for program in ("sbatch", "srun", "squeue"))


def _call(*command: str) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=PATIENCE_S, check=False
        )
    except FileNotFoundError:
        raise BrsweepError(f"{command[0]}: not on the PATH; launch on a login node of the cluster") from None
    except subprocess.TimeoutExpired:
        raise BrsweepError(f"{command[0]}: no answer in {PATIENCE_S:.0f} s; try again later") from None
    if done.returncode:
        raise BrsweepError(f"{command[0]}: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}")
    return done.stdout


@dataclass(frozen=True)
class Request:
    """One job's share: the options of `SlurmConf` that go to sbatch; None leaves the site's default."""

    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    gres: str | None
    gpus_per_node: int | None
    cpus_per_task: int | None
    mem_gb: float | None
    timeout_min: int
    signal_delay_s: int
    max_num_timeout: int
    array_parallelism: int
    setup: Sequence[str]
    additional_parameters: Mapping[str, Any]

    def parameters(self, job_name: str, after: str | None) -> dict[str, Any]:
        """For submitit's `SlurmExecutor.update_parameters`. after: the job that has to end well first.

        A job whose parent fails leaves the queue at once. It may be requeued, since it goes on from its checkpoint.
        srun has not taken the CPUs of a job from sbatch since SLURM 22.05, so it is told; and so are the training's
        threads, since not every site binds a job to its CPUs.
        """
        cpus = self.cpus_per_task
        threads = [] if cpus is None else [f"export OMP_NUM_THREADS={cpus}"]
        asked = {
            "job_name": job_name,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "gres": self.gres,
            "gpus_per_node": self.gpus_per_node,
            "cpus_per_task": cpus,
            "mem": None if self.mem_gb is None else f"{round(self.mem_gb * 1024)}M",
            "time": self.timeout_min,
            "signal_delay_s": self.signal_delay_s,
            "array_parallelism": self.array_parallelism,
            "stderr_to_stdout": True,
            "dependency": None if after is None else f"afterok:{after}",
            "setup": [*threads, *self.setup] or None,
            "srun_args": None if cpus is None else [f"--cpus-per-task={cpus}"],
            "additional_parameters": {"requeue": True, "kill-on-invalid-dep": "yes"} | dict(self.additional_parameters),
        }
        return {key: value for key, value in asked.items() if value is not None}
