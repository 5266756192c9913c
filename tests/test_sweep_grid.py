"""From what is typed, and from presets, to the points of a grid, each composed as Hydra would."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import ROOT, TINY, call
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import open_dict

from brsweep.config.compose import CONF_DIR, VERSION_BASE, register
from brsweep.config.grid import Composer
from hydra_plugins.brsweep_launcher.sweeper import GridSweeper

DRY = "hydra.launcher.dry_run=true"


@pytest.fixture
def loader():
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_DIR), **VERSION_BASE):
        return GlobalHydra.instance().config_loader()


class Context:
    config_loader = None


def swept(*typed: str, params=None, rows=None) -> list[list[str]]:
    sweeper = GridSweeper(params, rows)
    sweeper.hydra_context = Context
    return sweeper.points(list(typed))


def test_the_product_of_what_is_typed():
    assert swept("a=1,2", "b=x", "c=3,4") == [
        ["a=1", "b=x", "c=3"], ["a=1", "b=x", "c=4"], ["a=2", "b=x", "c=3"], ["a=2", "b=x", "c=4"],
    ]  # fmt: skip
    assert swept("a=range(0,3)") == [["a=0"], ["a=1"], ["a=2"]]
    assert swept("a=null", "~b", "+c=[1,2]", "d='x,y'") == [["a=null", "~b", "+c=[1,2]", "d='x,y'"]]


def test_a_presets_values_and_what_is_typed_over_them():
    params = {"a": [0, 0.1, None, True], "s": "range(1,3)"}
    assert [point[0] for point in swept(params=params)][::2] == ["a=0", "a=0.1", "a=null", "a=True"]
    assert swept("a=7", params=params) == [["s=1", "a=7"], ["s=2", "a=7"]]


def test_rows_vary_together():
    rows = [{"q": "w2a2", "x": 0}, {"q": "w4a4", "x": 1}]
    assert swept("seed=1,2", rows=rows) == [
        ["q=w2a2", "x=0", "seed=1"], ["q=w2a2", "x=0", "seed=2"],
        ["q=w4a4", "x=1", "seed=1"], ["q=w4a4", "x=1", "seed=2"],
    ]  # fmt: skip
    assert swept("x=5", rows=rows) == [["q=w2a2", "x=5"], ["q=w4a4", "x=5"]]
    assert swept("x=5", "q=w3a3", rows=rows) == [["x=5", "q=w3a3"]], "rows that no longer differ are one"


PRESETS = {
    "lambda_weights": (12, 12), "lambda_acts": (12, 12), "bits": (18, 18), "alpha_control": (12, 9), "clip": (9, 9),
    "paper_table": (27, 27), "method_table": (57, 57), "method_table_mobilenet": (12, 12),
}  # fmt: skip
"""Points and runs."""


def test_every_preset_is_known_here():
    assert {path.stem for path in (CONF_DIR / "sweep").glob("*.yaml")} == set(PRESETS)
    assert {path.stem for path in (ROOT / "scripts").glob("*.sh")} == set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_switches_multirun_on_and_plans(name, tmp_path, monkeypatch, capsys):
    whole = ("model.width=8",) if "mobilenet" in name else ()  # its own width is a share
    answer = call(monkeypatch, capsys, f"sweep={name}", *TINY, *whole, f"output_dir={tmp_path}", DRY)
    points, runs = PRESETS[name]
    assert answer.code == 0, answer.err
    assert f"sweep {tmp_path}/{name}: {runs} runs, 0 finished already" in answer.out
    assert (f"of {points} points" in answer.out) == (points != runs)
    assert not list(tmp_path.rglob("*.pt"))


def test_the_table_of_mobilenet_is_of_mobilenet(tmp_path, monkeypatch, capsys):
    base = ("data=synthetic", "logger=none", f"output_dir={tmp_path}", DRY)
    answer = call(monkeypatch, capsys, "sweep=method_table_mobilenet", *base)
    assert answer.code == 0 and answer.out.count("\n  mobilenet_v2-synthetic-w4a4") == 12, answer


LISTS = [
    ["seed=3", "quant=w4a4", "reg.lambda_act=0.5", "+data.depth=4"],
    ["experiment=digits_resnet20", "data=synthetic", "~seed", "model.residual_gamma=1"],
    ["logger=none", "model=tiny", "model.width=4", "quant.overrides={fc: 4}", "qat_optimizer=adam", "seed=3"],
    ["regularizer=none", "reg={lambda_act: 3}", "++reg.ramp.act=linear", "sweep_name='a=b'"],
    ["qat_optimizer.lr=0.5", "qat_optimizer.alpha_lr=${seed}"],
]  # fmt: skip


@pytest.mark.parametrize("overrides", LISTS, ids=str)
def test_values_set_on_a_copy_are_what_hydra_composes(overrides, loader):
    composer = Composer(loader, "config")
    composer.compose(overrides)
    hydra = loader.load_configuration("config", overrides, RunMode.RUN)
    with open_dict(hydra):
        del hydra["hydra"]
    assert composer.compose(overrides) == hydra, "the second time, when the groups are at hand"


def test_hydra_composes_once_for_each_choice_of_groups(loader, monkeypatch):
    composed = []
    real = loader.load_configuration
    monkeypatch.setattr(loader, "load_configuration", lambda *given: composed.append(given) or real(*given))
    composer = Composer(loader, "config")
    points = [(quant, seed) for quant in ("w2a2", "w4a4") for seed in (1, 2)]
    seeds = [composer.compose([f"quant={quant}", f"seed={seed}"]).seed for quant, seed in points]
    assert seeds == [1, 2, 1, 2] and len(composed) == 2


def test_a_point_leaves_the_others_alone(loader):
    composer = Composer(loader, "config")
    composer.compose(["+data.extra=1", "reg.lambda_act=9"])
    again = composer.compose([])
    assert "extra" not in again.data and again.reg.lambda_act == 1


BAD = {
    "reg.lambda_act=0,-1": "reg.lambda_act=-1: a number, 0 or more (at ",
    "quant.weight_bits=2,9": "quant.weight_bits=9: bits are 1 to 8",
    "quant=w2a2,w9a9": "quant=w9a9: choose one of",
    "reg.lamda_act=0,1": "reg.lamda_act: there is no such option; did you mean reg.lambda_act?",
}


@pytest.mark.parametrize("typed", BAD)
def test_one_bad_point_and_nothing_runs(typed, tmp_path, monkeypatch, capsys):
    answer = call(monkeypatch, capsys, "--multirun", *TINY, f"output_dir={tmp_path}", typed)
    assert answer.code == 1 and answer.err.count("\n") == 1 and "Traceback" not in answer.err
    assert answer.err.startswith(f"error: {BAD[typed]}")
    assert list(tmp_path.iterdir()) == []


ROUNDS = "seed=auto", "reg.lambda_act=0,1", "reg.lambda_weight=0"


@pytest.mark.parametrize("how", [(), (DRY,), ROUNDS, (*ROUNDS, DRY)])
def test_a_bad_part_is_found_before_anything_starts(how, tmp_path, monkeypatch, capsys):
    """In a plan that is only shown as well."""
    typed = ("qat_optimizer=sgd,adam", "+qat_optimizer.momentum_decay=1", *how)
    answer = call(monkeypatch, capsys, "--multirun", *TINY, f"output_dir={tmp_path}", *typed)
    assert answer.code == 1 and "momentum_decay" in answer.err and "nothing was started" in answer.err
    assert DRY not in how or answer.out == ""
    assert not list(tmp_path.rglob("*.jsonl")) and not list(tmp_path.rglob("sweep.json"))


def test_an_unknown_launcher_option_is_named(tmp_path, monkeypatch, capsys):
    answer = call(monkeypatch, capsys, "--multirun", *TINY, f"output_dir={tmp_path}", "hydra.launcher.njobs=2")
    assert answer.code == 1 and answer.err.count("\n") == 1
    assert "hydra.launcher.njobs: there is no such option; did you mean hydra.launcher.n_jobs?" in answer.err


def test_the_manifest_remembers_how_to_make_one_run_again(tmp_path, monkeypatch, capsys):
    from brsweep.sweep.plan import _alone

    assert _alone(("a=1", "sweep=bits")) == ["a=1", "sweep=bits", "hydra.mode=RUN"]
    assert _alone(("a=1",)) == ["a=1"]
    answer = call(monkeypatch, capsys, "sweep=bits", "hydra.mode=RUN", "--cfg", "job")
    assert answer.code == 0 and "sweep_name: bits" in answer.out
    assert json.dumps(answer.out)


@pytest.mark.parametrize("seeds", ["1,2", "auto"])
def test_what_is_typed_follows_the_seed_of_each_point(seeds, tmp_path, monkeypatch, capsys):
    found = ("sweep.seeds.first=1", "sweep.seeds.least=2") if seeds == "auto" else ()
    typed = (f"seed={seeds}", *found, "reg.lambda_act=0,1", "reg.lambda_weight=0", "store_dir=store-${seed}", DRY)
    answer = call(monkeypatch, capsys, "--multirun", *TINY, *typed, f"output_dir={tmp_path}")
    assert answer.code == 1 and "store_dir=store-1,store-2: one for the whole sweep" in answer.err


def test_a_sweep_name_with_spaces_and_a_slash_is_a_folder(tmp_path, monkeypatch, capsys):
    name = "first try/lambda"
    answer = call(monkeypatch, capsys, "--multirun", *TINY, f"output_dir={tmp_path}", f"sweep_name='{name}'", DRY)
    assert answer.code == 0 and f"sweep {Path(tmp_path, name)}: 1 run" in answer.out
