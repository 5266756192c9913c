"""A sweep on a real SLURM of one node: jobs killed, requeued and told that their time is up; then the same command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from commands import ROOT
from slurm_cluster import one_node, why_not
from small_runs import outcome

from brsweep.sweep.slurm import cluster

pytestmark = pytest.mark.system

SWEEP = (
    "--multirun", "model=tiny", "data=synthetic", "logger=none", "threads=1", "device=cpu", "schedule.float_epochs=2",
    "schedule.warmup_epochs=2", "schedule.qat_epochs=300", "reg.lambda_act=0,1,10", "sweep_name=cluster",
)  # fmt: skip
COMMAND = (sys.executable, "-m", "brsweep.train", *SWEEP)
SLURM = ("hydra/launcher=slurm", "hydra.launcher.timeout_min=20", "hydra.launcher.cpus_per_task=1")
SLURM += ("hydra.launcher.poll_s=0.5",)
SHARED = 4
"""Epochs of the stages that the runs share."""
PATIENCE_S = 600.0


@pytest.fixture(params=[False, True], ids=["alone", "slurmdbd"])
def slurm_up(request):
    reason = why_not(request.param)
    if reason:
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, ExitStack() as stack:
        try:
            cluster = stack.enter_context(one_node(Path(folder), request.param))
        except (AssertionError, subprocess.SubprocessError) as error:
            pytest.skip(f"SLURM can't be started here: {error}")
        yield cluster


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The same sweep by the local launcher: each run's outcome by its name."""
    folder = tmp_path_factory.mktemp("local")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    here = [*COMMAND, "hydra.launcher.in_process=true"]
    done = subprocess.run(here, cwd=folder, env=env, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    return {path.parent.name: outcome(path.parent) for path in (folder / "runs" / "cluster").glob("*/result.json")}


def test_killed_requeued_and_out_of_time_then_repaired(slurm_up, undisturbed, tmp_path, monkeypatch):
    sweep = tmp_path / "runs" / "cluster"
    env = {**os.environ, **slurm_up.env, "PYTHONPATH": str(ROOT)}
    command = [*COMMAND, *SLURM]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    first = subprocess.Popen(command, cwd=tmp_path, env=env, **pipes)
    try:
        killed, requeued, overdue = _disturb(slurm_up, sweep)
        said = first.communicate(timeout=PATIENCE_S)[0]
    finally:
        first.kill()
    jobs = json.loads((sweep / "slurm.json").read_text())["jobs"]
    assert first.returncode == 1, said
    assert "submitted job 1: tasks 1\n" in said and "submitted job 2: tasks 3, after job 1\n" in said
    assert f"  failed {killed}: killed: job {jobs[killed]} ended as FAILED without a result" in said
    assert "3 runs; 2 finished, 1 failed" in said
    monkeypatch.setenv("SLURM_CONF", slurm_up.env["SLURM_CONF"])
    assert cluster.state_in_accounts(jobs[killed]) == ("FAILED" if slurm_up.accounting else None)
    for name, restarts in ((killed, None), (requeued, "1"), (overdue, "1")):
        noted = json.loads((sweep / name / "environment.json").read_text())
        assert noted["variables"].get("SLURM_RESTART_COUNT") == restarts
        assert noted["variables"]["SLURM_JOB_PARTITION"] == "cpu"
    again = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=PATIENCE_S)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "3 runs, 2 finished already" in again.stdout and ": tasks 1\n" in again.stdout
    for name in (killed, requeued, overdue):
        assert "br: goes on after epoch" in (sweep / name / "console.log").read_text(), name
        assert outcome(sweep / name) == undisturbed[name], name


@pytest.mark.parametrize("slurm_up", [False], indirect=True, ids=["alone"])
def test_a_stem_that_fails_takes_its_branches_along(slurm_up, tmp_path):
    env = {**os.environ, **slurm_up.env, "PYTHONPATH": str(ROOT)}
    command = [*COMMAND, *SLURM, "device=cuda:99"]  # which no node has
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 1
    assert done.stderr == "error: 3 of 3 runs not finished; the same command goes on with them\n"
    assert "sweep runs/cluster: 3 runs; 0 finished, 3 cancelled\n" in done.stdout
    jobs = json.loads((tmp_path / "runs" / "cluster" / "slurm.json").read_text())["jobs"]
    (stem,) = (name for name in jobs if name.startswith("stages/"))
    (failed,) = [line for line in done.stdout.splitlines() if line.startswith(f"  failed {stem}: ")]
    assert (tmp_path / failed.rpartition("; log: ")[2]).is_file()
    assert done.stdout.count(f": {stem} failed") == 6  # as it happens, and in the summary
    states = slurm_up.call("squeue", "--noheader", "--array", "--states=all", "--format=%T").split()
    assert sorted(states) == ["CANCELLED", "CANCELLED", "CANCELLED", "FAILED"]


def _disturb(cluster, sweep: Path) -> list[str]:
    """Kill one run in its training, requeue another, tell a third that its time is up; their names."""
    acts = [
        lambda name, job: os.kill(_process(cluster, sweep / name), signal.SIGKILL),
        lambda name, job: cluster.call("scontrol", "requeue", job),
        lambda name, job: cluster.call("scancel", "--signal=USR2", job),
    ]
    done: list[str] = []
    deadline = time.monotonic() + PATIENCE_S
    while acts:
        assert time.monotonic() < deadline, "the runs did not come to train"
        time.sleep(0.05)
        for metrics in sweep.glob("*/metrics.jsonl"):
            name = metrics.parent.name
            if acts and name not in done and len(metrics.read_bytes().splitlines()) > SHARED + 3:
                acts.pop(0)(name, json.loads((sweep / "slurm.json").read_text())["jobs"][name])
                done.append(name)
    return done


def _process(cluster, run: Path) -> int:
    """The process that trains the run, as SLURM knows it: the first task of the job's first step."""
    job = json.loads((run / "environment.json").read_text())["variables"]["SLURM_JOB_ID"]
    rows = [line.split() for line in cluster.call("scontrol", "listpids", job).splitlines()]
    return next(int(pid) for pid, _, step, local, _ in rows if (step, local) == ("0", "0"))
