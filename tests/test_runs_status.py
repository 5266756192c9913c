"""What the status says of each state that a run's folder can be in, and what the sweep's manifest keeps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from stage_configs import changed

from brsweep.errors import BrsweepError
from brsweep.runs.folder import RunFolder
from brsweep.stages.store import os_lock
from brsweep.sweep.manifest import MANIFEST, add_to_manifest, read_manifest, runs_of

CONFIG = changed(schedule__float_epochs=2, schedule__qat_epochs=4)


def planned(*names: str) -> list[dict]:
    return [{"name": name, "overrides": [f"x={name}"], "epochs": 6, "stages": ["f"]} for name in names]


def begin(path: Path, epochs: int, time_s: float = 2.0) -> Path:
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(json.dumps(CONFIG))  # JSON is YAML
    records = [{"stage": "br", "epoch": i + 1, "val_accuracy": i / 10, "time_s": time_s} for i in range(epochs)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def finish(path: Path) -> None:
    result = {"status": "finished", "val_accuracy": 0.5, "test_accuracy": 0.75, "config": CONFIG}
    RunFolder(path).write_result(result)


def test_each_state_is_told_apart(tmp_path):
    add_to_manifest(tmp_path, "s", "command", planned("a", "b", "c", "d"))
    finish(begin(tmp_path / "a", 6))
    RunFolder(begin(tmp_path / "b", 3)).write_failure("out of\nluck", "console.log")
    begin(tmp_path / "c", 2)
    running = begin(tmp_path / "e", 4)
    with os_lock(running / ".lock"):
        runs = {run.name: run for run in runs_of(tmp_path, pytest.fail)}
    assert list(runs) == ["a", "b", "c", "d", "e"]
    assert {n: r.state for n, r in runs.items()} == {
        "a": "finished", "b": "failed", "c": "stopped", "d": "missing", "e": "running",
    }  # fmt: skip
    assert runs["b"].cause == "out of luck"
    assert [(r.done, r.total) for r in runs.values()] == [(6, 6), (3, 6), (2, 6), (0, 6), (4, 6)]
    assert [r.val_accuracy for r in runs.values()] == [0.5, 0.2, 0.1, None, pytest.approx(0.3)]
    assert [r.test_accuracy for r in runs.values()] == [0.75, None, None, None, None]
    assert [r.time_left_s for r in runs.values()] == [None, None, None, None, 4.0]
    assert runs["d"].overrides == ("x=d",)
    assert runs_of(tmp_path, pytest.fail)[4].state == "stopped", "the lock is gone with its holder"


def test_a_run_that_begins_again_has_no_failure(tmp_path):
    folder = RunFolder(begin(tmp_path / "a", 1))
    folder.write_failure("once", "console.log")
    folder.forget_failure()
    folder.forget_failure()
    assert runs_of(tmp_path, pytest.fail)[0].state == "stopped"


@pytest.mark.parametrize("end", [b'{"epoch": 3, "val_acc', b"\xff\xfe", b"[1]\n", b"\n\n"])
def test_a_line_that_is_being_written_does_not_count(tmp_path, end):
    path = begin(tmp_path / "a", 2) / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + end)
    assert runs_of(tmp_path, pytest.fail)[0].done == 2


def test_a_damaged_result_is_said(tmp_path):
    path = begin(tmp_path / "a", 6)
    (path / "result.json").write_text('{"status": "finish')
    (run,) = runs_of(tmp_path, pytest.fail)
    assert run.state == "damaged" and "result.json" in run.cause


def test_a_status_look_does_not_keep_a_run_from_starting(tmp_path):
    path = begin(tmp_path / "a", 0)
    (path / ".lock").touch()
    look = "import fcntl, sys, time\nf = open(sys.argv[1])\nfcntl.flock(f, fcntl.LOCK_SH)\nprint(flush=True)\n"
    other = subprocess.Popen(
        [sys.executable, "-c", look + "time.sleep(0.1)", str(path / ".lock")], stdout=subprocess.PIPE
    )
    with other:
        other.stdout.readline()
        with RunFolder(path).locked():
            pass


def test_what_is_no_sweep_is_named(tmp_path):
    with pytest.raises(BrsweepError, match="nowhere: no such folder"):
        runs_of(tmp_path / "nowhere", pytest.fail)
    with pytest.raises(BrsweepError, match="holds no run"):
        runs_of(tmp_path, pytest.fail)


def test_a_larger_grid_adds_its_runs_and_keeps_the_order(tmp_path):
    add_to_manifest(tmp_path, "s", "first", planned("b", "a"))
    add_to_manifest(tmp_path, "s", "second", planned("c", "a"))
    manifest = read_manifest(tmp_path)
    assert [run["name"] for run in manifest["runs"]] == ["b", "a", "c"]
    assert manifest["command"] == "second"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}', '{"version": 2, "runs": []}'])
def test_a_damaged_manifest_is_named_and_the_next_launch_mends_it(tmp_path, text):
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(BrsweepError, match=MANIFEST):
        read_manifest(tmp_path)
    add_to_manifest(tmp_path, "s", "again", planned("a"))
    assert [run["name"] for run in read_manifest(tmp_path)["runs"]] == ["a"]
