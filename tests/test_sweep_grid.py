"""From what is typed, and from presets, to the points of a grid; compositions that are remembered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import ROOT, TINY, call

from brsweep.config import grid
from brsweep.config.compose import CONF_DIR
from hydra_plugins.brsweep_launcher.sweeper import GridSweeper

DRY = "hydra.launcher.dry_run=true"


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
    "paper_table": (27, 27),
}  # fmt: skip
"""Points and runs."""


def test_every_preset_is_known_here():
    assert {path.stem for path in (CONF_DIR / "sweep").glob("*.yaml")} == set(PRESETS)
    assert {path.stem for path in (ROOT / "scripts").glob("*.sh")} == set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_switches_multirun_on_and_plans(name, tmp_path, monkeypatch, capsys):
    answer = call(monkeypatch, capsys, f"sweep={name}", *TINY, f"output_dir={tmp_path}", DRY)
    points, runs = PRESETS[name]
    assert answer.code == 0, answer.err
    assert f"sweep {tmp_path}/{name}: {runs} runs, 0 finished already" in answer.out
    assert (f"of {points} points" in answer.out) == (points != runs)
    assert not list(tmp_path.rglob("*.pt"))


@pytest.fixture
def compositions(monkeypatch):
    """How many points were composed."""
    composed = []
    real = grid.checked
    monkeypatch.setattr(grid, "checked", lambda *given: composed.append(given) or real(*given))
    return composed


def test_each_point_is_composed_once_and_then_remembered(tmp_path, monkeypatch, capsys, compositions):
    line = ("--multirun", *TINY, f"output_dir={tmp_path}", "reg.lambda_act=0,1,2", DRY)
    first = call(monkeypatch, capsys, *line)
    assert len(compositions) == 3
    assert call(monkeypatch, capsys, *line).out == first.out
    assert len(compositions) == 3
    call(monkeypatch, capsys, "--multirun", *TINY, f"output_dir={tmp_path}", "reg.lambda_act=0,1,2,3", DRY)
    assert len(compositions) == 4, "a larger grid composes what is new"


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"a": 1}'])
def test_a_damaged_memory_composes_anew(tmp_path, monkeypatch, capsys, compositions, damage):
    line = ("--multirun", *TINY, f"output_dir={tmp_path}", "seed=1,2", DRY)
    call(monkeypatch, capsys, *line)
    (tmp_path / "default" / grid.REMEMBERED).write_text(damage)
    assert call(monkeypatch, capsys, *line).code == 0
    assert len(compositions) == 4


def test_a_changed_file_composes_anew(tmp_path, monkeypatch, capsys, compositions):
    own = tmp_path / "own" / "quant"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text((CONF_DIR / "quant" / "w2a2.yaml").read_text())
    line = ("--multirun", *TINY, f"output_dir={tmp_path}", "quant=mine", "seed=1,2", DRY)
    line += (f"hydra.searchpath=[file://{own.parent}]",)
    assert call(monkeypatch, capsys, *line).code == 0
    assert call(monkeypatch, capsys, *line).code == 0
    assert len(compositions) == 2
    (own / "mine.yaml").write_text((CONF_DIR / "quant" / "w4a4.yaml").read_text())
    assert "w4a4" in call(monkeypatch, capsys, *line).out
    assert len(compositions) == 4


def test_a_changed_environment_composes_anew(tmp_path, monkeypatch, capsys, compositions):
    own = tmp_path / "own" / "quant"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("defaults: [w2a2]\nclip_value: ${oc.env:BRSWEEP_TEST_CLIP}\n")
    line = ("--multirun", *TINY, f"output_dir={tmp_path}", "quant=mine", "seed=1,2", DRY)
    line += (f"hydra.searchpath=[file://{own.parent}]",)
    for clip in ("6", "6", "1"):
        monkeypatch.setenv("BRSWEEP_TEST_CLIP", clip)
        assert call(monkeypatch, capsys, *line).code == 0
        assert compositions[-1][0].quant.clip_value == float(clip)
    assert len(compositions) == 4, "two points, once for each value"


BAD = {
    "reg.lambda_act=0,-1": "reg.lambda_act=-1.0: a number, 0 or more (at ",
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


def test_a_bad_part_is_found_before_anything_starts(tmp_path, monkeypatch, capsys):
    typed = ("qat_optimizer=sgd,adam", "+qat_optimizer.momentum_decay=1")
    answer = call(monkeypatch, capsys, "--multirun", *TINY, f"output_dir={tmp_path}", *typed)
    assert answer.code == 1 and "momentum_decay" in answer.err and "nothing was started" in answer.err
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


def test_a_sweep_name_with_spaces_and_a_slash_is_a_folder(tmp_path, monkeypatch, capsys):
    name = "first try/lambda"
    answer = call(monkeypatch, capsys, "--multirun", *TINY, f"output_dir={tmp_path}", f"sweep_name='{name}'", DRY)
    assert answer.code == 0 and f"sweep {Path(tmp_path, name)}: 1 run" in answer.out
