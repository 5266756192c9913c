"""The command as typed: help, printed configuration, completion, sweeps; and what it must not import for that."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from commands import ROOT, TINY, WITHOUT, shell

HEAVY = ("torch", "numpy", "numba", "wandb", "sklearn", "rich", "torchvision", "pandas")


@pytest.mark.parametrize("flag", [["--help"], ["--cfg", "job"]], ids=["help", "cfg"])
def test_asking_imports_nothing_heavy(flag, tmp_path):
    answer = shell(tmp_path, program=("-c", WITHOUT.format(arguments=flag, heavy=HEAVY)))
    assert answer.code == 0, answer.err
    assert answer.out.splitlines()[-1] == "HEAVY []"
    assert "weight_bits: 2" in answer.out
    if flag == ["--help"]:
        for group in ("model", "data", "quant", "regularizer", "schedule"):
            assert f"\n{group}: " in answer.out
    assert list(tmp_path.iterdir()) == []


def test_completion_offers_the_options_of_a_group(tmp_path):
    line = "brsweep-train quant=w2"
    answer = shell(tmp_path, "-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)))
    assert {"quant=w2a2", "quant=w2a4", "quant=w2a32"} <= set(answer.out.split())


@pytest.mark.slow
def test_multirun_shares_stages_and_answers_from_results(tmp_path):
    sweep = ("--multirun", *TINY, "reg.lambda_act=0,1", "sweep_name=grid")
    first = shell(tmp_path, *sweep)
    assert first.code == 0, first.err
    results = sorted((tmp_path / "runs" / "grid").glob("*/result.json"))
    assert len(results) == 2
    assert "4 epochs to train; 6 if every run trained by itself (33% saved)" in first.out
    told = [(path.parent / "console.log").read_text() for path in results]
    assert all(text.count("(shared)") == 2 for text in told), "the float epoch and the warm-up's are the shared stage's"
    stamps = [path.stat().st_mtime_ns for path in results]
    again = shell(tmp_path, program=("-c", WITHOUT.format(arguments=list(sweep), heavy=("torch", "numba", "wandb"))))
    assert again.code == 0 and "2 runs, 2 finished already" in again.out
    assert again.out.splitlines()[-1] == "HEAVY []"
    assert [path.stat().st_mtime_ns for path in results] == stamps


def test_a_finished_run_answers_without_torch(tmp_path):
    assert shell(tmp_path, *TINY).code == 0
    answer = shell(tmp_path, program=("-c", WITHOUT.format(arguments=list(TINY), heavy=("torch", "numba", "wandb"))))
    assert answer.code == 0, answer.err
    assert "finished already" in answer.out
    assert answer.out.splitlines()[-1] == "HEAVY []"


def test_a_result_says_what_made_it(tmp_path):
    assert shell(tmp_path, *TINY).code == 0
    (path,) = (tmp_path / "runs" / "default").glob("*/result.json")
    result = json.loads(path.read_text())
    for key in (
        "val_accuracy", "test_accuracy", "test_accuracy_last", "float_test_accuracy", "penalty_weight", "penalty_act",
        "time_s", "threads", "versions", "code", "config", "git_commit", "git_dirty", "kernels", "data",
    ):  # fmt: skip
        assert key in result
    assert result["threads"] == 1 and result["config"]["quant"]["weight_bits"] == 2
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    assert result["git_commit"] == (done.stdout.strip() if done.returncode == 0 else None)
    assert result["versions"]["python"] == sys.version.split()[0]
