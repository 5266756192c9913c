"""One run in its folder: begun, reused, answered, refused, mended; and what it says when training goes wrong."""

from __future__ import annotations

import importlib
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import small_runs
import torch

from brsweep.errors import BrsweepError
from brsweep.runs.folder import RunFolder
from brsweep.runs.run import Run
from brsweep.stages.collapse import CollapseWatch, floor_line, strength_line
from brsweep.stages.store import os_lock
from brsweep.sweep.plan import Point, plan_sweep
from brsweep.training.checkpoint import load

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The place of a finished run. Tests that change it work on a copy."""
    place = tmp_path_factory.mktemp("finished")
    small_runs.train(tmp_path=place)
    return place


@pytest.fixture
def again(finished, tmp_path):
    """A copy of the finished run's place, and the run's folder in it."""
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy", next((tmp_path / "copy/default").iterdir())


def log(folder: Path) -> str:
    return (folder / "console.log").read_text()


# --- stages that runs share ------------------------------------------------------------------------------------------


def test_another_lambda_trains_the_last_stage_alone(again, tmp_path, finished):
    place, first = again
    other = ("reg.lambda_weight=3",)
    shared, alone = small_runs.train(*other, tmp_path=place), small_runs.train(*other, tmp_path=tmp_path / "alone")
    assert shared["name"] == alone["name"] != first.name
    records = small_runs.lines(small_runs.folder(shared) / "metrics.jsonl")
    assert [(r["stage"], r["shared"]) for r in records] == [
        ("float", True), ("float", True), ("warmup", True), ("warmup", True), ("br", False), ("br", False),
    ]  # fmt: skip
    line = "reused from the store: float (2 epochs), warmup (2 epochs); trained by default/"
    assert line + first.name in log(small_runs.folder(shared)) and "reused" not in log(small_runs.folder(alone))
    mine, others = small_runs.outcome(small_runs.folder(shared)), small_runs.outcome(small_runs.folder(alone))
    for record in (*mine["metrics.jsonl"], *others["metrics.jsonl"]):
        del record["shared"]
    assert mine == others
    before = small_runs.outcome(first)
    assert mine["metrics.jsonl"][-1] != before["metrics.jsonl"][-1]
    assert before == small_runs.outcome(next((finished / "default").iterdir()))  # the first run's folder is as it was


def test_a_damaged_stage_is_trained_again(again, tmp_path):
    place, first = again
    stages = json.loads((first / "result.json").read_text())["stages"]
    state = place / "store" / stages["warmup"] / "state.pt"
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    with pytest.warns(UserWarning, match=f"{stages['warmup']}: damaged .*trained again"):
        result = small_runs.train("reg.lambda_weight=3", tmp_path=place)
    records = small_runs.lines(small_runs.folder(result) / "metrics.jsonl")
    assert [r["shared"] for r in records] == [True, True, False, False, False, False]
    alone = small_runs.train("reg.lambda_weight=3", tmp_path=tmp_path / "alone")
    for name in ("last.pt", "best.pt", "layers.jsonl", "result"):
        assert small_runs.outcome(small_runs.folder(result))[name] == small_runs.outcome(small_runs.folder(alone))[name]


# --- a finished run --------------------------------------------------------------------------------------------------


def test_a_finished_run_answers_without_torch(again):
    place, folder = again
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    code = (
        "import sys; sys.path.insert(0, 'tests'); from pathlib import Path; import small_runs\n"
        "from brsweep.runs.execution import execute\n"
        f"execute(small_runs.config(tmp_path=Path({str(place)!r})))\n"
        "sys.exit('torch was imported' if 'torch' in sys.modules else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("finished already: ") and "last epoch" in done.stdout
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before


def test_a_finished_run_keeps_weights_alone(finished):
    folder = next((finished / "default").iterdir())
    assert {file.name for file in (folder / "checkpoints").iterdir()} == {"last.pt", "best.pt"}
    assert set(load(folder / "checkpoints/last.pt")) == set(load(folder / "checkpoints/best.pt")) == {"model"}
    assert not list(finished.rglob("*.part*"))


def test_force_trains_again(again):
    place, folder = again
    before = small_runs.outcome(folder)
    number = (folder / "run_id").read_text() if (folder / "run_id").exists() else None
    (folder / "result.json").write_text((folder / "result.json").read_text().replace("0.", "0.9"))
    result = small_runs.train("force=true", tmp_path=place)
    assert small_runs.folder(result) == folder and "Epoch 4/4 [BR]" in log(folder)
    after = small_runs.outcome(folder)
    assert [r.pop("shared") for r in after["metrics.jsonl"]] == [r.pop("shared") for r in before["metrics.jsonl"]]
    assert after == before and number is None


@pytest.fixture
def stale(again):
    """A place whose finished run says that it was trained by other code."""
    place, folder = again
    result = json.loads((folder / "result.json").read_text())
    result["code"], result["test_accuracy"] = "another", 0.125
    RunFolder(folder).write_result(result)
    return place, folder


def test_a_stale_run_stops_or_is_kept(stale):
    place, _ = stale
    with pytest.raises(
        BrsweepError, match=r"finished under other training code \(another, .*stale=keep.*stale=retrain"
    ):
        small_runs.train(tmp_path=place)
    assert small_runs.train("stale=keep", tmp_path=place)["test_accuracy"] == 0.125


def test_a_stale_run_is_trained_again(stale, finished):
    place, folder = stale
    result = small_runs.train("stale=retrain", tmp_path=place)
    assert result["code"] != "another" and result["test_accuracy"] != 0.125
    first = next((finished / "default").iterdir())
    assert small_runs.outcome(folder)["last.pt"] == small_runs.outcome(first)["last.pt"]
    assert small_runs.train(tmp_path=place) == json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize("content", ["", '{"status": "fin', "[]", "{}", "\x00\xff"])
def test_a_damaged_result_is_said_and_trained_again_when_asked(again, content):
    place, folder = again
    before = small_runs.outcome(folder)
    (folder / "result.json").write_text(content, encoding="latin-1")
    with pytest.raises(BrsweepError, match=r"result.json: .*stale=retrain trains the run again"):
        small_runs.train(tmp_path=place)
    assert (folder / "result.json").read_text(encoding="latin-1") == content
    small_runs.train("stale=retrain", tmp_path=place)
    again = small_runs.outcome(folder)
    assert all(r.pop("shared") in (True, False) for r in (*again["metrics.jsonl"], *before["metrics.jsonl"]))
    assert again == before


@pytest.mark.parametrize("key", ["val_accuracy", "test_accuracy_last", "code", "config", "name", "digest"])
def test_a_result_that_was_changed_or_lost_a_field_does_not_answer(again, key):
    place, folder = again
    whole = json.loads((folder / "result.json").read_text())
    for changed in ({k: v for k, v in whole.items() if k != key}, whole | {key: "another"}):
        (folder / "result.json").write_text(json.dumps(changed))
        with pytest.raises(BrsweepError, match=r"result.json: "):
            small_runs.train(tmp_path=place)


def test_the_result_of_another_run_does_not_answer(again):
    place, folder = again
    other = small_runs.folder(small_runs.train("seed=7", "quant=w4a4", tmp_path=place))
    shutil.copy(other / "result.json", folder / "result.json")
    with pytest.raises(BrsweepError, match=f"that of another run, {other.name}"):
        small_runs.train(tmp_path=place)


# --- a run that was interrupted --------------------------------------------------------------------------------------


def interrupt(monkeypatch, place: Path, epochs: int) -> Path:
    """Ctrl-C when `epochs` epochs are complete."""
    from brsweep.runs.reporter import RunReporter

    complete, calls = RunReporter.epoch, []

    def epoch(*args):
        complete(*args)
        calls.append(args)
        if len(calls) == epochs:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RunReporter, "epoch", epoch)
        with pytest.raises(KeyboardInterrupt):
            small_runs.train(tmp_path=place)
    return next((place / "default").iterdir())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


@pytest.mark.parametrize("damage", [cut, Path.unlink, lambda path: path.write_bytes(b"\xff{]\n" * 5)])
def test_records_mend_themselves(damage, tmp_path, monkeypatch, finished):
    folder = interrupt(monkeypatch, tmp_path, 5)
    assert "interrupted: the same command goes on" in log(folder) and not (folder / "result.json").exists()
    damage(folder / "metrics.jsonl")
    damage(folder / "layers.jsonl")
    small_runs.train(tmp_path=tmp_path)
    assert small_runs.outcome(folder) == small_runs.outcome(next((finished / "default").iterdir()))


def test_a_damaged_checkpoint_begins_the_stage_anew(tmp_path, monkeypatch, finished):
    folder = interrupt(monkeypatch, tmp_path, 5)
    cut(folder / "checkpoints/checkpoint.pt")
    small_runs.train(tmp_path=tmp_path)
    assert "br begins anew" in log(folder)
    assert small_runs.outcome(folder) == small_runs.outcome(next((finished / "default").iterdir()))


# --- refused in one line ---------------------------------------------------------------------------------------------


def test_a_run_in_training_elsewhere(tmp_path):
    run = Run.of(small_runs.config(tmp_path=tmp_path))
    with os_lock(run.folder.path / ".lock"), pytest.raises(BrsweepError) as raised:
        small_runs.train(tmp_path=tmp_path)
    assert str(raised.value) == f"{run.folder.path}: another process trains this run; wait for it or stop it"


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BrsweepError, match=r"can't be written.*choose another folder") as raised:
        small_runs.train(tmp_path=tmp_path / "file" / "runs")
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_place(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(BrsweepError, match=r"can't be written \(Permission denied\)"):
            small_runs.train(tmp_path=tmp_path)
    finally:
        tmp_path.chmod(0o700)


# --- training that goes wrong ----------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_is_one_line_and_exit_1(tmp_path):
    typed = [*small_runs.BASE, f"output_dir={tmp_path}", "float_optimizer.lr=1e9"]
    command = [sys.executable, "-m", "brsweep.train", *typed]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: the loss is not a number since step ")
    assert "of epoch 1/2 in stage float" in line and "lower the learning rate" in line


@pytest.mark.parametrize(("stage", "good"), [("float", 1), ("br", 3)])
def test_the_last_good_checkpoint_is_kept(stage, good, tmp_path, monkeypatch, finished):
    """The learning rate explodes in the stage's second epoch; without that the command goes on from the first."""
    from brsweep.training import loop

    whole, seen = loop.lr_factor, []

    def exploding(step, *rest):
        seen.append(step)
        late = len(seen) > (small_runs.STEPS if stage == "float" else 5 * small_runs.STEPS)
        return 1e30 if late else whole(step, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "lr_factor", exploding)
        with pytest.raises(
            BrsweepError, match=rf"not a number since step \d of epoch {good + 1}/\d in stage {stage}; first"
        ):
            small_runs.train(tmp_path=tmp_path)
    (folder,) = (tmp_path / "default").iterdir()
    (checkpoint,) = tmp_path.rglob("checkpoint.pt")
    state = load(checkpoint)
    assert (state["stage"], state["done"]) == (stage, good)
    assert all(bool(value.isfinite().all()) for value in state["model"].values())
    assert "warning: stopped: the loss is not a number" in log(folder)
    small_runs.train(tmp_path=tmp_path)
    assert small_runs.outcome(folder) == small_runs.outcome(next((finished / "default").iterdir()))


class Lines:
    def __init__(self) -> None:
        self.warned: list[str] = []

    def warn(self, line: str) -> None:
        self.warned.append(line)


def record(accuracy: float, epoch: int, stage: str = "br", **more) -> dict:
    base = {"stage": stage, "epoch": epoch, "epochs": 10, "val_accuracy": accuracy, "train_accuracy": 0.9}
    return base | {"task_loss": 2.3} | more


PENALTIES = {"lambda_weight": 1.0, "trained_penalty_weight": 0.5, "lambda_act": 100.0, "trained_penalty_act": 0.25}


def test_a_collapse_is_said_once_with_its_cause_and_remedies():
    reporter, state = (
        Lines(),
        {"history": [record(0.3, 1, "float"), record(0.8, 4, "warmup")], "stage": "br", "collapse": None},
    )
    plain = {"ramp": {"act": "constant"}, "saturated": {"act": "pull"}, "unit": {"act": "value"}}
    watch = CollapseWatch(state, reporter, plain)
    for epoch, accuracy in enumerate((0.6, 0.4, 0.399, 0.2, 0.7), 5):
        watch.look(record(accuracy, epoch, **PENALTIES))
        assert len(reporter.warned) == (epoch >= 7)
    assert state["collapse"] == {"epoch": 7, "accuracy": 0.399, "reference": 0.8}
    assert reporter.warned == [
        "collapse: accuracy 39.9% after epoch 7/10, 80.0% before this stage; lambda x penalty of the act part is 25 "
        "against a task loss of 2.3; remedies: a lower reg.lambda_act, reg.ramp.act=cosine, reg.unit.act=step, "
        "a lower qat_optimizer.lr"
    ]


def test_a_remedy_that_is_in_force_is_not_offered():
    reporter, state = Lines(), {"history": [record(0.8, 4, "warmup")], "stage": "br", "collapse": None}
    tamed = {"ramp": {"act": "cosine"}, "saturated": {"act": "pull"}, "unit": {"act": "step"}}
    CollapseWatch(state, reporter, tamed).look(record(0.1, 7, **PENALTIES))
    assert reporter.warned[-1].endswith("remedies: a lower reg.lambda_act, a lower qat_optimizer.lr")


def test_how_the_penalty_stands_to_the_task_loss():
    line = strength_line(record(0.8, 5, **PENALTIES), {"weight": 1.0, "act": 10.0})
    assert line == (
        "br: lambda x penalty of its first epoch, at full lambda: 0.5 (weight) + 2.5 (act), 130.4% of the task loss 2.3"
    )
    alone = strength_line(record(0.8, 5, **PENALTIES), {"weight": 0.0, "act": 1.0})
    assert alone.endswith("at full lambda: 0.25 (act), 10.9% of the task loss 2.3")


def test_a_run_says_once_how_strong_its_penalty_is_and_lsq_alone_says_nothing_of_it(tmp_path):
    for regularizer, expected in (("br", 1), ("none", 0)):
        result = small_runs.train(f"regularizer={regularizer}", tmp_path=tmp_path)
        said = (small_runs.folder(result) / "console.log").read_text()
        assert said.count("lambda x penalty of its first epoch, at full lambda: ") == expected


def test_step_sizes_at_their_floor_are_told_once():
    told: set[str] = set()
    layers = {"site": ["conv1", "relu1", "conv2", "sign"], "alpha": [0.1, 2.0**-20, -1463.0, None]}
    assert floor_line(layers | {"alpha": [0.1, 0.2, 0.3, None]}, told) is None
    line = floor_line(layers, told)
    assert line.startswith("step sizes at their floor: relu1 (9.54e-07), conv2 (-1.46e+03); lower ")
    assert floor_line(layers, told) is None


def test_a_run_says_so_when_a_step_size_falls_to_its_floor_and_goes_on(tmp_path):
    """In its first quantized epoch, since nothing clips the gradient and alpha's own rate is absurd."""
    result = small_runs.train("gradient_clip=null", "qat_optimizer.alpha_lr=50", tmp_path=tmp_path)
    said = (small_runs.folder(result) / "console.log").read_text()
    assert "warmup: step sizes at their floor: " in said


def test_a_collapse_without_a_penalty_or_a_validation_split():
    reporter = Lines()
    state = {"history": [record(None, 4, "warmup", train_accuracy=0.8)], "stage": "br", "collapse": None}
    CollapseWatch(state, reporter, {}).look(record(None, 5, train_accuracy=0.3))
    assert reporter.warned[0].endswith("no penalty is at work, so lower qat_optimizer.lr")
    CollapseWatch(state, reporter, {}).look(record(None, 6, train_accuracy=0.3))  # as after a restart
    assert len(reporter.warned) == 1


def test_a_run_that_collapses_says_so_once_and_goes_on(tmp_path):
    """Seed 4's warm-up ends near 90 %. Without a clip of the gradient, such a lambda and rate take it to chance."""
    strong = ("seed=4", "regularizer=br_paper", "gradient_clip=null", "reg.lambda_act=1e3", "qat_optimizer.lr=0.3")
    result = small_runs.train(*strong, tmp_path=tmp_path)
    warned = [line for line in log(small_runs.folder(result)).splitlines() if line.startswith("warning: collapse")]
    assert len(warned) == 1 and "lower reg.lambda_act" in warned[0]
    assert result["collapse"]["accuracy"] < 0.5 * result["collapse"]["reference"] and result["status"] == "finished"


# --- options of a run ------------------------------------------------------------------------------------------------


def test_a_pretrained_file_replaces_the_float_stage(again, tmp_path):
    place, first = again
    one = json.loads((first / "result.json").read_text())
    state = load(place / "store" / one["stages"]["float"] / "state.pt")["model"]
    torch.save(state, tmp_path / "a.pt")
    shutil.copy(tmp_path / "a.pt", tmp_path / "b.pt")
    result = small_runs.train(f"pretrained={tmp_path}/a.pt", tmp_path=tmp_path / "new")
    assert result["name"] != one["name"] and result["float_test_accuracy"] == one["float_test_accuracy"]
    stages = [r["stage"] for r in small_runs.lines(small_runs.folder(result) / "metrics.jsonl")]
    assert stages == ["warmup", "warmup", "br", "br"]
    assert small_runs.outcome(small_runs.folder(result))["last.pt"] == small_runs.outcome(first)["last.pt"]
    config = small_runs.config(f"pretrained={tmp_path}/b.pt", tmp_path=tmp_path / "new")
    assert Run.of(config).name == result["name"]


def test_reestimated_norms_are_recorded_apart(again):
    place, first = again
    one = json.loads((first / "result.json").read_text())
    result = small_runs.train("reestimate_bn_batches=3", tmp_path=place)
    assert one["reestimated"] is None and set(result["reestimated"]) == {"test_accuracy", "test_accuracy_last"}
    assert result["stages"] == one["stages"] and result["name"] != one["name"]
    for key in ("test_accuracy", "test_accuracy_last", "val_accuracy"):
        assert result[key] == one[key]
    assert small_runs.outcome(small_runs.folder(result))["last.pt"] == small_runs.outcome(first)["last.pt"]


def test_without_a_validation_split_the_last_epoch_counts(tmp_path):
    result = small_runs.train("data.val_fraction=0", "seed=3", tmp_path=tmp_path)
    assert result["val_accuracy"] is None and result["best_epoch"] == 4
    assert result["test_accuracy"] == result["test_accuracy_last"]
    weights = small_runs.outcome(small_runs.folder(result))
    assert weights["best.pt"] == weights["last.pt"]
    assert "validation" not in log(small_runs.folder(result)).splitlines()[-2]


def test_the_best_epoch_is_the_best_by_validation_in_the_last_stage(tmp_path):
    result = small_runs.train("seed=4", tmp_path=tmp_path)
    records = [r for r in small_runs.lines(small_runs.folder(result) / "metrics.jsonl") if r["stage"] == "br"]
    best = max(records, key=lambda r: r["val_accuracy"])  # the first of equals
    assert (result["best_epoch"], result["val_accuracy"]) == (best["epoch"], best["val_accuracy"])
    assert result["test_accuracy"] == best["test_accuracy"]
    assert result["test_accuracy_last"] == records[-1]["test_accuracy"]


def test_bf16(tmp_path):
    result = small_runs.train("precision=bf16", "seed=4", tmp_path=tmp_path)
    losses = [r["task_loss"] for r in small_runs.lines(small_runs.folder(result) / "metrics.jsonl")]
    assert all(math.isfinite(loss) for loss in losses) and losses[-1] < losses[0]
    weights = load(small_runs.folder(result) / "checkpoints/last.pt")["model"]
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float32}


# --- what a stage hands on -------------------------------------------------------------------------------------------


def test_the_last_stage_begins_with_the_warm_ups_momentum(tmp_path, monkeypatch):
    from brsweep.stages import run as stages

    fit, begun = stages.fit, {}

    def looking(learner, tables, span, *rest, **options):
        state = learner.optimizer.state_dict()["state"]
        begun[span.name] = {i: s["momentum_buffer"].clone() for i, s in state.items()}
        return fit(learner, tables, span, *rest, **options)

    monkeypatch.setattr(stages, "fit", looking)
    result = small_runs.train(tmp_path=tmp_path)
    carried = load(tmp_path / "store" / result["stages"]["warmup"] / "state.pt")["optimizer"]["state"]
    assert begun["float"] == begun["warmup"] == {} and len(begun["br"]) == len(carried) > 0
    assert all(torch.equal(begun["br"][i], carried[i]["momentum_buffer"]) for i in carried)


def test_the_order_of_an_epoch_is_its_own(tmp_path, monkeypatch):
    from brsweep.data.tables import ImageTable
    from brsweep.training.schedule import seed_of

    augmented, seeds = ImageTable.augmented, []

    def looking(self, batch_size, seed):
        seeds.append(seed)
        return augmented(self, batch_size, seed)

    monkeypatch.setattr(ImageTable, "augmented", looking)
    small_runs.train(tmp_path=tmp_path)
    names = [("float", 0), ("float", 1), ("calibrate",), ("warmup", 0), ("warmup", 1), ("br", 2), ("br", 3)]
    assert seeds == [seed_of(42, *name) for name in names]


def test_of_equal_epochs_the_first_is_the_best(tmp_path):
    from types import SimpleNamespace

    from brsweep.stages.run import _keep_best

    learner, state = SimpleNamespace(model=torch.nn.Linear(1, 1)), {"best": None}
    for epoch, accuracy in enumerate((0.5, 0.7, 0.7, 0.6)):
        _keep_best(state, {"epoch": epoch, "val_accuracy": accuracy, "test_accuracy": 0.1}, learner, tmp_path)
    assert state["best"]["epoch"] == 1


# --- a run that is finished in another sweep -------------------------------------------------------------------------


def test_a_run_of_another_sweep_is_taken_over_and_not_trained(again, capsys, monkeypatch):
    place, folder = again
    monkeypatch.setattr("brsweep.runs.execution._train", lambda *_: pytest.fail("it was trained again"))
    result = small_runs.train("sweep_name=second", tmp_path=place)
    taken = place / "second" / folder.name
    assert f"finished in another sweep: {folder}, taken over as {taken}" in capsys.readouterr().out
    assert result["sweep"] == "second" and result["taken_from"] == f"default/{folder.name}"
    mine, others = small_runs.outcome(taken), small_runs.outcome(folder)
    assert {key: value for key, value in mine.items() if key != "result"} == {
        key: value for key, value in others.items() if key != "result"
    }
    assert not (taken / "run_id").exists() and not list(place.rglob("*.partial*"))
    small_runs.train("sweep_name=second", tmp_path=place)
    assert "finished already" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["seed=7", "quant=w4a4", "force=true"])
def test_another_configuration_or_force_is_trained(again, capsys, change):
    place, _ = again
    small_runs.train("sweep_name=second", change, tmp_path=place)
    assert "in another sweep" not in capsys.readouterr().out


def test_a_result_of_other_code_or_a_damaged_one_is_not_taken_over(again, capsys):
    place, folder = again
    RunFolder(folder).write_result(RunFolder(folder).result() | {"code": "another"})
    small_runs.train("sweep_name=second", tmp_path=place)
    (place / "second" / folder.name / "result.json").write_text("{")
    small_runs.train("sweep_name=third", tmp_path=place)
    assert "in another sweep" not in capsys.readouterr().out


def test_a_sweep_takes_over_what_other_sweeps_have_finished(again):
    place, folder = again
    points = [
        Point((f"reg.lambda_weight={value}",), small_runs.config(f"reg.lambda_weight={value}", *other, tmp_path=place))
        for value, other in ((1, ("sweep_name=second",)), (3, ("sweep_name=second",)))
    ]
    plan = plan_sweep(points)
    assert list(plan.finished) == [folder.name] and [task.name for task in plan.tasks] == [plan.runs[1].name]
    assert "2 runs, 1 finished already" in plan.lines()[0] and "1 of them in other sweeps (default)" in plan.lines()[1]
    assert not (place / "second").exists()
    plan.begin("command")
    assert RunFolder(place / "second" / folder.name).result()["taken_from"] == f"default/{folder.name}"


# --- what a kill or somebody else leaves -----------------------------------------------------------------------------


def test_what_a_killed_training_left_beside_its_result_goes(again):
    place, folder = again
    left = [folder / "checkpoints" / "checkpoint.pt", folder / "failure.json", folder / ".metrics.jsonl.part"]
    for path in left:
        path.write_text("{}")
    small_runs.train(tmp_path=place)
    assert not [path for path in left if path.exists()]
    assert small_runs.outcome(folder)


@pytest.mark.parametrize(
    "name",
    [
        "result.json", "config.yaml", "plan.json", "metrics.jsonl", "layers.jsonl", "snapshots/br-start.npz",
        "snapshots/br-end.npz", "checkpoints/best.pt", "checkpoints/last.pt",
    ],
)  # fmt: skip
def test_every_damaged_file_is_found_and_named(again, name, capsys):
    """A flipped bit, a changed digit, a cut, nothing, no file, a folder in its place."""
    _, folder = again
    main = importlib.import_module("brsweep.sweep.__main__").main
    main([str(folder.parent), "--check"])
    assert "every file is whole" in capsys.readouterr().out
    whole = (folder / name).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0x80
    digit = next((i for i in range(len(whole) - 1, -1, -1) if whole[i : i + 1].isdigit()), 0)
    changed = whole[:digit] + (b"1" if whole[digit : digit + 1] == b"2" else b"2") + whole[digit + 1 :]
    gone = [None] if name != "result.json" else []  # a run without one is unfinished
    for content in (bytes(flipped), changed, whole[: len(whole) // 2], whole[:-2], b"", *gone, "folder"):
        (folder / name).unlink()
        if content == "folder":
            (folder / name).mkdir()
        elif content is not None:
            (folder / name).write_bytes(content)
        with pytest.raises(SystemExit, match="1 files are damaged"):
            main([str(folder.parent), "--check"])
        assert f"damaged: {folder / name}" in capsys.readouterr().out, content
        if content is None:
            (folder / name).touch()
    (folder / name).rmdir()
    (folder / name).write_bytes(whole)
    main([str(folder.parent), "--check"])


@pytest.mark.parametrize("name", ["metrics.jsonl", "layers.jsonl"])
def test_records_of_a_finished_run_with_a_changed_digit_are_not_shown(again, name):
    _, folder = again
    read = RunFolder(folder).records if name == "metrics.jsonl" else RunFolder(folder).layers
    assert read()
    text = (folder / name).read_text()
    (folder / name).write_text(text.replace("0.", "1.", 1))
    with pytest.raises(BrsweepError, match=rf"{name}: damaged, it is not what the run left there"):
        read()


def test_a_folder_that_is_renamed_while_it_trains_ends_the_training_and_says_so(tmp_path, monkeypatch):
    from brsweep.training import loop

    train_step, calls = loop.train_step, []

    def step(*arguments):
        calls.append(1)
        if len(calls) == small_runs.STEPS + 2:
            (folder,) = tmp_path.glob("default/tiny*")
            folder.rename(folder.with_name("elsewhere"))
        return train_step(*arguments)

    monkeypatch.setattr(loop, "train_step", step)
    with pytest.raises(BrsweepError, match=r"metrics.jsonl: was removed, renamed or replaced while it was written"):
        small_runs.train(tmp_path=tmp_path)


def test_the_last_update_of_an_epoch_may_not_leave_weights_that_are_no_numbers(tmp_path, monkeypatch):
    from brsweep.training import loop

    train_step, calls = loop.train_step, []

    def step(learner, *rest):
        train_step(learner, *rest)
        calls.append(1)
        if len(calls) == 2 * small_runs.STEPS:  # no loss of the epoch shows it
            next(learner.model.parameters()).data[0] = math.nan

    monkeypatch.setattr(loop, "train_step", step)
    with pytest.raises(BrsweepError, match=r"weights are not a number after the last step of epoch 2/2 in stage float"):
        small_runs.train(tmp_path=tmp_path)
    (checkpoint,) = tmp_path.glob("store/*.partial/checkpoint.pt")
    assert load(checkpoint)["done"] == 1


def test_best_weights_that_are_gone_begin_the_stage_anew(tmp_path, monkeypatch):
    folder = interrupt(monkeypatch, tmp_path, 5)
    (folder / "checkpoints" / "best.pt").unlink()
    result = small_runs.train(tmp_path=tmp_path)
    assert small_runs.folder(result) == folder and "begins anew" in log(small_runs.folder(result))


def test_a_run_that_an_earlier_version_called_by_other_words_is_found(tmp_path, monkeypatch):
    options = ("regularizer=kure", "schedule.float_epochs=1", "schedule.warmup_epochs=1", "schedule.qat_epochs=2")
    with monkeypatch.context() as earlier:
        earlier.setattr("brsweep.runs.run.readable_name", lambda config: "words-of-then")
        path = small_runs.folder(small_runs.train(*options, tmp_path=tmp_path))
    assert path.name.startswith("words-of-then-")
    assert small_runs.train(*options, tmp_path=tmp_path)["name"] == path.name
    assert [run.name for run in path.parent.iterdir() if run.is_dir()] == [path.name]
