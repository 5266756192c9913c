"""W&B where it is missing, unreachable, slow, or has part of a run already: played by a stand-in for the module."""

from __future__ import annotations

import sys
import threading
import time

import pytest
from wandb_stand_in import StandIn, sent

from brsweep.errors import BrsweepError
from brsweep.tracking.tracker import Guarded, RunInfo

KEY = "f00dbeef" * 5
RECORDS = [{"stage": "br", "epoch": epoch, "step": 35 * epoch, "lr": 0.1} for epoch in range(1, 6)]


def test_without_wandb_there_is_one_warning_line_and_the_training_goes_on(world):
    tracker, _ = world(None)
    warned = []
    guarded = Guarded(lambda run: tracker, RunInfo("name", "sweep", {}, (), "id1", warn=warned.append))
    guarded.replay([])
    guarded.log(RECORDS[0], 1)
    guarded.summarise({})
    guarded.finish("finished")
    assert len(warned) == 1
    assert warned[0].startswith(
        "WeightsAndBiases is off for the rest of this run, the training goes on: ModuleNotFound"
    )


@pytest.mark.parametrize("name", ["init_timeout_s", "finish_timeout_s", "flush_s"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0, -1.0, "5", None, True, 10**400])
def test_a_time_that_is_none_is_refused_by_the_constructor(world, name, value):
    with pytest.raises(BrsweepError, match=f"^logger.{name}=.*: give a number of seconds over 0"):
        world(StandIn(), **{name: value})


def test_the_guard_waits_as_long_as_wandb_may_and_little_longer(world):
    tracker, _ = world(StandIn(), init_timeout_s=5, finish_timeout_s=7.0)
    assert (tracker.open_timeout_s, tracker.finish_timeout_s) == (50.0, 17.0)


def test_a_raising_init_leads_to_an_offline_run_with_one_warning(world, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    module = StandIn(failures=[ConnectionError("network\nis down")])
    tracker, said = world(module)
    tracker.replay(RECORDS[:2])
    tracker.finish("finished")
    assert said == [
        "warning: W&B cannot be reached, this run is kept offline: ConnectionError: network is down",
        f"W&B offline; send it with: python -m brsweep.sweep.sync {tmp_path / 'run'}",
    ]
    assert [init.get("mode") for init in module.inits] == [None, "offline"]
    assert sent(module) == [1, 2]
    assert module.ended == ["teardown", 0, "teardown"]  # the first frees the id that the attempt took


def test_wandbs_hooks_are_taken_away_even_when_init_raises(world, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    hooks = sys.exit, sys.excepthook
    tracker, _ = world(StandIn(failures=[ConnectionError()]))
    tracker.replay([])
    assert (sys.exit, sys.excepthook) == hooks
    tracker.finish("finished")


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("mode", ["online", "offline", "disabled"])
def test_no_mode_is_passed_where_the_user_set_one(world, monkeypatch, mode, key):
    monkeypatch.setenv("WANDB_MODE", mode)
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    module = StandIn()
    tracker, _ = world(module)
    tracker.replay([])
    tracker.finish("finished")
    assert [("mode" in init) for init in module.inits] == [False]


def test_no_key_reaches_what_wandb_is_told_or_what_is_said(world, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    module = StandIn()
    tracker, said = world(module)
    tracker.replay(RECORDS)
    tracker.finish("finished")
    settings = module.inits[0].pop("settings").values
    assert KEY not in repr((module.inits, settings, module.logged, module.summary, said))
    assert settings == {"silent": True, "console": "off", "init_timeout": 5.0}


@pytest.mark.parametrize(("server_steps", "expected"), [(0, [1, 2, 3, 4, 5]), (3, [4, 5]), (5, [])])
def test_a_resumed_online_run_is_sent_only_what_the_server_lacks(world, monkeypatch, server_steps, expected):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    module = StandIn(server_steps=server_steps)
    tracker, said = world(module)
    tracker.replay(RECORDS)
    tracker.finish("finished")
    assert (sent(module), len(said)) == (expected, 1)
    assert all(commit for _, _, commit in module.logged)


def test_a_server_that_has_more_than_is_on_file_is_told_of_and_gets_the_later_epochs(world, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    module = StandIn(server_steps=3)
    tracker, said = world(module)
    tracker.replay(RECORDS[:2])
    for step in (3, 4, 5):
        tracker.log(RECORDS[step - 1], step)
    tracker.finish("finished")
    assert said[0] == "warning: W&B has 3 epochs of this run and keeps them; only later ones are added"
    assert sent(module) == [4, 5]


def test_a_finish_that_hangs_is_left_behind_after_its_time(world):
    module = StandIn(finish_s=3.0)
    tracker, said = world(module, finish_timeout_s=0.1)
    tracker.replay(RECORDS[:1])
    before = set(threading.enumerate())
    started = time.monotonic()
    tracker.finish("finished")
    assert time.monotonic() - started < 2.5  # 0.1 s, and one second for W&B to keep the limit itself
    assert said[-1].startswith(
        "warning: W&B is not done after 0.1 s and is left behind; send the rest with: python -m brsweep.sweep.sync "
    )
    left = set(threading.enumerate()) - before
    assert left and all(thread.daemon for thread in left)


def test_an_error_of_finish_reaches_the_guard(world):
    tracker, _ = world(StandIn())
    tracker.replay([])
    tracker._run.finish = lambda exit_code: 1 / 0
    with pytest.raises(ZeroDivisionError):
        tracker.finish("finished")


def test_the_row_of_a_stages_last_epoch_waits_for_its_snapshot_and_no_longer(world, tmp_path):
    module = StandIn()
    tracker, said = world(module, ends=(2,), media=True)
    tracker.replay(RECORDS[:1])
    tracker.log(RECORDS[1], 2)
    assert sent(module) == [1]
    tracker.stage_ended("float")  # of before the replay
    assert sent(module) == [1]
    (tmp_path / "run" / "snapshots").mkdir()
    (tmp_path / "run" / "snapshots" / "br-end.npz").write_bytes(b"cut")
    tracker.stage_ended("br")
    assert sent(module) == [1, 2]
    assert said[-1].startswith("warning: W&B gets no pictures of the stage br: BrsweepError: ")
    tracker.finish("finished")
    assert sent(module) == [1, 2]


@pytest.mark.parametrize("end", ["next epoch", "finish"])
def test_a_snapshot_that_never_comes_holds_no_row_back(world, end):
    module = StandIn()
    tracker, _ = world(module, ends=(1,))
    tracker.replay([])
    tracker.log(RECORDS[0], 1)
    assert sent(module) == []
    if end == "finish":
        tracker.finish("interrupted")
    else:
        tracker.log(RECORDS[1], 2)
    assert sent(module)[:1] == [1]


def test_where_asked_an_unreachable_server_is_an_error_and_nothing_is_kept(world, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    module = StandIn(failures=[ConnectionError("down")])
    tracker, said = world(module)
    tracker.fall_back = False
    with pytest.raises(ConnectionError, match="down"):
        tracker.replay(RECORDS)
    assert (len(module.inits), said) == (1, [])
    assert not (tmp_path / "run" / "wandb.json").exists()
