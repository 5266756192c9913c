"""What a user can mend is one line on standard error and exit code 1, before any file is made."""

from __future__ import annotations

import pytest
import torch
from commands import call, check_refused, shell

REFUSED = [
    ("quant.weight_bits=0", "quant.weight_bits=0: bits are 1 to 8, or 32"),
    ("quant.act_bits=9", "quant.act_bits=9: bits are 1 to 8, or 32"),
    ("quant.weight_bits=abc", "quant.weight_bits=abc: bits are 1 to 8, or 32"),
    ("quant.weight_bits=1", "divides by sqrt(Qp); take 2 bits or more"),
    ("quant.first_last_bits=1", "divides by sqrt(Qp); take 2 bits or more"),
    ("quant.overrides=4", "quant.overrides=4: give patterns and bits"),
    ("reg.lambda_act=-1", "reg.lambda_act=-1: a number, 0 or more"),
    ("reg.lambda_weight=inf", "reg.lambda_weight=inf: a number, 0 or more"),
    ("reg.lambda_weight=nan", "reg.lambda_weight=nan: a number, 0 or more"),
    ("schedule.warmup_epochs=21 schedule.qat_epochs=20", "leaves no epoch for the last stage"),
    ("schedule.warmup_epochs=20 schedule.qat_epochs=20", "leaves no epoch for the last stage"),
    ("schedule=joint schedule.freeze_alpha=true", "joint schedule (warmup_epochs=0) never trains alpha"),
    ("reg.lamda_act=1", "did you mean reg.lambda_act?"),
    ("lambda_act=1", "did you mean reg.lambda_act?"),
    ("schedul.qat_epochs=3", "did you mean schedule.qat_epochs?"),
    ("regulariser=br", "did you mean regularizer?"),
    ("quan=w2a2", "did you mean quant?"),
    ("quant=w2a3", "choose one of lsq, w2a2, w2a32, w2a4, w3a3, w4a2, w4a4, w8a8"),
    ("model=resnet", "choose one of mobilenet_v2, resnet18"),
    ("quant=4", "a group is chosen by its option's name"),
    ("quant=[4]", "a group is chosen by its option's name"),
    ("model={depth:20}", "a group is chosen by its option's name, model=option"),
    ("~seed", "seed: has no value; add seed=... to the command line"),
    ("reg=none", "reg=none: a part is a _target_ and its arguments"),
    ("+newkey=1", "newkey: there is no such option"),
    ("+quant.weight_bit=1", "did you mean quant.weight_bits?"),
    ("+reg.newkey=1", "reg.newkey: there is no such option"),
    ("reg.ramp.act=up", "reg.ramp.act=up: choose one of constant, linear, cosine"),
    ("reg.saturated.act=up", "reg.saturated.act=up: choose one of pull, ignore"),
    ("reg.unit.weight=up", "reg.unit.weight=up: choose one of value, step"),
    ("reg.variance=up", "reg.variance=up: choose one of biased, unbiased"),
    ("reg.alpha_grad_scale=up", "reg.alpha_grad_scale=up: choose one of raw, lsq"),
    ("precision=fp16", "precision=fp16: choose one of float32, bf16"),
    ("stale=up", "stale=up: choose one of stop, keep, retrain"),
    ("kernels=up", "kernels=up: not available here; choose one of auto"),
    ("model._target_=os.system", "outside the allowed packages"),
    ("quant.quantizer._target_=os.system", "outside the allowed packages"),
    ("reg._target_=os.system", "outside the allowed packages"),
    ("logger._target_=os.system", "outside the allowed packages"),
    ("model._target_=tiny", "give the import path"),
    ("model._target_=brsweep.models.tiny.tinny", "brsweep.models.tiny has no class or function tinny"),
    ("model._target_=brsweep.models.tny.tiny", "there is no module brsweep.models.tny"),
    ("+model.depth=3", "unexpected keyword argument 'depth'; it takes num_classes, in_channels"),
    ("+data.depth=3", "unexpected keyword argument 'depth'"),
    ("+logger.depth=3 logger=csv", "unexpected keyword argument 'depth'; it takes folder, run"),
    ("+quant.quantizer.depth=3", "unexpected keyword argument 'depth'; it takes bits, signed"),
    ("+float_optimizer.depth=3", "float_optimizer: torch.optim.SGD: got an unexpected keyword argument 'depth'"),
    ("+qat_optimizer.depth=3", "qat_optimizer: torch.optim.SGD: got an unexpected keyword argument 'depth'"),
    ("reg.lambda_act=0,1", "add --multirun to your command line"),
    ("x", "x: can't be read as key=value"),
    ("seed=[1", "seed=[1: can't be read as key=value"),
    ("seed=-1", "seed=-1: a whole number from 0"),
    ("data.val_fraction=1", "data.val_fraction=1: a number, 0 or more and below 1"),
    ("data.batch_size=0", "data.batch_size=0: a whole number from 1"),
    ("qat_optimizer.lr=-1", "qat_optimizer.lr=-1: a number, 0 or more"),
    ("sweep_name=../x", "sweep_name=../x: a folder name inside output_dir"),
    ("sweep_name=/x", "sweep_name=/x: a folder name inside output_dir"),
    ("sweep_name=a/../b", "sweep_name=a/../b: a folder name inside output_dir"),
    ("device=gpu", "device=gpu: choose auto, cpu or cuda"),
    ("data=image_folder", "data.root: has no value; add data.root=..."),
    ("data=image_folder data.root=none data.cache_dir=cache", "data.root=none: there is no folder train/ in it"),
    ("pretrained=none.pt", "pretrained=none.pt: can't be read (No such file or directory)"),
]


@pytest.mark.parametrize(("arguments", "says"), REFUSED, ids=[arguments for arguments, _ in REFUSED])
def test_a_mistake_is_one_line_and_leaves_nothing(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = arguments.split()
    small = ["data=synthetic"] if not any(a.startswith(("data=", "quan=")) for a in given) else []
    small += ["logger=none"] if not any(a.startswith("logger") or a.startswith("+logger") for a in given) else []
    check_refused(call(monkeypatch, capsys, *small, *given), tmp_path, says)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_is_refused_where_there_is_none(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    answer = call(monkeypatch, capsys, "data=synthetic", "logger=none", "device=cuda")
    check_refused(answer, tmp_path, "device=cuda: torch finds no CUDA device on this machine; take device=cpu or auto")


@pytest.mark.parametrize("arguments", ["quant.weight_bits=9", "reg.lamda_act=1", "x"])
def test_the_shell_sees_one_line_and_exit_code_1(arguments, tmp_path):
    answer = shell(tmp_path, arguments)
    check_refused(answer, tmp_path, arguments.partition("=")[0])


def test_consent_to_outside_targets_counts_on_the_command_line_alone(tmp_path, monkeypatch, capsys):
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    content = "# @package _global_\nallow_targets: [os]\nmodel: {_target_: os.system}\n"
    (tmp_path / "conf" / "model" / "mine.yaml").write_text(content)
    monkeypatch.chdir(tmp_path / "empty")
    where = f"hydra.searchpath=[file://{tmp_path / 'conf'}]"
    answer = call(monkeypatch, capsys, where, "model=mine", "data=synthetic")
    check_refused(answer, tmp_path / "empty", "consent to run other packages' code counts only on the command line")


def test_consent_on_the_command_line_is_taken():
    from brsweep.targets import check_allowed

    check_allowed("model", {"_target_": "mypkg.net.Net"}, ["mypkg"])
    with pytest.raises(Exception, match="outside the allowed packages"):
        check_allowed("model", {"_target_": "mypkgs.net.Net"}, ["mypkg"])


def test_files_are_utf_8_whatever_the_locale(tmp_path):
    conf = tmp_path / "conf" / "quant"
    conf.mkdir(parents=True)
    (conf / "mine.yaml").write_text("# Größe, 大きさ\ndefaults: [w2a2, _self_]\n", encoding="utf-8")
    typed = ("--config-dir", str(conf.parent), "quant=mine", "--cfg", "job")
    answer = shell(tmp_path, *typed, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert answer.code == 0 and "weight_bits: 2" in answer.out, answer.err
    refused = shell(tmp_path, "sweep_name=größe", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert refused.code == 1 and refused.err.startswith("error: sweep_name=") and refused.err.count("\n") == 1


def test_flags_and_overrides_come_in_any_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    dry, base = "hydra.launcher.dry_run=true", ["data=synthetic", "model=tiny", "logger=none"]
    for words in (
        ["--multirun", *base, "seed=1,2", dry],
        [*base, "--multirun", "seed=1,2", dry],
        [*base, "seed=1,2", dry, "-m"],
    ):
        answer = call(monkeypatch, capsys, *words, dry)
        assert answer.code == 0 and "sweep runs/default: 2 runs" in answer.out, answer.err


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_a_grid_can_be_typed_as_the_sweepers_own(plus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for typed in (f"{plus}hydra.sweeper.params={{seed:[1,2]}}", f"{plus}hydra.sweeper.params.seed=[1,2]"):
        words = ["--multirun", "data=synthetic", "model=tiny", "logger=none", "hydra.launcher.dry_run=true", typed]
        answer = call(monkeypatch, capsys, *words)
        assert answer.code == 0 and "sweep runs/default: 2 runs" in answer.out, answer.err


def test_a_working_directory_that_is_gone(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    answer = call(monkeypatch, capsys, "data=synthetic")
    assert answer.code == 1 and answer.err == "error: the working directory is gone; change into one that is there\n"


def test_consent_is_what_was_typed_and_no_more(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    preset = "hydra.sweeper.rows=[{allow_targets: '[os]', model._target_: os.system}]"
    for typed, says in (
        ([preset], "counts only on the command line"),
        (["allow_targets=[mine]", preset.replace("allow_targets", "++allow_targets")], "outside the allowed packages"),
    ):
        answer = call(monkeypatch, capsys, "--multirun", "data=synthetic", "model=tiny", "logger=none", *typed)
        assert answer.code == 1 and says in answer.err, answer.err
        assert list(tmp_path.iterdir()) == []
