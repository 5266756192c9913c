"""Trackers that do as they should until they are called once too often, and the life of a run that has one."""

from __future__ import annotations

import threading

from brsweep.tracking.tracker import Guarded, RunInfo, Tracker

RECORD = {"stage": "br", "epoch": 1, "lr": 0.5}
ORDER = ["__init__", "replay", "log", "log", "stage_ended", "summarise", "finish"]
METHODS = list(dict.fromkeys(ORDER))


def hang():
    threading.Event().wait()


def doing(method, deed, calls):
    """A tracker class that does as it should, and notes its calls, until `method` is called."""

    def called(name):
        def call(self, *arguments, **named):
            calls.append(name)
            if name == method:
                deed()

        return call

    limits = dict.fromkeys(("open_timeout_s", "timeout_s", "finish_timeout_s"), 0.2)
    return type("Doing", (Tracker,), {name: called(name) for name in METHODS} | limits)


def live(make):
    """What is said in the life of a run with that tracker."""
    said = []
    tracker = Guarded(make, RunInfo("name", "sweep", {"seed": 42}, (), "id1", warn=said.append, notice=said.append))
    tracker.replay([])
    tracker.log(RECORD, 1)
    tracker.log(RECORD, 2)
    tracker.stage_ended("br")
    tracker.summarise({"test_accuracy": 0.5})
    tracker.finish("finished")
    return said
