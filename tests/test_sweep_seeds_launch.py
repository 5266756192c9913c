"""seed=auto through the command, with real workers: kill -9 in later rounds, and the same command again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import ROOT, shell
from small_runs import outcome

RECIPE = (
    "model=tiny", "data=synthetic", "logger=none", "threads=1", "device=cpu", "schedule.float_epochs=1",
    "schedule.warmup_epochs=1", "schedule.qat_epochs=2", "sweep_name=s", "reg.lambda_weight=0",
    "reg.lambda_act=0,1,100", "seed=auto", "sweep.seeds.least=2", "sweep.seeds.most=5",
)  # fmt: skip


def outcomes(folder: Path) -> dict[str, dict]:
    return {path.parent.name: outcome(path.parent) for path in (folder / "runs" / "s").glob("*/result.json")}


def verdicts(said: str) -> list[str]:
    """What the launcher said of each row; the answer at the end, in the report's words, says it once more."""
    return [line for line in said.splitlines() if line.startswith("reg.") and " at n=" in line]


@pytest.mark.slow
def test_kills_in_any_round_change_nothing(tmp_path):
    """kill -9 of the launcher after 7, 10 and 13 runs (rounds of 6, then of up to 3), then to the end."""
    (tmp_path / "undisturbed").mkdir()
    alone = shell(tmp_path / "undisturbed", "--multirun", *RECIPE, "hydra.launcher.in_process=true")
    assert alone.code == 0, alone.err
    wanted = outcomes(tmp_path / "undisturbed")
    kills = [count for count in (7, 10, 13) if count < len(wanted)]
    assert kills, "all rows were decided in the first round"
    for count in kills:
        launcher = subprocess.Popen(
            [sys.executable, "-m", "brsweep.train", "--multirun", *RECIPE, "hydra.launcher.n_jobs=2"], cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 300
        while len(list((tmp_path / "runs" / "s").glob("*/result.json"))) < count:
            assert launcher.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        launcher.send_signal(signal.SIGKILL)
        launcher.wait()
    answer = shell(tmp_path, "--multirun", *RECIPE, "hydra.launcher.n_jobs=2")
    assert answer.code == 0, answer.err
    assert verdicts(answer.out) == verdicts(alone.out) and len(verdicts(answer.out)) == 2
    assert outcomes(tmp_path) == wanted
    state = shell(tmp_path, "runs/s", program=("-m", "brsweep.sweep"))
    assert state.code == 0 and f"{len(wanted)} runs: {len(wanted)} finished" in state.out
