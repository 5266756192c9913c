"""Whole runs and W&B: two of one sweep, the second killed, both under a fake key with no server to send it to.

What W&B's offline files hold is compared with metrics.jsonl, before and after `brsweep.sweep.sync`.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from wandb_reader import read_wandb
from wandb_runs import environment, files, rows

from brsweep.tracking.jsonl import read
from brsweep.tracking.layer_means import with_layer_means

pytest.importorskip("wandb")

KEY = "f00dbeef" * 5
KILLED_AT = 5
"""Epochs of the second run, of 2 float, 2 warm-up and 2 with BR, that are on file when it dies."""

TRAIN = f"""
import os, signal, sys
from pathlib import Path
import small_runs
from brsweep.runs.reporter import RunReporter

def train(*overrides):
    small_runs.train("logger=wandb", "logger.init_timeout_s=1", "sweep_name=lambda", *overrides,
                     tmp_path=Path(sys.argv[1]))

train("reg.lambda_act=0")
own = RunReporter.epoch
def dying(self, record, layers):
    own(self, record, layers)
    if self._epochs == {KILLED_AT}:
        os.killpg(0, signal.SIGKILL)  # W&B's service as well
RunReporter.epoch = dying
train("reg.lambda_act=1")
"""

pytestmark = pytest.mark.slow  # two runs with their pictures


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """runs/lambda, with a finished run and a killed one."""
    root = tmp_path_factory.mktemp("wandb")
    env = environment(root, WANDB_API_KEY=KEY, PYTHONPATH=str(Path(__file__).parent))
    command = [sys.executable, "-c", TRAIN, root]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300, start_new_session=True)
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, "")
    (root / "said").write_text(done.stdout)
    return root / "lambda"


@pytest.fixture(scope="module")
def synced(sweep) -> tuple[int, list[str], str]:
    """What `sync` answers, the first time."""
    note = json.loads((killed(sweep) / "wandb.json").read_text())
    assert note["epochs_sent"] < KILLED_AT and note["status"] is None  # the last one may be lost by the kill
    before = state(finished(sweep))
    answer = sync(sweep)
    assert state(finished(sweep)) == before
    return answer


def finished(sweep: Path) -> Path:
    return next(path.parent for path in sweep.glob("*/result.json"))


def killed(sweep: Path) -> Path:
    return next(path.parent for path in sweep.glob("*/config.yaml") if path.parent != finished(sweep))


def offline(folder: Path) -> list[Path]:
    """The offline records; the attempt to go online leaves an empty one beside them."""
    return [path for path in files(folder) if path.parent.name.startswith("offline")]


def held(folder: Path) -> dict[int, dict]:
    """What W&B's offline files hold: step -> values, without pictures."""
    found = {step: row for path in offline(folder) for step, row in rows(path).items()}
    return {step: {k: v for k, v in row.items() if "/media/" not in k} for step, row in found.items()}


def truth(folder: Path) -> dict[int, dict]:
    records = with_layer_means(read(folder / "metrics.jsonl"), read(folder / "layers.jsonl"))
    return {
        step: {f"{r['stage']}/{k}": v for k, v in r.items() if k != "stage" and v is not None} | {"epoch_total": step}
        for step, r in enumerate(records, start=1)
    }


def pictures(folder: Path) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for path in offline(folder):
        for row in read_wandb(path).history:
            for key, value in row.items():
                if "/media/" in key:
                    with Image.open(path.parent / "files" / value["path"]) as image:
                        assert image.size == (value["width"], value["height"])
                    found.setdefault(row["_step"], set()).add(key)
    return found


ALL = {f"{s}/media/{n}" for s in ("warmup", "br") for n in ("weights", "activations", "alpha", "occupancy")}
ALL |= {f"{s}/media/confusion" for s in ("float", "warmup", "br")}


def of(*stages: str) -> set[str]:
    return {key for key in ALL if key.startswith(stages)}


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def sync(*arguments: Path | str, **env: str) -> tuple[int, list[str], str]:
    folder = Path(arguments[0])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "brsweep.sweep.sync", *arguments],
        capture_output=True, text=True, env=environment(folder.parent, **env), timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_a_run_holds_every_key_of_every_epoch_and_each_stages_pictures(sweep):
    folder = finished(sweep)
    assert held(folder) == truth(folder)
    assert len(truth(folder)) == 6 and {"br/step", "br/lambda_act", "br/near_weight"} <= set(truth(folder)[6])
    assert [truth(folder)[i][key] for i, key in ((1, "float/step"), (4, "warmup/step"), (6, "br/step"))] == [7, 14, 28]
    assert pictures(folder) == {2: of("float"), 4: of("warmup"), 6: of("br")}


def test_a_run_is_grouped_tagged_configured_identified_and_summed_up(sweep):
    folder = finished(sweep)
    result = json.loads((folder / "result.json").read_text())
    [path] = offline(folder)
    found = read_wandb(path)
    run_id = (folder / "run_id").read_text()
    place = (found.run.run_id, found.run.project, found.run.run_group, found.run.job_type, found.run.display_name)
    assert place == (run_id, "brsweep", "lambda", "train", folder.name)
    assert list(found.run.tags) == ["w2a2", "binregularization", "s2"]
    config = {key: value for key, value in found.config.items() if key != "_wandb"}
    assert config == yaml.safe_load((folder / "config.yaml").read_text())
    for key in ("val_accuracy", "best_epoch", "test_accuracy", "test_accuracy_last", "float_test_accuracy"):
        assert found.summary[key] == result[key] is not None
    assert found.summary["gap_to_float"] == result["test_accuracy"] - result["float_test_accuracy"]
    assert (found.summary["status"], found.exit_code) == ("finished", 0)


def test_stages_from_the_store_are_in_the_second_run_and_marked(sweep, synced):
    second = held(killed(sweep))
    first = held(finished(sweep))
    for step in (1, 2, 3, 4):
        stage = "float" if step < 3 else "warmup"
        assert second[step] == first[step] | {f"{stage}/shared": True}
        assert first[step][f"{stage}/shared"] is False
    assert pictures(killed(sweep)) == {2: of("float"), 4: of("warmup")}


def test_no_key_is_in_any_file_or_line(sweep):
    said = (sweep.parent / "said").read_text()
    assert said.count("W&B cannot be reached, this run is kept offline") == 2
    written = [path for path in sweep.parent.rglob("*") if path.is_file()]
    assert {"config.yaml", "console.log", "last.pt", "checkpoint.pt", "state.pt"} <= {path.name for path in written}
    assert not [path for path in written if KEY.encode() in path.read_bytes()]


def test_sync_completes_what_the_kill_cut_and_a_second_time_changes_nothing(sweep, synced):
    code, said, err = synced
    assert (code, err, len(said)) == (0, "", 3)
    assert said[0].startswith("no W&B key: what is missing is added to the offline records in the run folders")
    assert said[1] == f"{killed(sweep).name}: {KILLED_AT} epochs in the offline record"
    assert said[2].partition(": ")[0] == str(sweep)
    assert set(said[2].partition(": ")[2].split(", ")) == {"1 complete already", "1 completed"}
    folder = killed(sweep)
    assert held(folder) == truth(folder) and len(truth(folder)) == KILLED_AT
    runs = [read_wandb(path).run for path in offline(folder)]
    assert {run.run_id for run in runs if run is not None} == {(folder / "run_id").read_text()}
    assert read_wandb(offline(folder)[-1]).exit_code == 255

    before = state(sweep)
    code, said, err = sync(sweep)
    assert (code, said[1:], err) == (0, [f"{sweep}: 2 complete already"], "")
    assert state(sweep) == before


@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")  # of wandb-workspaces
def test_the_dashboard_asks_for_what_runs_log_alone(sweep):
    pytest.importorskip("wandb_workspaces")
    from brsweep.tracking.workspace import build, serialised

    [path] = offline(finished(sweep))
    found = read_wandb(path)
    logged = {key for row in found.history for key in row}
    spec = json.dumps(serialised(build("lambda", "us", "p")))
    configured = set(re.findall(r"(\w+)\.value\.(\w+)", spec))
    assert len(configured) == 7
    assert all(key in found.config[group] for group, key in configured)
    asked = set(re.findall(r"(?:float|warmup|br)/[\w/]+", spec))
    assert len(asked) > 20
    assert asked <= logged
    assert set(re.findall(r"summary(?:_metrics\.|:)(\w+)", spec)) <= set(found.summary)
