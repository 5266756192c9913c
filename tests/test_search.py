"""A search: what its trials are, what it says at the end, and that kills and damage change nothing of it."""

from __future__ import annotations

import contextlib
import io
import json
import math
import random
import shlex
import shutil
import sqlite3
from pathlib import Path

import pytest
import small_runs
import small_searches
from optuna.storages import RDBStorage
from small_searches import table

from brsweep.errors import BrsweepError
from brsweep.stages.store import os_lock
from brsweep.sweep.manifest import runs_of
from brsweep.tracking.jsonl import read


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The place of a finished search of real runs, and what it printed. Tests that change it work on a copy."""
    place, said = tmp_path_factory.mktemp("done"), io.StringIO()
    with contextlib.redirect_stdout(said):
        small_searches.search(tmp_path=place)
    return place, said.getvalue().splitlines()


@pytest.fixture
def again(done, tmp_path):
    shutil.copytree(done[0], tmp_path / "copy")
    return tmp_path / "copy"


def results(place: Path) -> dict[str, dict]:
    found = [json.loads(path.read_text()) for path in (place / "lambdas").glob("*/result.json")]
    return {result["name"]: result for result in found}


# --- real runs -------------------------------------------------------------------------------------------------------


def test_each_trial_is_a_run_and_its_value_the_validation_accuracy(done):
    place, _ = done
    trials, finished = table(place / "lambdas"), results(place)
    assert [trial["state"] for trial in trials].count("COMPLETE") == 2 == len(finished) and len(trials) == 4
    for trial in trials:
        name = trial["about"]["run"]
        records = [r for r in read(place / "lambdas" / name / "metrics.jsonl") if r["stage"] == "br"]
        assert trial["epochs"] == [(r["epoch"], r["val_accuracy"]) for r in records]
        assert (name in finished) == (trial["state"] == "COMPLETE")
        if name in finished:
            assert trial["value"] == [(finished[name]["val_accuracy"],)]
            reg = finished[name]["config"]["reg"]
            assert trial["point"] == [(f"reg.{key}", reg[key]) for key in ("lambda_act", "lambda_weight")]


def test_float_and_warm_up_are_trained_once(done):
    records = [read(path) for path in (done[0] / "lambdas").glob("*/metrics.jsonl")]
    shared = [record["shared"] for run in records for record in run if record["stage"] != "br"]
    assert (shared.count(False), shared.count(True)) == (4, 12)


def test_a_pruned_run_says_so_and_is_no_failure(done):
    sweep = done[0] / "lambdas"
    states, trials = {run.name: run for run in runs_of(sweep, pytest.fail)}, table(sweep)
    finished = [trial["epochs"][0][1] for trial in trials if trial["state"] == "COMPLETE"]
    pruned = [trial for trial in trials if trial["state"] == "PRUNED"]
    assert len(states) == 4 and len(pruned) == 2
    for trial in pruned:
        run = states[trial["about"]["run"]]
        assert (run.state, run.cause, run.done, run.total) == ("stopped", None, 5, 6)
        assert dict(o.split("=") for o in run.overrides) == {key: str(value) for key, value in trial["point"]}
        assert (run.path / "console.log").read_text().splitlines()[-1] == f"warning: pruned: {trial['about']['pruned']}"
        assert trial["about"]["pruned"].startswith(f"after epoch 3/4: validation {trial['epochs'][0][1]:.2%} at best")
        assert trial["epochs"][0][1] < sum(finished) / 2  # of two values the mean is the median


def test_a_pruned_run_goes_on_by_the_plain_command(again):
    trial = next(t for t in table(again / "lambdas") if t["state"] == "PRUNED")
    command = shlex.split(trial["about"]["pruned"].partition("to go on with it: ")[2])
    assert command[:3] == ["python", "-m", "brsweep.train"]
    ended = small_runs.train(*command[3:], f"output_dir={again}", tmp_path=again)
    alone = small_runs.train(*command[3:], f"output_dir={again / 'alone'}", tmp_path=again)
    assert ended["name"] == trial["about"]["run"]
    assert "br: goes on after epoch 3 of 4" in (small_runs.folder(ended) / "console.log").read_text()
    outcomes = [small_runs.outcome(small_runs.folder(result)) for result in (ended, alone)]
    for outcome in outcomes:
        outcome["metrics.jsonl"] = [{k: v for k, v in r.items() if k != "shared"} for r in outcome["metrics.jsonl"]]
    assert outcomes[0] == outcomes[1]


def test_the_end_names_the_best_its_command_and_the_one_for_more_seeds(done, capsys):
    place, said = done
    best = max(results(place).values(), key=lambda result: result["val_accuracy"])
    head, command, more = said[-3:]
    assert head.startswith(f"best of 4 trials (2 finished, 2 pruned): validation {best['val_accuracy']:.2%} at reg.")
    words = shlex.split(command.removeprefix("its run: "))
    assert words[:3] == ["python", "-m", "brsweep.train"] and "search" not in command.replace("brsweep.search", "")
    assert small_runs.train(*words[3:], tmp_path=place)["val_accuracy"] == best["val_accuracy"]
    assert "finished already" in capsys.readouterr().out
    assert more.startswith(
        "one seed (4) chose it among 2, which flatters it; under 3 seeds: python -m brsweep.train --mul"
    )
    assert shlex.split(more)[-1] == "seed=4,5,6" and "seed=4 " not in more


@pytest.mark.slow
def test_killed_in_a_trials_last_stage_it_ends_as_if_it_was_not(done, tmp_path, capsys):
    """The second trial's third epoch is saved, and not yet reported, when the process dies."""
    small_searches.kill_at("brsweep.stages.run:save", 11, tmp_path=tmp_path)
    small_searches.search(tmp_path=tmp_path)
    assert "1 of 4 trials done; 1 killed, tried again first" in capsys.readouterr().out
    mine, whole = table(tmp_path / "lambdas"), table(done[0] / "lambdas")
    for trial in (*mine, *whole):
        trial["about"].pop("pruned", None)  # names the folder
    assert mine == whole
    for name in results(done[0]):
        outcomes = [small_runs.outcome(place / "lambdas" / name) for place in (tmp_path, done[0])]
        assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("damage", [lambda b: b"no database" * 100, lambda b: b[: len(b) // 2]], ids=["other", "cut"])
def test_a_damaged_study_is_asked_again_and_nothing_is_trained_again(damage, again, capsys):
    sweep = again / "lambdas"
    before = table(sweep)
    weights = {path: path.stat().st_mtime_ns for path in again.rglob("*.pt")}
    (sweep / "study.db").write_bytes(damage((sweep / "study.db").read_bytes()))
    small_searches.search(tmp_path=again)
    assert f"warning: {sweep / 'study.db'}: damaged (" in capsys.readouterr().out
    after = table(sweep)
    for trial in (*before, *after):
        trial["about"].pop("pruned", None)
    assert after == before and (sweep / "study.db.damaged").exists()
    assert {path: path.stat().st_mtime_ns for path in again.rglob("*.pt")} == weights


def test_a_point_that_diverges_fails_with_its_cause_and_the_search_goes_on(tmp_path, capsys):
    space = ("search.space.reg=null", "+search.space={qat_optimizer.lr:{choices:[1e9]}}", "search.trials=1")
    with pytest.raises(BrsweepError, match=r"^no trial finished \(1 failed\): .* not a number"):
        small_searches.search(*space, tmp_path=tmp_path)
    (trial,) = table(tmp_path / "lambdas")
    assert "not a number" in trial["about"]["failed"]
    (run,) = runs_of(tmp_path / "lambdas", pytest.fail)
    assert (run.state, run.cause) == ("failed", trial["about"]["failed"])
    assert f"trial 1/1: failed: {run.cause}" in capsys.readouterr().out


# --- pretended runs: the study alone ---------------------------------------------------------------------------------


def good_near_one(config: dict, epoch: int) -> float:
    reg = config["reg"]
    return math.exp(-sum(math.log10(reg[f"lambda_{kind}"]) ** 2 for kind in ("weight", "act"))) * epoch / 10


@pytest.fixture
def pretended(monkeypatch):
    import brsweep.search.trial as trial

    pretend = small_searches.pretend(good_near_one, fails=lambda config: config["reg"]["lambda_weight"] > 3)
    monkeypatch.setattr(trial, "execute", pretend)


LONGER = (
    "search.trials=10", "search.random_trials=5", "search.prune_after_trials=3", "schedule.qat_epochs=6",
    "search.space.reg.lambda_act.high=10.0",
)  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    place = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patched:
        import brsweep.search.trial as trial

        pretend = small_searches.pretend(good_near_one, fails=lambda config: config["reg"]["lambda_weight"] > 3)
        patched.setattr(trial, "execute", pretend)
        small_searches.search(*LONGER, tmp_path=place)
    return place


def causeless(place: Path) -> list[dict]:
    trials = table(place / "lambdas")
    for trial in trials:
        trial["about"].pop("pruned", None)  # names the folder
    return trials


class Killed(BaseException):
    """As little handled as a signal."""


WRITES = [
    "create_new_study", "set_study_user_attr", "create_new_trial", "set_trial_param", "set_trial_state_values",
    "set_trial_intermediate_value", "set_trial_user_attr",
]  # fmt: skip


def dying(monkeypatch, writes: int, after: bool) -> None:
    """Let the process die at its `writes`-th write to the study, before it or after it."""
    left = [writes]
    for name in WRITES:
        write = getattr(RDBStorage, name)

        def counting(*args, write=write, **options):
            left[0] -= 1
            if left[0] == 0 and not after:
                raise Killed
            answer = write(*args, **options)
            if left[0] == 0:
                raise Killed
            return answer

        monkeypatch.setattr(RDBStorage, name, counting)


def test_all_ends_come_up_in_the_undisturbed_search(undisturbed):
    trials = causeless(undisturbed)
    assert {(trial["state"], "failed" in trial["about"]) for trial in trials} == {
        ("COMPLETE", False), ("PRUNED", False), ("PRUNED", True),
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_killed_again_and_again_it_ends_as_if_it_was_not(seed, undisturbed, tmp_path, pretended):
    """Each process dies at a random write to the study, often before it has gone on with the trial of the last one."""
    drawn, deaths = random.Random(seed), 0
    while True:
        with pytest.MonkeyPatch.context() as patched:
            dying(patched, drawn.randint(1, 24), drawn.random() < 0.5)
            try:
                small_searches.search(*LONGER, tmp_path=tmp_path)
                break
            except Killed:
                deaths += 1
    assert deaths >= 5
    assert causeless(tmp_path) == causeless(undisturbed)


@pytest.mark.slow
def test_killed_at_every_write(undisturbed, tmp_path, pretended):
    writes = 0
    while True:
        writes += 1
        place = tmp_path / str(writes)
        with pytest.MonkeyPatch.context() as patched:
            dying(patched, writes, False)
            try:
                small_searches.search(*LONGER, tmp_path=place)
                break
            except Killed:
                pass
        small_searches.search(*LONGER, tmp_path=place)
        assert causeless(place) == causeless(undisturbed), writes
    assert writes > 40


def test_a_larger_number_goes_on_where_it_was(undisturbed, tmp_path, pretended, capsys):
    small_searches.search(*LONGER, "search.trials=5", tmp_path=tmp_path)
    five = causeless(tmp_path)
    small_searches.search(*LONGER, tmp_path=tmp_path)
    assert "5 of 10 trials done; reg.lambda_weight 0.01..10.0 (log), reg.lambda_act" in capsys.readouterr().out
    assert causeless(tmp_path)[:5] == five and causeless(tmp_path) == causeless(undisturbed)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            ["quant=w4a4"],
            "holds another search, quant.act_bits=2 there and 4 here; take another",
        ),
        (["seed=5"], "holds another search, seed=4 there and 5 here"),
        (["search.prune=false"], "holds another search, search.prune=True there and False here"),
        (
            ["search.space.reg.lambda_act.high=2"],
            "lambda_act=reg.lambda_act 0.01..10000.0 (log) there and reg.lambda_act 0.01..2.0 (log) here",
        ),
    ],
)
def test_another_search_is_refused(overrides, says, done):
    with pytest.raises(BrsweepError) as raised:
        small_searches.search(*overrides, tmp_path=done[0])
    assert says in str(raised.value) and "\n" not in str(raised.value)


def test_other_code_stops_is_kept_or_begins_anew(undisturbed, tmp_path, pretended):
    shutil.copytree(undisturbed / "lambdas", tmp_path / "lambdas")
    with contextlib.closing(sqlite3.connect(tmp_path / "lambdas/study.db")) as db, db:
        db.execute("update study_user_attributes set value_json='\"old\"' where key='code'")
    with pytest.raises(BrsweepError, match=r"made under other training code \(old, .*stale=keep.*stale=retrain"):
        small_searches.search(*LONGER, tmp_path=tmp_path)
    before = (tmp_path / "lambdas/study.db").read_bytes()
    small_searches.search(*LONGER, "stale=keep", tmp_path=tmp_path)
    assert (tmp_path / "lambdas/study.db").read_bytes() == before
    small_searches.search(*LONGER, "stale=retrain", tmp_path=tmp_path)
    assert (tmp_path / "lambdas/study.db.old").read_bytes() == before
    assert causeless(tmp_path) == causeless(undisturbed)


def test_two_searches_in_one_place(done):
    lock = done[0] / "lambdas" / ".study.lock"
    with os_lock(lock), pytest.raises(BrsweepError, match=r"lambdas: another process searches here; wait for it"):
        small_searches.search(tmp_path=done[0])


def test_without_pruning_every_trial_ends_on_its_own(tmp_path, pretended):
    small_searches.search(*LONGER, "search.prune=false", "search.trials=8", tmp_path=tmp_path)
    assert all((trial["state"] == "PRUNED") == ("failed" in trial["about"]) for trial in causeless(tmp_path))


def test_no_trial_is_pruned_before_its_share_of_epochs(tmp_path, pretended):
    small_searches.search(*LONGER, "search.prune_after_epochs=3", tmp_path=tmp_path)
    pruned = [t for t in causeless(tmp_path) if t["state"] == "PRUNED" and "failed" not in t["about"]]
    assert {len(trial["epochs"]) for trial in pruned} == {3}
