"""The CSV table and the TensorBoard events; what importing the room costs; YAML against constructors."""

from __future__ import annotations

import importlib
import inspect
import math
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from brsweep.tracking.csv_file import CsvFile
from brsweep.tracking.tensorboard import TensorBoard
from brsweep.tracking.tracker import RunInfo, Tracker

LOGGERS = Path(__file__).parent.parent / "conf" / "logger"
RUN = RunInfo(name="resnet20-w2a2", sweep="lambda", config={"seed": 42}, tags=("w2a2",), id="0123abcd")
FLOAT = {"stage": "float", "epoch": 1, "lr": 0.1, "train_accuracy": 0.5, "val_accuracy": None, "shared": True}
WARMUP = {"stage": "warmup", "epoch": 1, "lr": 0.05, "train_accuracy": 0.625, "val_accuracy": 0.25, "shared": False}
BR = {**WARMUP, "stage": "br", "epoch": 2, "penalty_act": 0.75}


def test_csv_has_a_row_per_epoch_and_grows_a_column_for_a_new_key(tmp_path):
    tracker = CsvFile(tmp_path, RUN)
    tracker.replay([])
    tracker.log(FLOAT, 1)
    tracker.log(WARMUP, 2)
    tracker.log(BR | {"lr": math.nan}, 3)
    assert (tmp_path / "metrics.csv").read_text() == (
        "epoch_total,stage,epoch,lr,train_accuracy,val_accuracy,shared,penalty_act\n"
        "1,float,1,0.1,0.5,,True,\n"
        "2,warmup,1,0.05,0.625,0.25,False,\n"
        "3,br,2,nan,0.625,0.25,False,0.75\n"
    )


def test_csv_of_a_resumed_run_is_that_of_one_that_never_stopped(tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    for folder in (whole, resumed):
        folder.mkdir()
        tracker = CsvFile(folder, RUN)
        tracker.replay([])
        for step, record in enumerate([FLOAT, WARMUP, BR], start=1):
            tracker.log(record, step)
    tracker = CsvFile(resumed, RUN)  # cut back to the checkpoint after the first epoch
    tracker.replay([FLOAT])
    assert len((resumed / "metrics.csv").read_text().splitlines()) == 2
    tracker.log(WARMUP, 2)
    tracker.log(BR, 3)
    assert (resumed / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


def scalars(folder):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_has_every_number_of_every_epoch_once_over_a_resume(tmp_path):
    pytest.importorskip("tensorboard")
    first = TensorBoard(tmp_path, RUN)
    first.replay([FLOAT])
    first.log({**WARMUP, "lr": 99.0}, 2)  # trained again after the resume
    second = TensorBoard(tmp_path, RUN)
    second.replay([FLOAT])
    second.log(WARMUP, 2)
    second.log(BR, 3)
    second.summarise({"test_accuracy": 0.5})
    second.finish("finished")
    assert scalars(tmp_path) == {
        "float/epoch": [(1, 1.0)],
        "float/lr": [(1, pytest.approx(0.1, rel=1e-7))],  # the events hold float32
        "float/train_accuracy": [(1, 0.5)],
        "float/shared": [(1, 1.0)],
        "warmup/epoch": [(2, 1.0)],
        "warmup/lr": [(2, pytest.approx(0.05, rel=1e-7))],
        "warmup/train_accuracy": [(2, 0.625)],
        "warmup/val_accuracy": [(2, 0.25)],
        "warmup/shared": [(2, 0.0)],
        "br/epoch": [(3, 2.0)],
        "br/lr": [(3, pytest.approx(0.05, rel=1e-7))],
        "br/train_accuracy": [(3, 0.625)],
        "br/val_accuracy": [(3, 0.25)],
        "br/shared": [(3, 0.0)],
        "br/penalty_act": [(3, 0.75)],
        "summary/test_accuracy": [(3, 0.5)],
    }
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_importing_the_room_imports_none_of_the_heavy_packages():
    code = """
import pkgutil, sys, importlib, brsweep.tracking as room
names = [m.name for m in pkgutil.iter_modules(room.__path__)]
for name in names: importlib.import_module("brsweep.tracking." + name)
heavy = {"torch", "wandb", "tensorboard", "rich", "numpy", "requests", "hydra", "omegaconf"} & set(sys.modules)
print(len(names) >= 9, sorted(heavy))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True []\n"


def test_tensorboard_needs_no_torch_and_leaves_no_thread(tmp_path):
    pytest.importorskip("tensorboard")
    code = f"""
import sys, threading; from pathlib import Path
from brsweep.tracking.tensorboard import TensorBoard
t = TensorBoard(Path({str(tmp_path)!r}), None); t.replay([{FLOAT!r}]); t.finish("finished")
print("torch" in sys.modules, threading.active_count())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False 1\n"


@pytest.mark.parametrize("path", sorted(LOGGERS.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_yaml_states_every_argument_of_its_class_and_no_other(path, tmp_path):
    arguments = yaml.safe_load(path.read_text())
    target = arguments.pop("_target_")
    if path.stem == "none":
        assert (target, arguments) == (None, {})
        return
    module, name = target.rsplit(".", 1)
    tracker_class = getattr(importlib.import_module(module), name)
    assert set(inspect.signature(tracker_class).parameters) == {"folder", "run", *arguments}
    assert isinstance(tracker_class(folder=tmp_path, run=RUN, **arguments), Tracker)
    assert list(tmp_path.iterdir()) == []  # a constructor opens nothing


def test_the_yaml_files_are_those_known_here():
    assert {path.stem for path in LOGGERS.glob("*.yaml")} >= {"none", "csv", "tensorboard", "wandb"}
