"""A worker's process as its launcher sees it: how it begins, and why it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass

from brsweep.sweep.tree import Task

LOG = "worker.log"
PROGRAM = (sys.executable, "-m", "brsweep.sweep.worker")


@dataclass
class Worker:
    """began: in seconds of the monotonic clock. over_time: it was asked to end because its time was up."""

    task: Task
    process: subprocess.Popen
    device: str | None
    began: float
    over_time: bool = False

    @classmethod
    def start(cls, task: Task, device: str | None, threads: int) -> Worker:
        """Begin a task; what it prints goes to LOG in its folder. Raises OSError where that can't be written.

        The worker is in a session of its own, so that Ctrl-C does not reach it.
        """
        task.folder.path.mkdir(parents=True, exist_ok=True)
        task.folder.forget_failure()
        env = dict(os.environ) | ({} if device is None else {"CUDA_VISIBLE_DEVICES": device})
        env |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
        with open(task.folder.path / LOG, "ab") as log:
            process = subprocess.Popen(
                PROGRAM, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=env, start_new_session=True
            )
        with suppress(BrokenPipeError):  # it died before it read; its exit code says how
            process.stdin.write(json.dumps({"config": task.config, "upto": task.upto}).encode() + b"\n")
            process.stdin.flush()
        return cls(task, process, device, time.monotonic())

    def cause(self, time_limit_s: float | None) -> str:
        """Why it ended, where it left no cause of its own."""
        code = self.process.returncode
        if self.over_time and time_limit_s is not None:
            return f"over the time limit of {time_limit_s / 60:g} minutes; its last checkpoint is kept"
        if code >= 0:
            return f"exit code {code}, without a result"
        name = signal.Signals(-code).name
        return f"killed by {name}" + (" (out of memory, where nobody sent it)" if name == "SIGKILL" else "")
