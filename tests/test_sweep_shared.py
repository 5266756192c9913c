"""Shared stages in the status and in the report: while they train, when they fail, and once they are done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import TINY, call

from brsweep.report.runs import read_sweeps
from brsweep.runs.folder import RunFolder
from brsweep.stages.store import os_lock
from brsweep.sweep.__main__ import main as status
from brsweep.sweep.manifest import add_to_manifest, runs_of, stages_of

FLOAT, WARMUP = "f" * 16, "a" * 16


@pytest.fixture
def sweep(tmp_path) -> Path:
    """Three runs that need one float stage of 20 epochs; two of them a warm-up of 10 more as well."""
    needs = {"a": [FLOAT, WARMUP], "b": [FLOAT, WARMUP], "c": [FLOAT, "c" * 16]}
    runs = [{"name": n, "overrides": [f"x={n}"], "epochs": 43, "stages": stages} for n, stages in needs.items()]
    add_to_manifest(tmp_path, "s", "command", runs, {f"stages/float-{FLOAT}": 20, f"stages/warmup-{WARMUP}": 30})
    return tmp_path


def train(sweep: Path, name: str, epochs: int) -> RunFolder:
    folder = RunFolder(sweep / "stages" / name)
    folder.path.mkdir(parents=True)
    records = [{"stage": "float", "epoch": i + 1, "val_accuracy": 0.5, "time_s": 30.0} for i in range(epochs)]
    (folder.path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def said(sweep: Path, capsys) -> list[list[str]]:
    status([str(sweep)])
    return [line.split() for line in capsys.readouterr().out.splitlines()[1:]]


def test_a_stage_in_training_has_its_progress_and_the_runs_wait(sweep, capsys):
    folder = train(sweep, f"float-{FLOAT}", 3)
    with os_lock(folder.path / ".lock"):
        lines = said(sweep, capsys)
        told = read_sweeps([sweep])[1]
    left = ["8", "min"]
    assert lines[0] == ["running", "3/20", "50.00%", *left, f"stages/float-{FLOAT}", "for", "3", "runs"]
    assert [line[:3] for line in lines[1:4]] == [["waiting", "3/43", name] for name in "abc"]
    assert lines[4] == ["3", "runs:", "3", "waiting"]
    assert told == [f"stages/float-{FLOAT}, shared by 3 runs: running, epoch 3/20, 8 min left"]


def test_each_run_behind_a_failed_stage_shows_its_cause_and_log(sweep, capsys):
    train(sweep, f"float-{FLOAT}", 20)
    train(sweep, f"warmup-{WARMUP}", 23).write_failure("the loss is not a number", "console.log")
    log = sweep / "stages" / f"warmup-{WARMUP}" / "console.log"
    runs = {run.name: run for run in runs_of(sweep, pytest.fail)}
    assert {name: run.state for name, run in runs.items()} == {"a": "cancelled", "b": "cancelled", "c": "missing"}
    assert runs["a"].cause == runs["b"].cause == f"warmup failed: the loss is not a number; log: {log}"
    lines = said(sweep, capsys)
    assert lines[0][:3] == ["failed", "23/30", "50.00%"] and str(log) in lines[0], "the float stage has ended"
    assert lines[-1] == ["3", "runs:", "2", "cancelled,", "1", "missing"]
    found, told = read_sweeps([sweep])
    assert [run.state for run in found] == ["cancelled", "cancelled", "missing"]
    assert told == [f"stages/warmup-{WARMUP}, shared by 2 runs: failed, the loss is not a number; log: {log}"]


def test_a_stage_that_was_killed_is_stopped_and_one_that_ended_is_not_shown(sweep, capsys):
    train(sweep, f"float-{FLOAT}", 20), train(sweep, f"warmup-{WARMUP}", 21)
    assert [stage.status.state for stage in stages_of(sweep)] == ["finished", "stopped"]
    assert said(sweep, capsys)[0][:2] == ["stopped", "21/30"]


def test_a_run_that_has_begun_says_what_itself_does(sweep):
    train(sweep, f"float-{FLOAT}", 3).write_failure("once", "console.log")
    (sweep / "a").mkdir()
    with os_lock(sweep / "a" / ".lock"):
        assert runs_of(sweep, pytest.fail)[0].state == "running"


def test_a_manifest_of_before_and_a_damaged_one_cost_the_totals_alone(sweep):
    train(sweep, f"float-{FLOAT}", 3)
    manifest = json.loads((sweep / "sweep.json").read_text())
    (sweep / "sweep.json").write_text(json.dumps({k: v for k, v in manifest.items() if k != "shared"}))
    assert stages_of(sweep)[0].status.total is None and len(runs_of(sweep, pytest.fail)) == 3
    (sweep / "sweep.json").write_text("{")
    assert stages_of(sweep)[0].status.done == 3


@pytest.mark.slow
def test_a_real_failure_of_the_float_stage_stands_with_every_run(tmp_path, monkeypatch, capsys):
    """A float stage that diverges, then the same sweep with a sound one: nothing of the failure is left."""
    line = ("--multirun", *TINY, f"output_dir={tmp_path}", "sweep_name=s", "reg.lambda_act=0,1")
    assert call(monkeypatch, capsys, *line, "float_optimizer.lr=1e38").code == 1
    runs = runs_of(tmp_path / "s", pytest.fail)
    assert [run.state for run in runs] == ["cancelled", "cancelled"]
    assert all("is not a number" in run.cause and "console.log" in run.cause for run in runs)
    assert call(monkeypatch, capsys, *line).code == 0
    later = [run.state for run in runs_of(tmp_path / "s", pytest.fail)]
    assert later == ["cancelled", "cancelled", "finished", "finished"]
