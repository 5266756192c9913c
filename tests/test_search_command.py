"""The command as typed: what it refuses, in one line and before any file is made; and what it must not import."""

from __future__ import annotations

import importlib.metadata
import shlex

import pytest
from commands import WITHOUT, call, check_refused, shell
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from brsweep.errors import BrsweepError
from brsweep.search.__main__ import train_command
from brsweep.search.space import in_words, lowest, read_space

LOW = "search.space.reg.lambda_act"
REFUSED = [
    (f"{LOW}.low=20", f"{LOW}: low=20 is above high=10.0"),
    (f"{LOW}.low=0", f"{LOW}.low=0: a log scale begins above 0; to have 0 among the values, give choices"),
    (f"{LOW}.low=abc", f"{LOW}.low=abc: a number"),
    (f"{LOW}.high=inf", f"{LOW}.high=inf: a number"),
    (f"{LOW}.log=1", f"{LOW}.log=1: true or false"),
    (f"+{LOW}.step=1", f"{LOW}: a key has {{low: ..., high: ...}}"),
    (f"{LOW}=3", f"{LOW}=3: a key has {{low: ..., high: ...}}"),
    ("+search.space.reg.variance={choices:[]}", "search.space.reg.variance.choices=[]: a list of single values"),
    ("+search.space.reg.variance={choices:[biased,up]}", "search.space: reg.variance=up: choose one of biased"),
    ("+search.space.reg.lamda_act={low:0,high:1}", "search.space: reg.lamda_act: there is no such option; did you"),
    ("+search.space={quant.clip_value:{low:0,high:6}}", "search.space: quant.clip_value=0.0: a number above 0"),
    ("+search.space.reg.unit.act={low:0,high:1}", "search.space: reg.unit.act=0.0: choose one of value, step"),
    ("+search.space.seed={low:1,high:9}", "search.space.seed: a search has one seed, seed=..."),
    ("+search.space.data.noise={low:1,high:9}", "search.space.data.noise: trials share their images; of data, take"),
    ("+search.space.threads={low:1,high:2}", "search.space.threads: changes no result"),
    ("search.space.reg=null search.space.qat_optimizer=null", "search.space: is empty; give at least one key"),
    ("search.trials=0", "search.trials=0: a whole number from 1"),
    ("search.trials=many", "search.trials=many: a whole number from 1"),
    ("search.trails=3", "search.trails: there is no such option; did you mean search.trials?"),
    ("reg.lamda_act=3", "reg.lamda_act: there is no such option; did you mean reg.lambda_act?"),
    ("data.val_fraction=0", "data.val_fraction=0: a search goes by validation accuracy, the test set chooses nothing"),
    ("+model.depth=3", "unexpected keyword argument 'depth'"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "says"), REFUSED, ids=[arguments for arguments, _ in REFUSED])
def test_a_mistake_is_one_line_and_leaves_nothing(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = ["data=synthetic", "model=tiny", "logger=none", "device=cpu", *arguments.split()]
    check_refused(call(monkeypatch, capsys, *given, module="search.__main__"), tmp_path, says)


@pytest.mark.parametrize(
    ("found", "says"), [(None, "needs Optuna: pip"), ("4.8.1", "needs Optuna 4.9 or newer, this is")]
)
def test_optuna_is_asked_for(found, says, tmp_path, monkeypatch, capsys):
    def version(name):
        if name == "optuna" and found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("brsweep.search.__main__.version", version)
    answer = call(monkeypatch, capsys, "data=synthetic", "logger=none", module="search.__main__")
    check_refused(answer, tmp_path, says)
    assert answer.err.endswith("pip install brsweep[hpo]\n")


def test_multirun_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    answer = call(monkeypatch, capsys, "--multirun", "data=synthetic", "seed=1,2", module="search.__main__")
    assert answer.code == 1 and "a search is one command: leave --multirun out" in answer.err


def test_help_shows_the_search_and_imports_nothing_heavy(tmp_path):
    heavy = ("torch", "numpy", "optuna", "wandb")
    program = WITHOUT.replace("brsweep.train", "brsweep.search").format(arguments=["--help"], heavy=heavy)
    answer = shell(tmp_path, program=("-c", program))
    assert answer.code == 0, answer.err
    assert (
        answer.out.splitlines()[-1] == "HEAVY []"
        and "trials: 20" in answer.out
        and "brsweep.search looks" in answer.out
    )


def test_a_finished_search_answers_without_torch(tmp_path):
    small = (
        "model=tiny", "data=synthetic", "logger=none", "threads=1", "device=cpu", "kernels=reference",
        "schedule.float_epochs=1", "schedule.warmup_epochs=1", "schedule.qat_epochs=2", "data.train_images=160",
        "search.trials=1",
    )  # fmt: skip
    first = shell(tmp_path, *small, program=("-m", "brsweep.search"))
    assert first.code == 0 and first.err == "", first.err
    program = WITHOUT.replace("brsweep.train", "brsweep.search").format(arguments=list(small), heavy=("torch", "numba"))
    answer = shell(tmp_path, program=("-c", program))
    assert answer.code == 0, answer.err
    said = answer.out.splitlines()
    assert said[-1] == "HEAVY []" and said[-4:-1] == first.out.splitlines()[-3:]
    assert (tmp_path / "runs/search-w2a2/study.db").exists()
    again = shell(tmp_path, *shlex.split(said[-3].removeprefix("its run: python -m brsweep.train")))
    assert again.code == 0 and again.out.startswith("finished already: runs/search-w2a2/")


# --- spaces and commands, without a run ------------------------------------------------------------------------------


def test_a_space_becomes_distributions():
    node = {
        "reg": {"lambda_act": {"low": 0.01, "high": 10, "log": True}, "lambda_weight": None},
        "schedule": {"warmup_epochs": {"low": 2, "high": 8}, "freeze_alpha": {"choices": [True, False]}},
        "qat_optimizer.lr": {"low": 1, "high": 2},
    }
    base = {"reg": {"lambda_act": 1.0}, "schedule": {"warmup_epochs": 5}, "qat_optimizer": {"lr": 0.1}}
    tried = []
    space = read_space(node, lambda point: tried.append(dict(point)) or base)
    assert space == {
        "reg.lambda_act": FloatDistribution(0.01, 10, log=True),
        "schedule.warmup_epochs": IntDistribution(2, 8),
        "schedule.freeze_alpha": CategoricalDistribution([True, False]),
        "qat_optimizer.lr": FloatDistribution(1, 2),
    }
    ends = [
        ("reg.lambda_act", 0.01),
        ("reg.lambda_act", 10.0),
        ("schedule.warmup_epochs", 2),
        ("schedule.warmup_epochs", 8),
    ]
    ends += [("schedule.freeze_alpha", True), ("schedule.freeze_alpha", False), ("qat_optimizer.lr", 1.0)]
    assert tried[1:] == [{key: value} for key, value in [*ends, ("qat_optimizer.lr", 2.0)]]
    assert list(lowest(space).values()) == [0.01, 2, True, 1.0]
    assert in_words("a", space["reg.lambda_act"]) == "a 0.01..10.0 (log)"
    assert in_words("a", space["schedule.freeze_alpha"]) == "a True|False"


def test_a_refused_end_names_the_space():
    def configured(point):
        if point.get("a", 0) > 1:
            raise BrsweepError("a=2.0: at most 1")
        return {"a": 0.5}

    with pytest.raises(BrsweepError, match=r"^search\.space: a=2\.0: at most 1$"):
        read_space({"a": {"low": 1, "high": 2}}, configured)


def test_the_command_of_a_point():
    typed = ["quant=w2a2", "search.trials=3", "+search.space.x={low:1,high:2}", "~search.space.y", "reg.lambda_act=5",
             "seed=7", "sweep_name=other", "hydra.searchpath=[file:///a b]"]  # fmt: skip
    point = {"reg.lambda_act": 0.1, "schedule.freeze_alpha": True, "quant.clip_value": None}
    words = ["quant=w2a2", "seed=7", "hydra.searchpath=[file:///a b]", "sweep_name=mine", "reg.lambda_act=0.1",
             "schedule.freeze_alpha=true", "quant.clip_value=null"]  # fmt: skip
    assert train_command(typed, "mine", point, ()) == ["python", "-m", "brsweep.train", *words]
    words.remove("seed=7")
    expected = ["python", "-m", "brsweep.train", "--multirun", *words, "seed=7,8,9"]
    assert train_command(typed, "mine", point, (7, 8, 9)) == expected
