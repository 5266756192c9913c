"""Offline W&B runs in processes of their own that have no key and no server, and what W&B must hold of them."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

from wandb_reader import read_wandb

HEAD = """
import os, random, signal, sys, threading, time
from pathlib import Path
from brsweep.tracking.tracker import Guarded, RunInfo
from brsweep.tracking.weights_and_biases import WeightsAndBiases

FOLDER = Path(sys.argv[1])
ARGUMENTS = dict(project="p", entity=None, job_type="train", init_timeout_s=1.0, finish_timeout_s=10.0, flush_s=0.25,
                 system_stats=False, media=False)

def tracker(folder=FOLDER, id="0123abcd", **changes):
    run = RunInfo("resnet20-w2a2", "lambda", {"quant": {"weight_bits": 2}, "seed": 42}, ("w2a2", "x" * 99), id)
    return WeightsAndBiases(folder, run, **(ARGUMENTS | changes))
"""


def record(step):
    """Of a run with two float epochs, one of warm-up and the rest regularized."""
    stage = "float" if step <= 2 else "warmup" if step == 3 else "br"
    return {
        "stage": stage,
        "epoch": step,
        "epochs": 9,
        "step": 35 * step,
        "lr": 0.5 / step,
        "train_accuracy": 0.25,
        "val_accuracy": None if step == 1 else 0.5,
        "penalty_act": float("nan") if step == 4 else 0.125,
        "time_s": 1.5,
        "shared": step < 3,
    }


HEAD += inspect.getsource(record)


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_") and key != "NETRC"}
    nowhere = "http://127.0.0.1:9"  # the discard port: nothing can be uploaded, whatever goes wrong
    return {**kept, "HOME": str(home), "WANDB_BASE_URL": nowhere, **more}


def run(folder: Path, body: str, **more: str) -> list[str]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-W", "error", "-c", HEAD + body, folder]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(folder, **more), timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("wandb/*run-*/run-*.wandb"))


def row(step: int) -> dict:
    """What W&B must hold of the record of `step`; NaN as a word, so that rows can be compared."""
    values = {f"{record(step)['stage']}/{k}": v for k, v in record(step).items() if k != "stage" and v is not None}
    return {key: "nan" if value != value else value for key, value in {**values, "epoch_total": step}.items()}


def rows(path: Path) -> dict[int, dict]:
    own = ("_step", "_timestamp", "_runtime")
    return {
        item["_step"]: {k: "nan" if v != v else v for k, v in item.items() if k not in own}
        for item in read_wandb(path).history
    }
