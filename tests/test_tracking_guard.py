"""The guard: whatever a tracker does, from its constructor to its end, the run goes on, in time and with one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from faulty_trackers import METHODS, ORDER, RECORD, doing, hang, live

from brsweep.tracking.tracker import Guarded, RunInfo, Tracker, one_line


class Unreadable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class Foreign(BaseException):
    """What a library may use for its own way out."""


def deep():
    return deep()


def fail(error):
    raise error


DEEDS = {
    "an error": (lambda: fail(RuntimeError("no\n  network")), "RuntimeError: no network"),
    "sys.exit": (lambda: sys.exit(3), "SystemExit: 3"),
    "an interrupt of its own": (lambda: fail(KeyboardInterrupt()), "KeyboardInterrupt:"),
    "another way out": (lambda: fail(Foreign("bye")), "Foreign: bye"),
    "endless recursion": (deep, "RecursionError: maximum recursion depth exceeded"),
    "an error without words": (lambda: fail(Unreadable()), "Unreadable: it has no readable message"),
    "a time-out of its own": (lambda: fail(TimeoutError("mine")), "TimeoutError: mine"),
    "a signal handler": (
        lambda: signal.signal(signal.SIGUSR1, signal.SIG_DFL),
        "ValueError: signal only works in main",
    ),
    "a hang": (hang, "no answer within 0.2 s"),
}


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("method", METHODS)
def test_no_deed_of_a_tracker_in_any_method_ends_a_run(method, deed, monkeypatch):
    monkeypatch.setattr("brsweep.tracking.tracker.CONSTRUCTOR_TIMEOUT_S", 0.2)
    calls = []
    act, why = DEEDS[deed]
    started = time.monotonic()
    said = live(lambda run: doing(method, act, calls)(folder=None, run=run))
    name = "the logger" if method == "__init__" else "Doing"
    assert len(said) == 1
    assert said[0].startswith(f"{name} is off for the rest of this run, the training goes on: {why}")
    assert "\n" not in said[0] and len(said[0]) < 400
    assert calls == ORDER[: ORDER.index(method) + 1]  # after it no other call is made
    assert time.monotonic() - started < 5


def test_a_healthy_tracker_is_called_through_in_order_on_one_thread_which_then_ends():
    calls, threads = [], set()
    made = doing("", None, calls)
    log = made.log
    made.log = lambda self, *given: (threads.add(threading.current_thread()), log(self, *given))
    assert live(lambda run: made(folder=None, run=run)) == []
    assert calls == ORDER
    [thread] = threads
    thread.join(5)
    assert thread.daemon and not thread.is_alive()


def test_what_makes_no_tracker_is_told_of(tmp_path):
    assert live(lambda run: object())[0].endswith("object is no subclass of brsweep.tracking.tracker.Tracker")
    assert "ModuleNotFoundError: No module named 'nowhere'" in live(lambda run: __import__("nowhere"))[0]
    assert "Can't instantiate abstract class" in live(lambda run: Tracker())[0]


@pytest.mark.parametrize("limit", [float("nan"), float("inf"), 0, -1.0, "5", None, True, 10**400])
def test_a_limit_that_is_none_is_told_of(limit):
    made = doing("", None, [])
    made.timeout_s = limit
    assert "Doing.timeout_s=" in live(lambda run: made(folder=None, run=run))[0]


def test_log_is_all_that_a_tracker_needs():
    class Least(Tracker):
        def __init__(self, folder, run):
            self.seen = []

        def log(self, metrics, step):
            self.seen.append(step)

    made = []
    run = RunInfo("name", "sweep", {}, (), "id1")
    tracker = Guarded(lambda run: made.append(Least(None, run)) or made[0], run)
    tracker.replay([RECORD, RECORD])
    tracker.log(RECORD, 3)
    tracker.finish("finished")
    assert made[0].seen == [1, 2, 3]


def test_a_tracker_that_is_off_has_no_say():
    go, spoken = threading.Event(), threading.Event()

    class Late(Tracker):
        timeout_s = 0.1

        def __init__(self, run):
            self.run = run

        def log(self, metrics, step):
            self.run.notice("in time")
            go.wait()
            self.run.notice("late")
            self.run.warn("late")
            spoken.set()

    said = []
    tracker = Guarded(Late, RunInfo("name", "sweep", {}, (), "id1", warn=said.append, notice=said.append))
    tracker.log(RECORD, 1)
    go.set()
    assert spoken.wait(5)
    assert said == ["in time", "Late is off for the rest of this run, the training goes on: no answer within 0.1 s"]


def test_no_more_threads_is_told_of(monkeypatch):
    monkeypatch.setattr("brsweep.tracking.tracker.Thread.start", lambda self: fail(RuntimeError("can't start")))
    assert live(doing("", None, [])) == [
        "the logger is off for the rest of this run, the training goes on: RuntimeError: can't start"
    ]


def test_ctrl_c_reaches_the_run_while_a_tracker_works_and_the_end_still_comes():
    calls = []

    def work():
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.5)

    made = doing("log", work, calls)
    made.timeout_s = made.finish_timeout_s = 5.0
    tracker = Guarded(lambda run: made(folder=None, run=run), RunInfo("name", "sweep", {}, (), "id1"))
    with pytest.raises(KeyboardInterrupt):
        tracker.log(RECORD, 1)
    tracker.finish("interrupted")
    assert calls == ["__init__", "log", "finish"]


@pytest.mark.parametrize("method", ["__init__", "log", "finish"])
def test_a_process_does_not_wait_for_a_tracker_that_hangs(method):
    code = f"""
import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})
import faulty_trackers as here, brsweep.tracking.tracker as module
module.CONSTRUCTOR_TIMEOUT_S = 0.2
here.live(lambda run: here.doing({method!r}, here.hang, [])(folder=None, run=run)); print("end")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_a_call_costs_a_hand_over():
    """The median of 200 is below a millisecond, of which most is the change of threads."""
    tracker = Guarded(lambda run: doing("", None, [])(folder=None, run=run), RunInfo("name", "sweep", {}, (), "id1"))
    times = []
    for step in range(200):
        started = time.perf_counter()
        tracker.log(RECORD, step)
        times.append(time.perf_counter() - started)
    tracker.finish("finished")
    assert sorted(times)[100] < 1e-3


def test_keys_reach_no_tracker(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "s3cret-value")
    seen = []

    class Ears(Tracker):
        def __init__(self, run):
            seen.append(run)

        def log(self, metrics, step):
            seen.append(metrics)

        def summarise(self, values):
            seen.append(values)

    config = {"data": {"url": "https://me:pass@host/x?api_key=abc", "note": "a s3cret-value b"}, "api_key": "f00dbeef"}
    tracker = Guarded(Ears, RunInfo("s3cret-value", "sweep", config, ("s3cret-value",), "id1"))
    tracker.replay([{"note": "s3cret-value"}])
    tracker.summarise({"note": "s3cret-value"})
    tracker.finish("finished")
    run = seen[0]
    assert (run.name, run.tags, seen[1:]) == ("***", ("***",), [{"note": "***"}] * 2)
    assert run.config == {"data": {"url": "https://***@host/x?api_key=***", "note": "a *** b"}, "api_key": "***"}
    assert one_line(ValueError("of s3cret-value")) == "ValueError: of ***"
