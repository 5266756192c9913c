"""`brsweep.sweep.sync` against a stand-in for W&B's server, and given what it can't use."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import pytest
import yaml
from wandb_stand_in import StandIn, sent

from brsweep.errors import BrsweepError
from brsweep.runs.folder import RunFolder
from brsweep.sweep import sync as module
from brsweep.sweep.sync import Unreachable, main, sync
from brsweep.tracking import snapshots
from brsweep.tracking.weights_and_biases import WeightsAndBiases

LOGGER = {
    "_target_": module.WANDB, "project": "p", "entity": None, "job_type": "train", "init_timeout_s": 5.0,
    "finish_timeout_s": 5.0, "flush_s": 2.0, "system_stats": False, "media": True,
}  # fmt: skip
CONFIG = {
    "sweep_name": "lambda", "seed": 42, "logger": LOGGER, "quant": {"weight_bits": 2, "act_bits": 2},
    "reg": {"_target_": "x.BinRegularization", "lambda_weight": 1.0, "lambda_act": 0.0},
    "schedule": {"warmup_epochs": 1, "freeze_alpha": False},
}  # fmt: skip
RECORDS = [{"stage": "float", "epoch": 1, "lr": 0.5}, {"stage": "br", "epoch": 1, "lr": 0.25}]
RESULT = {
    "status": "finished", "val_accuracy": 0.5, "best_epoch": 1, "test_accuracy": 0.25, "test_accuracy_last": 0.125,
    "float_test_accuracy": 0.75,
}  # fmt: skip


def make(path: Path, finished: bool = True, config=CONFIG) -> Path:
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    if finished:
        RunFolder(path).write_result(RESULT)
    return path


@pytest.fixture
def server(world, monkeypatch):
    """`server(stand_in)`: from then on W&B is the stand-in, with a key."""

    def use(stand_in):
        world(stand_in)
        monkeypatch.setenv("WANDB_API_KEY", "f00dbeef" * 5)
        return stand_in

    return use


def said_by(sweep: Path) -> tuple[int, list[str]]:
    said: list[str] = []
    return sync(sweep, said.append), said


def test_the_server_is_sent_what_it_lacks_once(server, tmp_path):
    folder = make(tmp_path / "lambda" / "run")
    wandb = server(StandIn(server_steps=1))
    assert said_by(tmp_path / "lambda") == (0, ["run: 2 epochs at W&B", f"{tmp_path / 'lambda'}: 1 completed"])
    assert wandb.logged == [(2, {"br/epoch": 1, "br/lr": 0.25, "epoch_total": 2}, True)]
    assert wandb.summary == {
        **{key: value for key, value in RESULT.items() if key != "status"},
        "gap_to_float": -0.5,
        "status": "finished",
    }
    assert (wandb.inits[0]["id"], wandb.inits[0]["resume"]) == ((folder / "run_id").read_text(), "allow")
    note = json.loads((folder / "wandb.json").read_text())
    assert (note["epochs_sent"], note["mode"], note["status"]) == (2, "online", "finished")
    again = server(StandIn(server_steps=2))
    assert said_by(tmp_path / "lambda") == (0, [f"{tmp_path / 'lambda'}: 1 complete already"])
    assert again.inits == []


def test_a_stage_ends_where_another_begins_and_at_the_last_epoch_once_its_snapshot_is_there(tmp_path):
    assert module._stage_ends(RunFolder(tmp_path), [*RECORDS, RECORDS[1]]) == (1,)
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / "br-end.npz").touch()
    assert module._stage_ends(RunFolder(tmp_path), [*RECORDS, RECORDS[1]]) == (1, 3)
    assert module._stage_ends(RunFolder(tmp_path), []) == ()


def test_an_offline_record_goes_online_when_there_is_a_key_and_an_agents_id_is_kept(server, tmp_path):
    folder = make(tmp_path / "lambda" / "run", finished=False)
    attempt = RunFolder(folder).attempt_id("lambda/run")
    note = {"attempt": attempt, "id": "agents", "epochs_sent": 2, "mode": "offline", "status": "interrupted"}
    (folder / "wandb.json").write_text(json.dumps(note))
    (folder / "wandb" / "offline-run-1-agents").mkdir(parents=True)
    (folder / "wandb" / "offline-run-1-agents" / "run-agents.wandb").touch()
    wandb = server(StandIn())
    assert said_by(folder)[0] == 0
    assert (wandb.inits[0]["id"], sent(wandb), wandb.summary) == ("agents", [1, 2], {"status": "interrupted"})


def test_a_silent_server_stops_everything_and_leaves_the_runs_as_they_were(server, tmp_path):
    for name in "ab":
        make(tmp_path / "lambda" / name)
    wandb = server(StandIn(failures=[ConnectionError("down"), ConnectionError("down")]))
    with pytest.raises(Unreachable, match=r"ConnectionError: down\); the same command goes on"):
        said_by(tmp_path / "lambda")
    assert len(wandb.inits) == 1
    assert not list(tmp_path.rglob("wandb.json"))


class Doing(WeightsAndBiases):
    """Does `deed` in the method `at`, in place of what it is for."""

    at, deed = "", None

    def __getattribute__(self, name):
        if name != type(self).at:
            return super().__getattribute__(name)
        return lambda *given: type(self).deed()


def made(at, deed, limit_s):
    def make(*given, **named):
        if at == "__init__":
            deed()
        tracker = type("Doing", (Doing,), {"at": at, "deed": staticmethod(deed)})(*given[2:], **given[1], **named)
        tracker.open_timeout_s = tracker.timeout_s = tracker.finish_timeout_s = limit_s
        return tracker

    return lambda kind, node, **named: make(kind, {k: v for k, v in node.items() if k != "_target_"}, **named)


def fail():
    raise RuntimeError("no\n  words")


DEEDS = {
    "an error": (fail, "RuntimeError: no words"),
    "an exit": (lambda: sys.exit(3), "SystemExit: 3"),
    "a hang": (lambda: threading.Event().wait(), "no answer within 1 s"),
}


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("at", ["__init__", "replay", "log", "stage_ended", "summarise", "finish"])
def test_whatever_the_tracker_does_is_a_line_and_the_same_command_goes_on(server, tmp_path, monkeypatch, at, deed):
    limit_s = 1 if deed == "a hang" else 60
    monkeypatch.setattr("brsweep.tracking.tracker.CONSTRUCTOR_TIMEOUT_S", limit_s)
    sweep = tmp_path / "lambda"
    for name in "ab":
        make(sweep / name, config=CONFIG | {"logger": LOGGER | {"media": False}})
        (sweep / name / "snapshots").mkdir()
        snapshots.write(sweep / name, "float-end", {"confusion": [[1]]})  # its last row waits for no picture
    server(StandIn())
    act, why = DEEDS[deed]
    with monkeypatch.context() as patch:
        patch.setattr(module, "build", made(at, act, limit_s))
        if at in ("replay", "log", "stage_ended"):
            with pytest.raises(Unreachable) as raised:
                said_by(sweep)
            assert str(raised.value) == f"W&B can't be reached or refuses ({why}); the same command goes on"
        else:
            code, said = said_by(sweep)
            what = "its logger can't be made" if at == "__init__" else "W&B has not taken it all"
            assert code == 1 and said[-1] == f"{sweep}: 2 failed"
            assert [(what in line and why in line) for line in said] == [True, True, False]
            assert "\n" not in "".join(said)
    wandb = server(StandIn())
    assert said_by(sweep)[0] == 0 and sent(wandb) == [1, 2, 1, 2]


def test_a_session_that_does_not_end_in_time_has_not_taken_it_all(server, tmp_path):
    config = CONFIG | {"logger": LOGGER | {"finish_timeout_s": 0.1}}
    sweep = make(tmp_path / "lambda" / "run", config=config).parent
    server(StandIn(finish_s=5))
    code, said = said_by(sweep)
    assert code == 1 and "W&B is not done after 0.1 s and is left behind" in said[0]
    assert said[1:] == ["run: W&B has not taken it all; the same command goes on", f"{sweep}: 1 failed"]


def test_a_service_that_does_not_start_is_one_line(server, tmp_path, capsys):
    stand_in = server(StandIn())
    stand_in.setup = lambda settings: fail()
    make(tmp_path / "run")
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == "error: W&B can't be started here (RuntimeError: no words)\n"


@pytest.mark.parametrize("key", ["sweep_name", "quant", "reg", "schedule"])
def test_a_configuration_from_elsewhere_is_named_and_the_others_are_done(server, tmp_path, key):
    make(tmp_path / "s" / "a", config={k: v for k, v in CONFIG.items() if k != key})
    make(tmp_path / "s" / "b", config=CONFIG | {key: ["x"]})
    make(tmp_path / "s" / "c")
    server(StandIn())
    code, said = said_by(tmp_path / "s")
    assert (code, said[-1][-21:]) == (1, "2 failed, 1 completed") or key == "sweep_name"
    assert "config.yaml: not a configuration that this brsweep knows" in said[0]


def test_runs_that_have_nothing_for_wandb_are_counted_and_left_alone(server, tmp_path):
    sweep = tmp_path / "lambda"
    make(sweep / "plain", config=CONFIG | {"logger": {"_target_": None}})
    (make(sweep / "begun", finished=False) / "metrics.jsonl").unlink()
    wandb = server(StandIn())
    with RunFolder(make(sweep / "training")).locked():
        code, said = said_by(sweep)
    assert (code, said) == (0, [f"{sweep}: 1 without an epoch, 1 not logged to W&B, 1 in training, left alone"])
    assert wandb.inits == []


def test_a_damaged_run_is_named_and_the_others_are_done(server, tmp_path):
    sweep = tmp_path / "lambda"
    (make(sweep / "a", finished=False) / "metrics.jsonl").write_text('{"stage": \n{}\n')
    (make(sweep / "b") / "config.yaml").write_text("[")
    make(sweep / "c")
    server(StandIn())
    code, said = said_by(sweep)
    assert code == 1
    assert [line.partition(": ")[0] for line in said] == ["a", "b", "c", str(sweep)]
    assert "metrics.jsonl, line 1: not a JSON object" in said[0] and "config.yaml: damaged" in said[1]
    assert said[-1] == f"{sweep}: 2 failed, 1 completed"


def test_a_folder_without_runs_and_a_mode_that_takes_nothing_are_one_line(world, monkeypatch, tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        f"error: {tmp_path}: no run folders here; give a sweep's folder, runs/<sweep>, or one run's\n"
    )
    stand_in = StandIn()
    world(stand_in)
    setup = stand_in.setup

    def disabled(settings):
        made = setup(settings)
        made.settings.mode = "disabled"
        return made

    monkeypatch.setattr(stand_in, "setup", disabled)
    make(tmp_path / "run")
    with pytest.raises(BrsweepError, match="WANDB_MODE=disabled: W&B takes nothing; unset it"):
        said_by(tmp_path)
