"""A sweep on this machine: one process per task, as many at once as there are slots, a child when its parent has ended.

A task that ends in any way but well (an exception, sys.exit, a signal, out of memory, the time limit) ends alone; what
waits for it is cancelled. Tasks that another launcher is at are left to it and looked at again. Workers live in
sessions of their own, so that Ctrl-C reaches the launcher alone, which then ends them in order.

This file is the workers' program too: `python -m brsweep.sweep.local`, with the task as a line of JSON on its input.
The launcher keeps the other end of the input open and writes nothing more to it. When it is gone, however it ended,
the input ends, and so does the worker at once: the last epoch's checkpoint is what the next launch goes on from.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from brsweep import targets
from brsweep.errors import BrsweepError
from brsweep.runs.words import printable
from brsweep.secrets import masked
from brsweep.stages.store import stores
from brsweep.sweep.engine import Engine, is_done
from brsweep.sweep.plan import SweepPlan
from brsweep.sweep.tree import FAILED, FINISHED, Outcome, Task

REAP_S = 0.05
GRACE_S = 15.0
"""A worker that was asked to end and has not by then is killed."""
WORKER_LOG = "worker.log"
ERROR = "error: "
MOST_WORDS = 1000
"""Bytes of a log's end that are looked at for what a worker said last."""
PROGRAM = (sys.executable, "-m", "brsweep.sweep.local")
VISIBLE = "CUDA_VISIBLE_DEVICES"
ORPHANED = 86
"""Exit code of a worker whose launcher is gone."""


class LocalEngine(Engine):
    """devices: one per slot, as CUDA_VISIBLE_DEVICES names them; None leaves the environment's. threads: of each
    worker, 0 for torch's choice. time_limit_s: of one task. retries: of each task. in_process: in this process, one
    task after the other, for a debugger: an exception is raised where it happens."""

    def __init__(
        self,
        devices: Sequence[str | None] = (None,),
        threads: int = 0,
        fail_fast: bool = False,
        retries: int = 0,
        time_limit_s: float | None = None,
        in_process: bool = False,
    ) -> None:
        super().__init__()
        self.devices, self.threads, self.fail_fast = devices, threads, fail_fast
        self.at_once = 1 if in_process else len(devices)
        self.retries, self.time_limit_s, self.in_process = retries, time_limit_s, in_process
        self.running: list[Worker] = []
        self.tries: dict[str, int] = {}
        self.ending = False

    def check(self) -> None:
        """Raise `BrsweepError` unless the devices are among those that this process may use, and runs take the one of
        their worker."""
        visible = os.environ.get(VISIBLE)
        wanted = [device for device in self.devices if device is not None]
        allowed = [name.strip() for name in (visible or "").split(",")]
        alike = [device for device in wanted if all(name.isdigit() == device.isdigit() for name in allowed)]
        outside = [device for device in alike if device not in allowed]
        if visible and outside:
            raise BrsweepError(
                f"hydra.launcher.devices: {outside[0]} is not among {VISIBLE}={visible}; take devices of that list"
            )
        named = [task.config["device"] for task in self.tasks if ":" in task.config["device"]]
        if wanted and named:
            raise BrsweepError(
                f"device={named[0]}: with hydra.launcher.devices each run sees one device alone; take device=cuda"
            )

    def words_at_interrupt(self, plan: SweepPlan) -> str:
        return "interrupted: checkpoints are kept; the same command goes on from them"

    def do(self, plan: SweepPlan) -> list[Outcome]:
        self.threads = self.threads or threads_for(len(self.devices), [task.config for task in plan.tasks])
        if not self.in_process:
            return self.run(plan.tasks)
        for task in plan.tasks:
            self.screen.started(task, None)
            work({"config": task.config, "upto": task.upto})
            self.note(Outcome(task, FINISHED))
        return self.everything()

    def run(self, tasks: Sequence[Task]) -> list[Outcome]:
        """Every task's outcome, in the order of the tasks. On KeyboardInterrupt the workers are asked to end first."""
        self.tasks = tasks
        try:
            while len(self.outcomes) < len(self.tasks):
                for worker in [w for w in self.running if w.process.poll() is not None]:
                    self._reap(worker)
                self._end_overdue()
                if self.ending:
                    self._end_all(signal.SIGINT)
                    break
                self._start_ready()
                self.screen.look([worker.task for worker in self.running], len(self.tasks) - len(self.outcomes))
                time.sleep(REAP_S)
        except KeyboardInterrupt:
            self._end_all(signal.SIGINT)
            raise
        except BaseException:
            self._end_all(signal.SIGKILL)
            raise
        return self.everything()

    def note(self, outcome: Outcome) -> None:
        super().note(outcome)
        self.ending = self.ending or (self.fail_fast and outcome.status == FAILED)

    def _start_ready(self) -> None:
        free = list(self.devices)
        for worker in self.running:
            free.remove(worker.device)
        started = {worker.task.name for worker in self.running}
        for task in self._ready():
            if not free:
                return
            if task.name in started or is_elsewhere(task):
                continue
            if is_done(task):
                self.note(Outcome(task, FINISHED))
                continue
            self._start(task, free.pop(0))

    def _ready(self) -> Iterator[Task]:
        """Tasks whose parent has ended well, in order; those below one that has not are cancelled on the way."""
        for task in self.tasks:
            if task.name in self.outcomes or (task.parent and task.parent not in self.outcomes):
                continue
            cancelled = self.cancelled(task)
            if cancelled is not None:
                self.note(cancelled)
            else:
                yield task

    def _start(self, task: Task, device: str | None) -> None:
        try:
            worker = Worker.start(task, device, self.threads)
        except OSError as error:
            why = f"{task.folder.path}: can't be written ({error.strerror}); free the disk or choose another output_dir"
            self.note(Outcome(task, FAILED, why))
            return
        self.running.append(worker)
        self.tries[task.name] = self.tries.get(task.name, 0) + 1
        self.screen.started(task, device)

    def _reap(self, worker: Worker) -> None:
        self.running.remove(worker)
        worker.let_go()
        task = worker.task
        if is_done(task):  # however the process ended after that
            self.note(Outcome(task, FINISHED))
            return
        if is_elsewhere(task):
            return  # another launcher was a moment faster; it is looked at again
        failure = task.folder.failure()
        if failure is None or worker.over_time:
            failure = {"cause": worker.cause(self.time_limit_s), "log": WORKER_LOG}
            task.folder.write_failure(**failure)
        if self.tries[task.name] <= self.retries:
            return  # it is ready again, and goes on from its checkpoint
        self.note(Outcome(task, FAILED, failure["cause"], task.folder.path / failure["log"]))

    def _end_overdue(self) -> None:
        limit = self.time_limit_s
        for worker in self.running if limit is not None else ():
            over = time.monotonic() - worker.began - limit
            if over > 0 and not worker.over_time:
                worker.over_time = True
                worker.process.send_signal(signal.SIGINT)
            elif over > GRACE_S:
                worker.process.kill()

    def _end_all(self, how: signal.Signals) -> None:
        """End the workers and wait for them; those that take too long, or at a second Ctrl-C all, are killed."""
        for worker in self.running:
            worker.process.send_signal(how)
        deadline = time.monotonic() + GRACE_S
        try:
            for worker in self.running:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            pass
        finally:
            for worker in self.running:
                worker.process.kill()
                worker.process.wait()
                worker.let_go()


def slots(n_jobs: int | None, devices: Sequence[Any] | None, runs_per_device: int) -> list[str | None]:
    """A device for each process that may run at once."""
    if not devices:
        return [None] * (n_jobs or 1)
    every = [str(device) for _ in range(runs_per_device) for device in devices]
    return every[: n_jobs or len(every)]


def threads_for(slot_count: int, configs: Sequence[Mapping[str, Any]]) -> int:
    """CPU threads of each worker, where the runs leave the choice and there are several: the cores, shared out."""
    if slot_count == 1 or any(config["threads"] for config in configs):
        return 0
    return max(1, len(os.sched_getaffinity(0)) // slot_count)


def is_elsewhere(task: Task) -> bool:
    """Whether another process trains the task, or a stage that it would have to train itself."""
    return task.folder.held or any(
        store.in_training(stage.signature) for store in stores(task.config) for stage in task.stages
    )


@dataclass
class Worker:
    """A worker's process as its launcher sees it. began: in seconds of the monotonic clock. log_begin: bytes that
    WORKER_LOG had by then. over_time: it was asked to end because its time was up."""

    task: Task
    process: subprocess.Popen
    device: str | None
    began: float
    log_begin: int
    over_time: bool = False

    @classmethod
    def start(cls, task: Task, device: str | None, threads: int) -> Worker:
        """Begin a task; what it prints goes to WORKER_LOG in its folder. Raises OSError where that can't be written.

        The worker is in a session of its own, so that Ctrl-C does not reach it.
        """
        task.folder.path.mkdir(parents=True, exist_ok=True)
        task.folder.forget_failure()
        env = dict(os.environ) | ({} if device is None else {VISIBLE: device})
        env |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
        with open(task.folder.path / WORKER_LOG, "ab") as log:
            log_begin = log.tell()
            process = subprocess.Popen(
                PROGRAM, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=env, start_new_session=True
            )
        with suppress(BrokenPipeError):  # it died before it read; its exit code says how
            process.stdin.write(json.dumps({"config": task.config, "upto": task.upto}).encode() + b"\n")
            process.stdin.flush()
        return cls(task, process, device, time.monotonic(), log_begin)

    def let_go(self) -> None:
        """Close the launcher's end of the worker's input."""
        with suppress(BrokenPipeError):  # it died before it read what was written
            self.process.stdin.close()

    def cause(self, time_limit_s: float | None) -> str:
        """Why it ended, where it left no cause of its own."""
        code = self.process.returncode
        if self.over_time and time_limit_s is not None:
            return f"over the time limit of {time_limit_s / 60:g} minutes; its last checkpoint is kept"
        if code >= 0:
            last = self._last_words()
            if last.startswith(ERROR):
                return last.removeprefix(ERROR)
            return f"exit code {code}, without a result" + (f" ({last})" if last else "")
        name = signal.Signals(-code).name
        return f"killed by {name}" + (" (out of memory, where nobody sent it)" if name == "SIGKILL" else "")

    def _last_words(self) -> str:
        """The last line that it printed, where there is one."""
        try:
            with open(self.task.folder.path / WORKER_LOG, "rb") as log:
                log.seek(max(self.log_begin, log.seek(0, 2) - MOST_WORDS))
                lines = log.read().decode(errors="replace").split("\n")
        except OSError:
            return ""
        return printable(masked(next((line.strip() for line in reversed(lines) if line.strip()), "")))


# --- inside the worker ------------------------------------------------------------------------------------------------


def work(task: Mapping[str, Any]) -> None:
    """Do a task: `config`, and `upto`, the signature of the shared stage to train, or None for the whole run."""
    from brsweep.runs.execution import execute, execute_shared

    targets.consent(task["config"]["allow_targets"])  # as the launcher's command line gave it
    if task["upto"] is None:
        execute(task["config"])
    else:
        execute_shared(task["config"], task["upto"])


def main() -> None:
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a launcher in a shell's background ignores it
    line = first_line(0)
    if not line.endswith(b"\n"):
        sys.exit(ORPHANED)
    task = json.loads(line)
    threading.Thread(target=follow_launcher, daemon=True).start()
    try:
        work(task)
    except BrsweepError as error:
        print(f"{ERROR}{error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def first_line(descriptor: int) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(descriptor, 65536)
        if not piece:
            break
        line += piece
    return line


def follow_launcher() -> None:
    """End this process when its launcher is gone."""
    while os.read(0, 1):
        pass
    os._exit(ORPHANED)


if __name__ == "__main__":
    main()
