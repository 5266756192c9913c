"""A run that is killed goes on and ends bit for bit as one that was not, wherever the kill falls."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small_runs

STEP, SAVE, PUBLISH = (
    "brsweep.training.loop:train_step",
    "brsweep.stages.run:save",
    "brsweep.stages.store:Store.publish",
)
RECORD, RESULT = "brsweep.runs.reporter:RunReporter.epoch", "brsweep.runs.folder:RunFolder.write_result"
REPLACE = "brsweep.training.checkpoint:os.replace"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return small_runs.outcome(small_runs.folder(small_runs.train(tmp_path=tmp_path_factory.mktemp("undisturbed"))))


@pytest.mark.parametrize(
    ("place", "call", "after"),
    [
        pytest.param(STEP, 3, False, id="float, before anything is saved"),
        pytest.param(STEP, small_runs.STEPS + 3, False, id="float, within an epoch"),
        pytest.param(SAVE, 2, True, id="float, the last epoch saved and not recorded"),
        pytest.param(PUBLISH, 1, False, id="float, finished and not published"),
        pytest.param(PUBLISH, 1, True, id="float, published"),
        pytest.param(STEP, 3 * small_runs.STEPS + 3, False, id="warm-up, within an epoch"),
        pytest.param(PUBLISH, 2, True, id="warm-up, published"),
        pytest.param(SAVE, 7, True, id="br, best weights written and the checkpoint not"),
        pytest.param(STEP, 5 * small_runs.STEPS + 3, False, id="br, within an epoch"),
        pytest.param(RECORD, 5, False, id="br, an epoch saved and not recorded"),
        pytest.param(RESULT, 1, False, id="br, finished without a result"),
        pytest.param(REPLACE, 2, False, id="a checkpoint half put in place"),
    ],
)
def test_goes_on_bit_for_bit(place, call, after, tmp_path, undisturbed, capsys):
    small_runs.kill_at(place, call, after, tmp_path=tmp_path)
    assert not list(tmp_path.glob("default/*/result.json"))
    result = small_runs.train(tmp_path=tmp_path)
    assert small_runs.outcome(small_runs.folder(result)) == undisturbed
    if place == RESULT:  # everything had been trained
        assert "goes on after epoch 4 of 4" in capsys.readouterr().out


def test_with_frozen_alphas(tmp_path):
    """The frozen step sizes have left the optimizer, whose state still finds its place."""
    frozen = ("schedule.freeze_alpha=true",)
    whole = small_runs.outcome(small_runs.folder(small_runs.train(*frozen, tmp_path=tmp_path / "whole")))
    small_runs.kill_at(STEP, 5 * small_runs.STEPS + 3, False, *frozen, tmp_path=tmp_path / "killed")
    assert small_runs.outcome(small_runs.folder(small_runs.train(*frozen, tmp_path=tmp_path / "killed"))) == whole


def test_the_command_goes_on_after_sigkill(tmp_path, undisturbed):
    """The command as typed, killed by its id when its third epoch is recorded."""
    command = [sys.executable, "-m", "brsweep.train", *small_runs.BASE, f"output_dir={tmp_path}"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    options = {"env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, **options) as process:
        until = time.monotonic() + 60
        while sum(file.read_text().count("\n") for file in tmp_path.glob("default/*/metrics.jsonl")) < 3:
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    done = subprocess.run(command, check=True, timeout=120, **options)
    assert "goes on after epoch" in done.stdout
    folder = next(tmp_path.glob("default/*"))
    assert small_runs.outcome(folder) == undisturbed
