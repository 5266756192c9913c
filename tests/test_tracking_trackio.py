"""Trackio's database holds each number of each epoch once, over a resume; where it is missing one line says so."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

from brsweep.tracking.tracker import Guarded, RunInfo
from brsweep.tracking.trackio import Trackio

FLOAT = {"stage": "float", "epoch": 1, "lr": 0.1, "val_accuracy": None, "shared": True}
BR = {"stage": "br", "epoch": 2, "lr": 0.05, "val_accuracy": 0.25, "shared": False}
RUN = {"name": "resnet20-w2a2", "sweep": "lambda", "config": {"seed": 42, "reg": {"lambda_act": 1.0}}, "tags": ()}

SCRIPT = """
import json, pathlib, sys
from brsweep.tracking.trackio import Trackio
from brsweep.tracking.tracker import Guarded, RunInfo
run, records = json.loads(sys.argv[1])
said = []
info = RunInfo(**run, id="0123", warn=said.append, notice=said.append)
first = Guarded(lambda told: Trackio(folder=None, run=told, project="p"), info)
first.replay(records[:1])
first.log(records[1] | {"lr": 99.0}, 2)  # trained again after the resume
first.finish("interrupted")
other = Guarded(lambda told: Trackio(folder=None, run=told, project="p"), RunInfo(**run, id="4567", notice=said.append))
other.replay(records[:1])
other.finish("finished")
second = Guarded(lambda told: Trackio(folder=None, run=told, project="p"), info)
second.replay(records[:1])
second.log(records[1], 2)
second.summarise({"test_accuracy": 0.5, "gap_to_float": None})
second.finish("finished")
import trackio
from trackio.sqlite_storage import SQLiteStorage
runs = {run.name: run for run in trackio.Api().runs("p")}
logs = SQLiteStorage.get_logs("p", "resnet20-w2a2-0123")
rows = [{key: value for key, value in row.items() if key != "timestamp"} for row in logs]
config = runs["resnet20-w2a2-0123"].config
found = {"said": said, "runs": sorted(run.name for run in trackio.Api().runs("p")), "rows": rows, "reg": config["reg"]}
print(json.dumps(found | {"torch": "torch" in sys.modules}))
"""


def test_the_database_holds_every_number_of_every_epoch_once_over_a_resume(tmp_path, monkeypatch):
    if importlib.util.find_spec("trackio") is None:
        pytest.skip("needs trackio (extra `trackio`)")
    for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    command = [sys.executable, "-c", SCRIPT, json.dumps([RUN, [FLOAT, BR]])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)  # nothing of Trackio's own is printed
    assert found["said"] == ["Trackio: trackio show --project p"] * 3
    assert found["runs"] == ["resnet20-w2a2-0123", "resnet20-w2a2-4567"] and found["reg"] == {"lambda_act": 1.0}
    assert found["rows"] == [
        {"step": 1, "float/epoch": 1, "float/lr": 0.1, "float/shared": True},
        {"step": 2, "br/epoch": 2, "br/lr": 0.05, "br/val_accuracy": 0.25, "br/shared": False},
        {"step": 2, "summary/test_accuracy": 0.5},
    ]
    assert found["torch"] is False


def test_where_it_is_missing_one_line_before_training_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    said = []
    run = RunInfo(**RUN, id="0123", warn=said.append, notice=said.append)
    tracker = Guarded(lambda told: Trackio(folder=None, run=told, project="p"), run)
    tracker.replay([])
    tracker.log(FLOAT, 1)
    tracker.finish("finished")
    (line,) = said
    assert "trackio is not installed: pip install brsweep[trackio], or choose another logger" in line
    assert line.startswith("Trackio is off for the rest of this run, the training goes on")
