"""Which runs share which stages, and what makes a signature change."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import small_runs

from brsweep.errors import BrsweepError
from brsweep.stages import signature
from brsweep.stages.plan import canonical, identity, plan
from brsweep.stages.signature import code_digest, digest

DATA, CODE = "made-up-1", "0123456789abcdef"
ROOT = Path(__file__).parents[1]

CONFIG = {
    "model": {"_target_": "brsweep.models.tiny.tiny", "width": 8},
    "data": {"_target_": "brsweep.data.synthetic.Synthetic", "classes": 4, "val_fraction": 0.1, "batch_size": 64},
    "quant": {
        "weight_bits": 2, "act_bits": 2, "first_last_bits": 8, "clip_value": None,
        "quantizer": {"_target_": "brsweep.quant.lsq.LSQQuantizer"},
    },
    "reg": {
        "_target_": "brsweep.regularizers.br.BinRegularization", "lambda_weight": 1.0, "lambda_act": 0.5,
        "backprop_to_alpha": False, "alpha_grad_scale": "raw", "variance": "biased", "first_last": False,
        "ramp": {"weight": "constant", "act": "cosine"}, "saturated": {"weight": "pull", "act": "ignore"},
        "unit": {"weight": "value", "act": "value"},
    },
    "schedule": {
        "float_epochs": 4, "warmup_epochs": 2, "qat_epochs": 6, "float_lr_warmup_epochs": 0,
        "qat_lr_warmup_epochs": 0, "freeze_alpha": False,
    },
    "float_optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1},
    "qat_optimizer": {"_target_": "torch.optim.SGD", "lr": 0.01},
    "logger": {"_target_": None}, "seed": 42, "device": "cpu", "threads": 0, "precision": "float32",
    "kernels": "auto", "calibration_batches": 4, "reestimate_bn_batches": 0, "pretrained": None,
    "sweep_name": "default", "output_dir": "runs", "store_dir": "runs/store", "force": False, "stale": "stop",
    "allow_targets": [],
}  # fmt: skip

FLOAT, WARMUP, BR = "float", "warmup", "br"
NONE, ALL = set(), {FLOAT, WARMUP, BR}


def changed(**values):
    """CONFIG with dotted fields, dots as double underscores, at other values."""
    config = copy.deepcopy(CONFIG)
    for path, value in values.items():
        *parents, leaf = path.split("__")
        node = config
        for key in parents:
            node = node[key]
        node[leaf] = value
    return config


def signatures(config, data=DATA, code=CODE):
    return {stage.name: stage.signature for stage in plan(config, data, code)}


def differ(config, to=CONFIG) -> set[str]:
    one, other = signatures(config), signatures(to)
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


def test_literal_values():
    """Signatures are names on people's disks. Where this fails without intent, every store would be trained anew;
    where it is meant, raise `signature.VERSION` and write the new values here."""
    assert signatures(CONFIG) == {"float": "998fff244e6f5860", "warmup": "bc2a5c41c0e1a530", "br": "a1678dbef55326d0"}
    assert identity(CONFIG, DATA) == "3537b98afedc6f01"
    assert digest({"a": 1, "b": [2.5, None, True, "é"]}) == "cb403d898b80cb48"


def test_stages_and_their_epochs():
    spans = [(s.name, s.first, s.last, s.epochs) for s in plan(CONFIG, DATA, CODE)]
    assert spans == [(FLOAT, 0, 4, 4), (WARMUP, 0, 2, 2), (BR, 2, 6, 4)]
    joint = plan(changed(schedule__warmup_epochs=0), DATA, CODE)
    assert [(s.name, s.first, s.last) for s in joint] == [(FLOAT, 0, 4), (BR, 0, 6)]


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
        ({"device": "cuda"}, ALL),
        ({"reestimate_bn_batches": 10}, NONE),
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


def test_data_and_code_change_everything():
    for other in (signatures(CONFIG, data="made-up-2"), signatures(CONFIG, code="another")):
        assert all(other[name] != mine for name, mine in signatures(CONFIG).items())
    assert identity(CONFIG, "made-up-2") != identity(CONFIG, DATA)


def test_planning_leaves_the_configuration_alone():
    config = changed(schedule__freeze_alpha=True, reg__backprop_to_alpha=True)
    before = copy.deepcopy(config)
    plan(config, DATA, CODE), identity(config, DATA), canonical(config)
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
    stages = plan(one, DATA, CODE)
    assert [(s.name, s.epochs) for s in stages] == [(FLOAT, 0), (WARMUP, 2), (BR, 4)]
    longer = changed(pretrained=str(tmp_path / "a.pt"), schedule__float_epochs=9, float_optimizer__lr=3.0)
    assert differ(longer, to=one) == NONE


def test_a_pretrained_file_that_is_not_there(tmp_path):
    with pytest.raises(BrsweepError, match=r"^pretrained=.*can't be read \(No such file or directory\)"):
        plan(changed(pretrained=str(tmp_path / "no.pt")), DATA, CODE)


# --- the code --------------------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package that `code_digest` takes for its own."""
    copy_of = tmp_path / "brsweep"
    shutil.copytree(ROOT / "brsweep", copy_of, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(signature, "__file__", str(copy_of / "stages" / "signature.py"))
    signature._code_digest.cache_clear()
    yield copy_of
    signature._code_digest.cache_clear()


def digest_of_the_copy() -> str:
    signature._code_digest.cache_clear()
    return code_digest()


def test_prose_and_layout_do_not_count(package):
    before = digest_of_the_copy()
    path = package / "training" / "step.py"
    text = path.read_text()
    text = text.replace('"""Forward, backward', '"""Something else').replace(
        "    loss = task_loss\n", "\n    loss = (  # why\n        task_loss\n    )\n"
    )
    path.write_text('"""Another head."""\n# and a comment\n' + text.partition('"""\n')[2])
    assert path.read_text() != text and digest_of_the_copy() == before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("kernels/op.py", "2.0**-20", "2.0**-21"),
        ("quant/lsq.py", "(2 * magnitude", "(3 * magnitude"),
        ("regularizers/bin.py", "clamp(min=1)", "clamp(min=2)"),
        ("models/tiny.py", "(2 * width, 1, 2)", "(2 * width, 1, 1)"),
        ("data/synthetic.py", "DARKEST, BRIGHTEST = 64", "DARKEST, BRIGHTEST = 65"),
        ("training/schedule.py", "0.5 + 0.5 *", "0.5 + 0.25 *"),
    ],
)
def test_a_changed_constant_counts(package, file, old, new):
    before = digest_of_the_copy()
    text = (package / file).read_text()
    assert old in text
    (package / file).write_text(text.replace(old, new, 1))
    assert digest_of_the_copy() != before


def test_a_new_file_counts_and_other_rooms_do_not(package):
    before = digest_of_the_copy()
    (package / "sweep" / "more.py").write_text("A = 1\n")
    (package / "tracking" / "more.py").write_text("A = 1\n")
    assert digest_of_the_copy() == before
    (package / "quant" / "more.py").write_text("A = 1\n")
    assert digest_of_the_copy() != before


def test_versions_count(monkeypatch):
    before = code_digest()
    signature._code_digest.cache_clear()
    monkeypatch.setattr(signature, "version", lambda name: "0.0.1" if name == "torch" else "1")
    try:
        assert code_digest() != before
    finally:
        signature._code_digest.cache_clear()


def test_outside_targets_count(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_part_of_a_test.py").write_text("A = 1\n")
    names = ["my_part_of_a_test.Part", "torch.optim.SGD", "brsweep.models.tiny.tiny"]
    one = code_digest(names)
    assert one != code_digest() == code_digest(names[1:])
    (tmp_path / "my_part_of_a_test.py").write_text("A = 2\n")
    signature._code_digest.cache_clear()
    assert code_digest(names) != one
    with pytest.raises(BrsweepError, match=r"no_such_module_here: its source can't be found"):
        code_digest(["no_such_module_here.Part"])


# --- torch -----------------------------------------------------------------------------------------------------------


def test_planning_imports_no_torch(tmp_path):
    code = (
        "import json, sys; sys.path.insert(0, 'tests'); from pathlib import Path; import small_runs\n"
        "from brsweep.sweep.planned import Run\n"
        f"run = Run.of(small_runs.config(tmp_path=Path({str(tmp_path)!r})))\n"
        "print(json.dumps([[stage.signature for stage in run.stages], 'torch' in sys.modules]))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=True)
    planned, torch_imported = json.loads(done.stdout)
    assert len(planned) == 3 and not torch_imported
    assert not list(tmp_path.iterdir())
