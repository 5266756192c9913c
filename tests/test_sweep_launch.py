"""Whole sweeps through the command, with real workers: resume, repair, failures, and kill -9 at random moments."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from commands import ROOT, shell
from small_runs import outcome

from brsweep.runs.folder import RunFolder

RECIPE = (
    "model=tiny", "data=synthetic", "logger=none", "threads=1", "device=cpu", "schedule.float_epochs=2",
    "schedule.warmup_epochs=1", "schedule.qat_epochs=3", "sweep_name=s",
)  # fmt: skip
GRID = ("quant=w2a2,w4a4", "reg.lambda_act=0,1,10", "seed=1,2")
KILLS, SEED = (int(os.environ.get(f"BRSWEEP_CHAOS_{name}", usual)) for name, usual in (("KILLS", 6), ("SEED", 0)))


def outcomes(folder: Path) -> dict[str, dict]:
    return {path.parent.name: outcome(path.parent) for path in (folder / "runs" / "s").glob("*/result.json")}


def runs(folder: Path) -> list[Path]:
    return sorted((folder / "runs" / "s").glob("*/config.yaml"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Where the grid was trained in one process, one run after the other."""
    folder = tmp_path_factory.mktemp("undisturbed")
    answer = shell(folder, "--multirun", *RECIPE, *GRID, "hydra.launcher.in_process=true")
    assert answer.code == 0, answer.err
    return folder


@pytest.fixture(scope="module")
def undisturbed(alone):
    found = outcomes(alone)
    assert len(found) == 12
    return found


@pytest.mark.slow
def test_a_shared_run_equals_a_separate_one_to_the_bit(undisturbed, tmp_path):
    answer = shell(tmp_path, *RECIPE, "quant=w4a4", "reg.lambda_act=10", "seed=2")
    assert answer.code == 0, answer.err
    (found,) = outcomes(tmp_path).items()
    assert _whoever_trained_it(found[1]) == _whoever_trained_it(undisturbed[found[0]])


def _whoever_trained_it(run: dict) -> dict:
    lines = [{key: value for key, value in record.items() if key != "shared"} for record in run["metrics.jsonl"]]
    return run | {"metrics.jsonl": lines}


@pytest.mark.slow
def test_the_plans_epochs_are_those_that_are_trained(tmp_path):
    answer = shell(tmp_path, "--multirun", *RECIPE, "quant=w2a2,w4a4", "reg.lambda_act=0,1")
    assert answer.code == 0, answer.err
    (planned,) = re.findall(r"(\d+) epochs to train", answer.out)
    own = [
        record
        for path in (tmp_path / "runs" / "s").rglob("metrics.jsonl")
        for record in map(json.loads, path.read_text().splitlines())
        if not record["shared"]
    ]
    assert len(own) == int(planned) == 2 + 2 * 1 + 4 * 2


@pytest.mark.slow
def test_a_failing_run_does_not_stop_the_others_and_the_same_line_mends_it(tmp_path):
    """One run diverges at once; a larger grid then runs only what is new, and the failed one again."""
    line = ("--multirun", *RECIPE, "qat_optimizer.lr=0.01,1e38", "hydra.launcher.n_jobs=2")
    answer = shell(tmp_path, *line)
    assert answer.code == 1
    assert answer.err == "error: 1 of 2 runs not finished; the same command goes on with them\n"
    assert answer.out.count("finished tiny-") == 1
    failed = [line for line in answer.out.splitlines() if line.startswith("  failed ")]
    assert len(failed) == 1 and "the loss is not a number" in failed[0] and "console.log" in failed[0]
    state = shell(tmp_path, "runs/s", program=("-m", "brsweep.sweep"))
    assert state.code == 0 and "2 runs: 1 finished, 1 failed" in state.out and "not a number" in state.out
    larger = shell(tmp_path, *line[:-2], "qat_optimizer.lr=0.01,0.02")
    assert larger.code == 0, larger.err
    assert "2 runs, 1 finished already" in larger.out and larger.out.count("started ") == 1


@pytest.mark.slow
def test_results_of_other_code_stop_a_sweep_before_it_starts(tmp_path):
    line = ("--multirun", *RECIPE, "reg.lambda_act=0,1")
    assert shell(tmp_path, *line).code == 0
    for path in (tmp_path / "runs" / "s").glob("*/result.json"):
        RunFolder(path.parent).write_result(json.loads(path.read_text()) | {"code": "0" * 16})
    answer = shell(tmp_path, *line)
    assert answer.code == 1 and answer.err.count("\n") == 1
    assert "finished under other training code" in answer.err and "1 more of 2 runs" in answer.err
    assert "2 finished already" in shell(tmp_path, *line, "stale=keep").out
    again = shell(tmp_path, *line, "stale=retrain")
    assert again.code == 0 and again.out.count("started ") == 2
    assert "2 finished already" in shell(tmp_path, *line).out


@pytest.mark.slow
def test_damage_is_mended_by_the_same_line(undisturbed, tmp_path):
    """Results that are gone, metrics cut in a line, a store entry cut short: the same command, and equal results."""
    line = ("--multirun", *RECIPE, "quant=w2a2", "reg.lambda_act=0,1,10", "seed=1", "hydra.launcher.n_jobs=2")
    assert shell(tmp_path, *line).code == 0
    first, second, _ = (path.parent for path in runs(tmp_path))
    (first / "result.json").unlink()
    (second / "result.json").unlink()
    with open(second / "metrics.jsonl", "r+b") as file:
        file.truncate(100)
    for state in (tmp_path / "runs" / "store").glob("*/state.pt"):
        with open(state, "r+b") as file:
            file.truncate(1000)
    again = shell(tmp_path, *line)
    assert again.code == 0, again.err
    found = outcomes(tmp_path)
    assert found == {name: undisturbed[name] for name in found} and len(found) == 3


@pytest.mark.slow
def test_an_interrupt_keeps_checkpoints_and_says_what_to_do(tmp_path):
    with launch(tmp_path, "schedule.float_epochs=500") as launcher:
        try:
            wait_for(lambda: list((tmp_path / "runs/store").glob("*.partial/checkpoint.pt")), launcher)
            launcher.send_signal(signal.SIGINT)
            out, _ = launcher.communicate(timeout=60)
        finally:
            launcher.kill()
    assert launcher.returncode == 130 and "Traceback" not in out
    assert "interrupted: checkpoints are kept; the same command goes on from them" in out
    assert list((tmp_path / "runs" / "store").glob("*.partial/checkpoint.pt"))


def launch(folder: Path, *more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "brsweep.train", "--multirun", *RECIPE, *GRID, "hydra.launcher.n_jobs=2", *more],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores it
    )  # fmt: skip


def wait_for(happened, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the workers in /proc")
def test_kills_at_random_moments_change_nothing(alone, undisturbed, tmp_path):
    """kill -9 of a worker, of the launcher, or of both, until there were KILLS; then the command to its end."""
    chance, kills, launches = random.Random(SEED), 0, 0
    while True:
        launcher, launches = launch(tmp_path), launches + 1
        assert launches < 20 * KILLS + 20
        while kills < KILLS and launcher.poll() is None:
            time.sleep(chance.uniform(0.2, 4.0))
            victims = chance.choice(["worker", "launcher", "both"])
            workers = children(launcher.pid)
            if victims != "launcher" and workers:
                kill(chance.choice(workers))
                kills += 1
            if victims != "worker":
                kill(launcher.pid)
                kills += victims == "launcher"
        out, _ = launcher.communicate(timeout=600)
        if launcher.returncode == 0:
            break
        assert "Traceback" not in out, out
    print(f"{kills} kills, {launches} launches")
    assert kills >= KILLS or launches > 1
    assert outcomes(tmp_path) == undisturbed
    assert stored(tmp_path) == stored(alone)
    assert leavings(tmp_path) == [] and orphans(tmp_path) == []


def stored(folder: Path) -> dict[str, object]:
    """What each entry of the store holds, without times."""
    entries = [path for path in (folder / "runs/store").iterdir() if path.is_dir() and path.name != "locks"]
    return {path.name: plain(torch.load(path / "state.pt", weights_only=True)) for path in entries}


def plain(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return value.dtype, value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in ("time_s", "trained_by")}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def leavings(folder: Path) -> list[str]:
    """What a kill may leave and a finished sweep does not hold."""
    wrong = ("*.part", "*.tmp", "*.damaged", ".before", "failure.json", "checkpoint.pt")
    return sorted(str(path.relative_to(folder)) for name in wrong for path in (folder / "runs").rglob(name))


def orphans(folder: Path) -> list[int]:
    """Processes that still work in the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cwd").resolve() == folder.resolve():
                found.append(int(process.name))
    return found


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
