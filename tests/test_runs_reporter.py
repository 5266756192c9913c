"""What a tracker is told, and when: everything of a stage is on file before the stage is replayed."""

from __future__ import annotations

import numpy as np
from epoch_records import LAYERS

from brsweep.runs.folder import RunFolder
from brsweep.runs.reporter import RunReporter
from brsweep.stages.run import _catch_up
from brsweep.tracking.console import Console
from brsweep.tracking.layer_means import layer_means

FLOAT = {"stage": "float", "epoch": 2, "epochs": 2, "lr": 0.5, "trained_by": "another"}
BR = {"stage": "br", "epoch": 5, "epochs": 5, "lr": 0.25, "trained_by": "me"}
END = {"sites": {}, "confusion": np.eye(2, dtype=np.int64)}


class Listening:
    """A tracker that keeps what it was told, and which files of the run there were then."""

    def __init__(self, folder):
        self.folder, self.told = folder, []

    def __getattr__(self, name):
        def call(*arguments):
            there = sorted(path.name for path in self.folder.rglob("*") if path.is_file() and path.stat().st_size)
            self.told.append((name, *arguments, there))

        return call


def test_a_replayed_stage_has_its_files_and_a_live_one_ends_after_its_epochs(tmp_path):
    tracker = Listening(tmp_path)
    reporter = RunReporter(RunFolder(tmp_path), "me", Console(None), tracker, steps_per_epoch=7)
    _catch_up({"history": [FLOAT], "layers": [], "snapshots": {"float-end": END}}, reporter)
    reporter.epoch(BR, LAYERS)
    reporter.snapshot("br-start", END)
    reporter.snapshot("br-end", END)
    reporter.close()
    before = ["float-end.npz", "metrics.jsonl"]
    own = {key: value for key, value in BR.items() if key != "trained_by"}
    assert [call for call in tracker.told if call[0] != "stage_ended"] == [
        ("replay", [{"stage": "float", "epoch": 2, "epochs": 2, "lr": 0.5, "step": 14, "shared": True}], before),
        (
            "log",
            own | {"step": 35, "shared": False} | layer_means(LAYERS),
            2,
            ["float-end.npz", "layers.jsonl", "metrics.jsonl"],
        ),
    ]
    assert [call[1] for call in tracker.told if call[0] == "stage_ended"] == ["float", "br"]
    assert tracker.told[-1][:2] == ("stage_ended", "br") and "br-end.npz" in tracker.told[-1][2]
