"""Offline W&B runs that stop and go on: each epoch is in one of their files, and none is missing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from wandb_reader import read_wandb
from wandb_runs import HEAD, environment, files, row, rows, run

pytest.importorskip("wandb")


def test_a_resumed_offline_run_sends_only_what_is_missing(tmp_path):
    start = "t = tracker(); t.replay([record(s) for s in range(1, {n})])\n"
    run(tmp_path, start.format(n=4) + 't.finish("interrupted")')
    [first] = files(tmp_path)
    assert (list(rows(first)), read_wandb(first).exit_code) == ([1, 2, 3], 255)
    run(tmp_path, start.format(n=5) + 't.log(record(5), 5); t.finish("failed")')
    second = next(path for path in files(tmp_path) if path != first)
    assert rows(second) == {4: row(4), 5: row(5)}
    assert (read_wandb(second).run.run_id, read_wandb(second).exit_code) == ("0123abcd", 1)


def test_kill_9_of_the_run_and_of_its_service_loses_no_epoch(tmp_path):
    """The whole session is killed, as a scheduler does it: W&B's own service has no time to flush what it holds."""
    body = """
t = tracker(); t.replay([])
for step in (1, 2, 3): t.log(record(step), step)
time.sleep(0.8)
t.log(record(4), 4)
print("ready", flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", HEAD + body, tmp_path]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment(tmp_path), start_new_session=True
    )
    with process:
        while process.stdout.readline() not in ("ready\n", ""):
            pass
        os.killpg(process.pid, signal.SIGKILL)
    [first] = files(tmp_path)
    assert {1, 2, 3} <= set(rows(first))
    assert json.loads((tmp_path / "wandb.json").read_text())["epochs_sent"] == 3
    run(
        tmp_path,
        't = tracker(); t.replay([record(s) for s in (1, 2, 3, 4)]); t.log(record(5), 5); t.finish("finished")',
    )
    second = next(path for path in files(tmp_path) if path != first)
    assert rows(second) == {4: row(4), 5: row(5)}


def test_a_run_under_an_agent_of_wandb_sweep_keeps_the_agents_id_when_it_goes_on_alone(tmp_path):
    agent = {"WANDB_SWEEP_ID": "sweep1", "WANDB_RUN_ID": "agents1"}
    run(tmp_path, 't = tracker(); t.replay([record(1)]); t.finish("interrupted")', **agent)
    run(tmp_path, 't = tracker(); t.replay([record(1), record(2)]); t.finish("finished")')
    assert [read_wandb(path).run.run_id for path in files(tmp_path)] == ["agents1", "agents1"]
    assert {step: held for path in files(tmp_path) for step, held in rows(path).items()} == {1: row(1), 2: row(2)}
    note = json.loads((tmp_path / "wandb.json").read_text())
    assert (note["attempt"], note["id"], note["epochs_sent"]) == ("0123abcd", "agents1", 2)
