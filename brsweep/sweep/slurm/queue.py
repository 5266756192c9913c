"""What SLURM says: squeue of the jobs that it still knows, sacct of those before, where the site keeps accounts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from typing import NamedTuple

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


class Job(NamedTuple):
    """state and reason in SLURM's words; name: as submitted."""

    state: str
    reason: str
    name: str

    @property
    def active(self) -> bool:
        """Whether it runs or may still come to run."""
        return self.state not in ENDED and self.reason != NEVER


def squeue() -> dict[str, Job]:
    """This user's jobs by their id, `12`, or `12_0` in an array; those that ended minutes ago are among them.

    Raises `BrsweepError` where SLURM doesn't answer.
    """
    form = "--format=%i|%T|%r|%j"
    answer = _call("squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", form)
    rows = (line.split("|", 3) for line in answer.splitlines() if line.count("|") >= 3)
    return {job_id: Job(state, reason, name) for job_id, state, reason, name in rows}


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
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    except FileNotFoundError:
        raise BrsweepError(f"{command[0]}: not on the PATH; launch on a login node of the cluster") from None
    except subprocess.TimeoutExpired:
        raise BrsweepError(f"{command[0]}: no answer in {PATIENCE_S:.0f} s; try again later") from None
    if done.returncode:
        raise BrsweepError(f"{command[0]}: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}")
    return done.stdout
