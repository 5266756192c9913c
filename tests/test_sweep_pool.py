"""The pool of workers on a tree of tasks: order, slots, and every way for a worker to end. The workers are fake."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from brsweep.errors import BrsweepError
from brsweep.stages.plan import Stage
from brsweep.stages.store import os_lock
from brsweep.sweep import local
from brsweep.sweep.local import LocalEngine, slots, threads_for
from brsweep.sweep.tree import Task

FAKE = Path(__file__).with_name("fake_worker.py")


@pytest.fixture(autouse=True)
def fake_workers(monkeypatch):
    monkeypatch.setattr(local, "PROGRAM", (sys.executable, str(FAKE)))
    monkeypatch.setenv("PYTHONPATH", str(FAKE.parents[1]))


def task(folder: Path, name: str, parent: str | None = None, run=("finish",), shared=None) -> Task:
    """A run, or, with `shared`, a shared stage whose signature is `name`."""
    config = {
        "output_dir": str(folder), "sweep_name": "s", "store_dir": str(folder / "store"), "fake_name": name,
        "device": "auto",
        "act": {"run": run, "shared": shared}, "pretrained": None, "schedule": {"float_epochs": 1},
    }  # fmt: skip
    above = None if parent is None else f"stages/warmup-{parent}"
    stages = (Stage("warmup" if shared else "br", 0, 1, 1, spec={"for": name}),)
    if shared is None:
        return Task(name, config, None, stages, above, (name,))
    return Task(f"stages/warmup-{name}", config, name, stages, above, ())


def do(tasks: list[Task], **options) -> dict[str, tuple[str, str | None]]:
    outcomes = LocalEngine(**options).run(tasks)
    assert [outcome.task for outcome in outcomes] == tasks
    return {outcome.task.name: (outcome.status, outcome.cause) for outcome in outcomes}


def order(folder: Path) -> list[str]:
    return [line.split()[0] for line in (folder / "s" / "order.txt").read_text().splitlines()]


def test_a_child_starts_after_its_parent_and_the_other_branch_meanwhile(tmp_path):
    tasks = [
        task(tmp_path, "f", shared=("finish",)), task(tmp_path, "a", "f"), task(tmp_path, "b", "f"),
        task(tmp_path, "g", shared=("finish",)), task(tmp_path, "c", "g"),
    ]  # fmt: skip
    done = do(tasks, devices=(None, None))
    assert {status for status, _ in done.values()} == {"finished"}
    began = order(tmp_path)
    assert sorted(began) == ["a", "b", "c", "warmup-f", "warmup-g"]
    assert set(began[:2]) == {"warmup-f", "warmup-g"}, "two slots, and two stems that wait for nothing"


@pytest.mark.parametrize(
    ("act", "cause"),
    [
        ("signal 9", "killed by SIGKILL (out of memory, where nobody sent it)"),
        ("signal 11", "killed by SIGSEGV"),
        ("exit 0", "exit code 0, without a result"),
        ("exit 3", "exit code 3, without a result"),
        ("raise", "ValueError: no"),
    ],
)
def test_a_failing_run_ends_alone_and_leaves_its_cause(tmp_path, act, cause):
    tasks = [task(tmp_path, "a", run=(act,)), task(tmp_path, "b")]
    assert do(tasks) == {"a": ("failed", cause), "b": ("finished", None)}
    assert tasks[0].folder.failure()["cause"] == cause
    assert do(tasks[:1])["a"][0] == "failed", "the same again: it is tried again"


@pytest.mark.parametrize("end", ["exit 3", "signal 9"])
def test_a_worker_that_ends_badly_after_its_result_has_finished(tmp_path, end):
    tasks = [task(tmp_path, "a", run=(f"finish, {end}",))]
    assert do(tasks) == {"a": ("finished", None)}
    assert not (tasks[0].folder.path / "failure.json").exists()


DIES = {
    "exit code 3, without a result": "import os; os._exit(3)",
    "killed by SIGKILL (out of memory, where nobody sent it)": "import os; os.kill(os.getpid(), 9)",
    "exit code 1, without a result (ModuleNotFoundError: No module named 'nowhere')": "import nowhere",
    "no CUDA device here": "import sys; sys.exit('error: no CUDA device here')",
}


@pytest.mark.parametrize("cause", DIES)
@pytest.mark.parametrize("size", [10, 10**6])  # less and more than a pipe holds
def test_a_worker_that_dies_before_it_reads_its_task_is_reported_with_its_cause(tmp_path, monkeypatch, cause, size):
    monkeypatch.setattr(local, "PROGRAM", (sys.executable, "-c", DIES[cause]))
    one = task(tmp_path, "a")
    one.config["padding"] = "x" * size
    one.folder.path.mkdir(parents=True)
    (one.folder.path / "worker.log").write_text("ValueError: of an earlier try\n")
    [outcome] = LocalEngine().run([one])
    assert (outcome.status, outcome.cause, outcome.log) == ("failed", cause, one.folder.path / "worker.log")
    assert one.folder.failure() == {"cause": cause, "log": "worker.log"}


def test_a_worker_whose_launcher_is_gone_before_it_sent_the_task_ends_without_a_word():
    program = (sys.executable, "-m", "brsweep.sweep.local")
    done = subprocess.run(program, input=b'{"config": ', capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (local.ORPHANED, b"", b"")


def test_what_waits_for_a_failed_stage_is_cancelled_and_the_rest_goes_on(tmp_path):
    tasks = [
        task(tmp_path, "f", shared=("finish",)), task(tmp_path, "w", "f", shared=("signal 9",)),
        task(tmp_path, "a", "w"), task(tmp_path, "b", "w"), task(tmp_path, "c", "f"),
    ]  # fmt: skip
    done = do(tasks)
    assert [done[name][0] for name in ("a", "b", "c")] == ["cancelled", "cancelled", "finished"]
    assert done["a"][1] == "stages/warmup-w failed"
    assert not tasks[2].folder.path.exists()


def test_retries_go_on_until_they_are_used_up(tmp_path):
    assert do([task(tmp_path, "a", run=("signal 9", "exit 1", "finish"))], retries=2)["a"][0] == "finished"
    assert do([task(tmp_path, "b", run=("signal 9", "exit 1", "finish"))], retries=1)["b"] == (
        "failed", "exit code 1, without a result",
    )  # fmt: skip


def test_fail_fast_ends_the_others_and_starts_no_more(tmp_path):
    tasks = [
        task(tmp_path, "a", run=("sleep",)), task(tmp_path, "b", run=("exit 1",)), task(tmp_path, "c"),
    ]  # fmt: skip
    done = do(tasks, devices=(None, None), fail_fast=True)
    assert [done[name][0] for name in "abc"] == ["interrupted", "failed", "interrupted"]
    assert not tasks[2].folder.path.exists()


def test_a_run_over_its_time_is_ended_and_says_so(tmp_path):
    done = do([task(tmp_path, "a", run=("sleep",)), task(tmp_path, "b")], time_limit_s=3)
    assert done["a"] == ("failed", "over the time limit of 0.05 minutes; its last checkpoint is kept")
    assert done["b"][0] == "finished"


def test_each_device_has_one_run_at_a_time_and_the_threads_are_set(tmp_path):
    tasks = [task(tmp_path, name) for name in "abcdef"]
    do(tasks, devices=("2", "5"), threads=3)
    lines = [line.split() for line in (tmp_path / "s" / "order.txt").read_text().splitlines()]
    assert {device for _, device, _ in lines} == {"2", "5"} and {threads for *_, threads in lines} == {"3"}


def test_what_another_launcher_trains_is_left_to_it(tmp_path):
    tasks = [task(tmp_path, "a", run=("exit 1",)), task(tmp_path, "b")]
    folder = tasks[0].folder
    folder.path.mkdir(parents=True)

    def finish_elsewhere() -> None:
        while not tasks[1].folder.result():
            time.sleep(0.01)
        folder.write_result({"status": "finished", "test_accuracy": 0.5, "val_accuracy": 1})
        lock.__exit__(None, None, None)

    lock = os_lock(folder.path / ".lock")
    lock.__enter__()
    other = threading.Thread(target=finish_elsewhere)
    other.start()
    done = do(tasks)
    other.join()
    assert {status for status, _ in done.values()} == {"finished"}
    assert order(tmp_path) == ["b"], "the held run was not started here, and the other did not wait for it"


def test_an_interrupt_ends_the_workers_and_is_passed_on(tmp_path, monkeypatch):
    tasks = [task(tmp_path, "a", run=("sleep",))]
    workers = LocalEngine()

    def interrupt(running, left):
        if (tmp_path / "s" / "order.txt").exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(workers.screen, "look", interrupt)
    with pytest.raises(KeyboardInterrupt):
        workers.run(tasks)
    assert workers.running[0].process.returncode is not None


def test_a_clock_that_jumps_ends_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert do([task(tmp_path, "a")], time_limit_s=30)["a"][0] == "finished"


def test_a_worker_dies_with_its_launcher(tmp_path):
    """The launcher is killed; the worker, asleep for a minute, is gone at once."""
    program = (
        "import sys; from pathlib import Path; from brsweep.sweep import local\n"
        f"local.PROGRAM = (sys.executable, {str(FAKE)!r})\n"
        f"sys.path.insert(0, {str(FAKE.parent)!r})\n"
        "from test_sweep_pool import task; from brsweep.sweep.local import Worker\n"
        f"worker = Worker.start(task(Path({str(tmp_path)!r}), 'a', run=('sleep',)), None, 0)\n"
        "print(worker.process.pid, flush=True)\n"
        "import time; time.sleep(60)\n"
    )
    launcher = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=FAKE.parents[1])
    with launcher:
        worker = int(launcher.stdout.readline())
        while not (tmp_path / "s" / "order.txt").exists():
            time.sleep(0.01)
        launcher.kill()
    for _ in range(1000):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{worker}/stat").read_text().split()[2] == "Z":
            return
        time.sleep(0.01)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlived its launcher by ten seconds")


@pytest.mark.parametrize(
    ("devices", "visible", "says"),
    [
        (("0", "1"), None, None),
        (("0", "1"), "0,1,2", None),
        (("0", "3"), "0, 1,2", "hydra.launcher.devices: 3 is not among CUDA_VISIBLE_DEVICES=0, 1,2; take devices of"),
        (("MIG-1a/1/0",), "MIG-1a/1/0,MIG-1a/2/0", None),
        (("GPU-2b",), "GPU-1a", "hydra.launcher.devices: GPU-2b is not among CUDA_VISIBLE_DEVICES=GPU-1a"),
        (("0",), "GPU-1a", None),  # names of two kinds can't be compared
        ((None, None), "3", None),
    ],
)
def test_devices_are_those_that_the_launcher_may_use(devices, visible, says, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    if says is None:
        LocalEngine(devices).check()
    else:
        with pytest.raises(BrsweepError, match=re.escape(says)):
            LocalEngine(devices).check()


def test_a_worker_sees_one_device_so_no_run_may_name_another(tmp_path):
    numbered = task(tmp_path, "a")
    numbered.config["device"] = "cuda:1"
    alone, in_turn = LocalEngine(("0",)), LocalEngine()
    alone.tasks = in_turn.tasks = [numbered]
    in_turn.check()
    with pytest.raises(BrsweepError, match=r"^device=cuda:1: .* each run sees one device alone; take device=cuda"):
        alone.check()


def test_slots_and_threads():
    assert slots(None, None, 1) == [None] and slots(3, None, 1) == [None] * 3
    assert slots(None, [0, 1], 2) == ["0", "1", "0", "1"] and slots(3, [0, 1], 2) == ["0", "1", "0"]
    cores = len(os.sched_getaffinity(0))
    assert threads_for(1, [{"threads": 0}]) == 0
    assert threads_for(2, [{"threads": 0}]) == max(1, cores // 2)
    assert threads_for(2, [{"threads": 0}, {"threads": 4}]) == 0


def test_the_polling_asks_no_lock_while_every_slot_is_taken(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(local, "is_elsewhere", lambda task: asked.append(task.name) or False)
    workers = LocalEngine()
    workers.tasks = [task(tmp_path, "a", run=("sleep",)), task(tmp_path, "b")]
    for _ in range(3):
        workers._start_ready()
    assert asked == ["a"]
    workers._end_all(signal.SIGKILL)
