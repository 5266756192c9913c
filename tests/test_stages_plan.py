"""Which runs share which stages, and what makes a signature change."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import small_runs
from stage_configs import ALL, BR, CONFIG, FLOAT, NONE, WARMUP, changed

from brsweep.errors import BrsweepError
from brsweep.stages.plan import canonical, identity, plan, run_code
from brsweep.stages.signature import digest

DATA = "made-up-1"
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def code(monkeypatch):
    """The code that stages are planned under, whatever their parts: these tests are of the configuration."""
    code = {"core": "0123456789abcdef", "versions": {"torch": "2.0"}, "parts": {}}
    monkeypatch.setattr("brsweep.stages.plan.stage_code", lambda kind, targets, allowed: dict(code))
    return code


def signatures(config, data=DATA):
    return {stage.name: stage.signature for stage in plan(config, data)}


def differ(config, to=CONFIG) -> set[str]:
    one, other = signatures(config), signatures(to)
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


def test_literal_values():
    """Signatures are names on people's disks. Where this fails without intent, every store would be trained anew;
    where it is meant, raise `signature.VERSION` and write the new values here."""
    assert signatures(CONFIG) == {"float": "e8237e64f5c2d0af", "warmup": "439a2ced44d1ee8d", "br": "aea5113ddd97afc1"}
    assert identity(CONFIG, DATA) == "008b7a7311fcd5a2"
    assert digest({"a": 1, "b": [2.5, None, True, "é"]}) == "cb403d898b80cb48"


def test_stages_and_their_epochs():
    spans = [(s.name, s.first, s.last, s.epochs) for s in plan(CONFIG, DATA)]
    assert spans == [(FLOAT, 0, 4, 4), (WARMUP, 0, 2, 2), (BR, 2, 6, 4)]
    joint = plan(changed(schedule__warmup_epochs=0), DATA)
    assert [(s.name, s.first, s.last) for s in joint] == [(FLOAT, 0, 4), (BR, 0, 6)]


def test_what_a_stage_is_stands_in_its_fields():
    """(quantized, regularized, freezes_alphas, optimizer) of each stage."""

    def rows(**fields):
        stages = plan(changed(**fields), DATA)
        return [(s.quantized, s.regularized, s.freezes_alphas, s.optimizer.partition("_")[0]) for s in stages]

    floating, warmup = (False, False, False, "float"), (True, False, False, "qat")
    assert rows() == [floating, warmup, (True, True, False, "qat")]
    assert rows(schedule__freeze_alpha=True) == [floating, warmup, (True, True, True, "qat")]
    assert rows(reg__lambda_weight=0) == [floating, warmup, (True, True, False, "qat")]
    assert rows(**OFF) == [floating, warmup, (True, False, False, "qat")]


def test_each_stage_asks_for_the_code_of_its_own_parts(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("brsweep.stages.plan.stage_code", lambda kind, parts, allowed: asked.append((kind, *parts)))
    (tmp_path / "a.pt").touch()
    plan(CONFIG, DATA), plan(changed(**OFF), DATA), plan(changed(pretrained=str(tmp_path / "a.pt")), DATA)
    floating, qat = ("float", "model", "data", "optimizer"), ("quantized", "model", "data", "optimizer", "quantizer")
    assert asked[:3] == [floating, qat, (*qat, "regularizer")]
    assert asked[3:6] == [floating, qat, qat]
    assert asked[6:] == [("float", "model", "data"), qat, (*qat, "regularizer")]


@pytest.mark.parametrize(
    ("fields", "stages"),
    [
        ({"reg__lambda_weight": 3.0}, {BR}),
        ({"reg__lambda_act": 3.0}, {BR}),
        ({"reg__backprop_to_alpha": True}, {BR}),
        ({"reg__ramp": {"weight": "linear", "act": "cosine"}}, {BR}),
        ({"schedule__freeze_alpha": True}, {BR}),
        ({"quant__weight_bits": 4}, {WARMUP, BR}),
        ({"quant__act_bits": 4}, {WARMUP, BR}),
        ({"quant__quantizer": {"_target_": "brsweep.quant.rival.Rival"}}, {WARMUP, BR}),
        ({"qat_optimizer__lr": 0.02}, {WARMUP, BR}),
        ({"schedule__qat_epochs": 7}, {WARMUP, BR}),
        ({"schedule__warmup_epochs": 3}, {WARMUP, BR}),
        ({"schedule__qat_lr_warmup_epochs": 1}, {WARMUP, BR}),
        ({"calibration_batches": 5}, {WARMUP, BR}),
        ({"kernels": "reference"}, {WARMUP, BR}),
        ({"quant__clip_value": 6.0}, ALL),
        ({"float_optimizer__lr": 0.2}, ALL),
        ({"schedule__float_epochs": 5}, ALL),
        ({"seed": 43}, ALL),
        ({"model__width": 16}, ALL),
        ({"data__val_fraction": 0.2}, ALL),
        ({"data__batch_size": 32}, ALL),
        ({"precision": "bf16"}, ALL),
        ({"reestimate_bn_batches": 10}, NONE),
        ({"device": "cuda"}, NONE),  # the store keeps the types of devices apart
        # fields that nobody has thought of
        ({"mixup": 0.2}, ALL),
        ({"data__noise": 1.0}, ALL),
        ({"schedule__averaging": True}, ALL),
        ({"quant__rounding": "stochastic"}, {WARMUP, BR}),
        ({"qat_optimizer__foreach": True}, {WARMUP, BR}),
        ({"reg__temperature": 2.0}, {BR}),
    ],
)
def test_which_stages_a_field_reaches(fields, stages):
    config = changed(**fields)
    assert differ(config) == stages
    assert identity(config, DATA) != identity(CONFIG, DATA)


@pytest.mark.parametrize(
    "fields",
    [
        {"force": True}, {"stale": "keep"}, {"sweep_name": "other"}, {"output_dir": "/elsewhere"},
        {"store_dir": "/elsewhere"}, {"threads": 8}, {"allow_targets": ["mine"]}, {"data__root": "/data"},
        {"data__cache_dir": "/cache"}, {"logger": {"_target_": "brsweep.tracking.csv_file.CsvFile"}},
    ],
)  # fmt: skip
def test_what_can_not_change_a_result(fields):
    assert differ(changed(**fields)) == NONE and identity(changed(**fields), DATA) == identity(CONFIG, DATA)


def test_values_count_and_not_how_they_are_written():
    same = changed(reg__lambda_weight=1, qat_optimizer__lr=1e-2)
    same["reg"] = dict(reversed(same["reg"].items()))
    assert differ(same) == NONE


def test_a_device_counts_by_its_type_and_where_it_is_known():
    """A run of device=auto is another run than that of a named device; cards of one machine make no other runs."""
    names = ("auto", "cpu", "cuda", "cuda:0", "cuda:1")
    found = {name: (signatures(changed(device=name)), identity(changed(device=name), DATA)) for name in names}
    assert len({str(stages) for stages, _ in found.values()}) == 1
    assert found["cuda"] == found["cuda:0"] == found["cuda:1"]
    assert len({run for _, run in found.values()}) == 3


def test_data_and_code_change_everything(code):
    before, run_before = signatures(CONFIG), run_code(CONFIG)
    assert all(signatures(CONFIG, "made-up-2")[name] != mine for name, mine in before.items())
    assert identity(CONFIG, "made-up-2") != identity(CONFIG, DATA)
    code["core"] = "another"
    assert all(signatures(CONFIG)[name] != mine for name, mine in before.items()) and run_code(CONFIG) != run_before


def test_a_run_is_under_the_code_of_its_stages_whatever_its_options():
    assert run_code(CONFIG) == run_code(changed(seed=7, reg__lambda_act=3.0, float_optimizer__lr=0.5))
    assert run_code(CONFIG) != run_code(changed(schedule__warmup_epochs=0))


def test_planning_leaves_the_configuration_alone():
    config = changed(schedule__freeze_alpha=True, reg__backprop_to_alpha=True)
    before = copy.deepcopy(config)
    plan(config, DATA), identity(config, DATA), canonical(config)
    assert config == before


# --- fields without effect -------------------------------------------------------------------------------------------

OFF = {"reg__lambda_weight": 0.0, "reg__lambda_act": 0.0}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"schedule__freeze_alpha": True}, {"schedule__freeze_alpha": True, "reg__backprop_to_alpha": True}),
        ({}, {"reg__alpha_grad_scale": "lsq"}),
        ({"reg__lambda_act": 0.0}, {"reg__lambda_act": 0, "reg__ramp__act": "linear", "reg__saturated__act": "pull"}),
        ({"reg__lambda_weight": 0.0}, {"reg__lambda_weight": 0.0, "reg__unit__weight": "step"}),
        (OFF, OFF | {"reg__backprop_to_alpha": True, "reg__alpha_grad_scale": "lsq"}),
        (OFF, OFF | {"reg__variance": "unbiased", "reg__first_last": True, "reg__ramp__weight": "cosine"}),
    ],
)
def test_a_field_without_effect_does_not_count(one, other):
    assert identity(changed(**one), DATA) == identity(changed(**other), DATA)
    assert differ(changed(**other), to=changed(**one)) == NONE


@pytest.mark.parametrize(
    "fields",
    [
        {"reg__backprop_to_alpha": True},
        {"reg__backprop_to_alpha": True, "reg__alpha_grad_scale": "lsq"},
        {"reg__ramp__act": "linear"},
        {"reg__unit__weight": "step"},
        {"reg__variance": "unbiased"},
        {"reg__lambda_act": 0.0},
    ],
)
def test_one_with_an_effect_does(fields):
    assert identity(changed(**fields), DATA) != identity(CONFIG, DATA)


def test_no_lambda_is_the_regularizer_none(tmp_path):
    one = small_runs.config("regularizer=none", tmp_path=tmp_path)
    for typed in (
        ["regularizer=br"],
        ["regularizer=br_paper"],
        ["reg.backprop_to_alpha=true", "reg.variance=unbiased"],
    ):
        other = small_runs.config(*typed, "reg.lambda_weight=0", "reg.lambda_act=0", tmp_path=tmp_path)
        assert identity(one, DATA) == identity(other, DATA)


# --- pretrained ------------------------------------------------------------------------------------------------------


def test_a_pretrained_file_counts_by_content(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"one")
    (tmp_path / "b.pt").write_bytes(b"one")
    (tmp_path / "c.pt").write_bytes(b"two")
    one, same, other = (changed(pretrained=str(tmp_path / f"{name}.pt")) for name in "abc")
    assert differ(one) == ALL and differ(same, to=one) == NONE and differ(other, to=one) == ALL
    assert identity(one, DATA) == identity(same, DATA) != identity(other, DATA)
    stages = plan(one, DATA)
    assert [(s.name, s.epochs) for s in stages] == [(FLOAT, 0), (WARMUP, 2), (BR, 4)]
    longer = changed(pretrained=str(tmp_path / "a.pt"), schedule__float_epochs=9, float_optimizer__lr=3.0)
    assert differ(longer, to=one) == NONE


def test_a_pretrained_file_that_is_not_there(tmp_path):
    with pytest.raises(BrsweepError, match=r"^pretrained=.*can't be read \(No such file or directory\)"):
        plan(changed(pretrained=str(tmp_path / "no.pt")), DATA)


# --- torch -----------------------------------------------------------------------------------------------------------


def test_planning_imports_no_torch(tmp_path):
    code = (
        "import json, sys; sys.path.insert(0, 'tests'); from pathlib import Path; import small_runs\n"
        "from brsweep.runs.run import Run\n"
        f"run = Run.of(small_runs.config(tmp_path=Path({str(tmp_path)!r})))\n"
        "print(json.dumps([[stage.signature for stage in run.stages], 'torch' in sys.modules]))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=True)
    planned, torch_imported = json.loads(done.stdout)
    assert len(planned) == 3 and not torch_imported
    assert not list(tmp_path.iterdir())
