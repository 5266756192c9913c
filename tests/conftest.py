"""Fixtures of all tests."""

from __future__ import annotations

import os
import sys

import pytest
from process_settings import kept

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it once, at the first test with a device


@pytest.fixture(autouse=True)
def process_settings():
    """No test leaves another one its threads, its kernels or its Hydra."""
    with kept(load=False):
        yield


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Make a tracker against a stand-in for `wandb`: `(tracker, said)`, where `said` holds what the tracker said."""
    from brsweep.tracking import wandb_session
    from brsweep.tracking.tracker import RunInfo
    from brsweep.tracking.weights_and_biases import WeightsAndBiases

    monkeypatch.setattr(wandb_session, "_live", set())  # a test of a tracker that hangs leaves one behind
    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setattr(sys, "exit", sys.exit)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    def make(module, ends=(), **changes):
        monkeypatch.setitem(sys.modules, "wandb", module)
        said = []
        config = {"seed": 42}
        run = RunInfo(
            "name", "sweep", config, (), "id1", ends, notice=said.append, warn=lambda s: said.append("warning: " + s)
        )
        arguments = {
            "project": "p",
            "entity": None,
            "job_type": "train",
            "init_timeout_s": 5.0,
            "finish_timeout_s": 5.0,
            "flush_s": 2.0,
            "system_stats": False,
            "media": False,
        }
        return WeightsAndBiases(tmp_path / "run", run, **(arguments | changes)), said

    return make
