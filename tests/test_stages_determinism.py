"""Operators that have no deterministic form on CUDA: none in brsweep, and named where a user's part has one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import small_runs
import torch
import torch.nn.functional as F
from torch import nn

from brsweep import torchvision_import
from brsweep.errors import BrsweepError
from brsweep.models.vgg import vgg_small
from brsweep.quant import calibrate, quantize_model
from brsweep.regularizers import BinRegularization
from brsweep.stages.determinism import CALLED, DIFFERENTIATED, Watch
from brsweep.stages.fitting import check_together
from brsweep.stages.source import data_source
from brsweep.training.evaluate import evaluate
from brsweep.training.optim import build_optimizer
from brsweep.training.step import Learner, Totals, train_step

REPLACED = {"linear", "bilinear", "trilinear"}
"""Modes of interpolation that torch's documentation names, and `torch.nn.functional` replaces in deterministic mode."""
NOT_HERE = {"resize_"}
"""Named there for tensors of torch's own quantized types alone."""


def test_the_table_is_that_of_torchs_documentation():
    text = torch.use_deterministic_algorithms.__doc__
    raising = text.partition("operations will throw a")[2].partition("In addition")[0]
    documented = set(re.findall(r":(?:class|func):`torch\.(?:[\w.]+\.)?(\w+)`", raising)) - NOT_HERE
    ours = set(DIFFERENTIATED.values()) | set(CALLED.values()) | {"MaxUnpool1d"}
    assert len(documented) > 20 and documented == ours
    assert set(re.findall(r"- ``(\w+)``", raising)) - REPLACED == {"bicubic"}


def test_every_operator_of_the_table_exists():
    for name in (*DIFFERENTIATED, *CALLED):
        assert hasattr(torch.ops.aten, name), name


def test_no_stage_of_a_run_calls_one(tmp_path):
    """Float stage, calibration, warm-up, BR, measurements, snapshots, evaluation, re-estimated batch norm."""
    with Watch() as watch:
        small_runs.train("reestimate_bn_batches=2", "kernels=reference", "reg.lambda_act=1", tmp_path=tmp_path)
    assert not watch.words()
    assert {"convolution_backward", "bincount", "scatter_add_", "native_batch_norm_backward"} <= watch.names


NETS = ("resnet18", "mobilenet_v2", "vgg_small")


def network(name: str) -> nn.Module:
    torchvision_import.make_importable()
    from torchvision import models

    return vgg_small(4) if name == "vgg_small" else getattr(models, name)(num_classes=4)


@pytest.mark.filterwarnings("ignore:these quantized layers compute on float inputs")
@pytest.mark.parametrize("name", NETS)
def test_no_step_of_a_known_network_calls_one(name):
    model, done = quantize_model(network(name).train(), 2, 2)
    images, labels = torch.rand(4, 3, 32, 32), torch.arange(4)
    calibrate(model, [images])
    options = {"lr": 0.1, "alpha_lr": 0.1} | dict.fromkeys(
        ("weight_decay", "alpha_weight_decay", "norm_weight_decay"), 0.0
    )
    learner = Learner(model, build_optimizer(torch.optim.SGD, model, options), done.sites, BinRegularization())
    with Watch() as watch:
        train_step(learner, images, labels, {"weight": 1.0, "act": 1.0}, Totals(images.device), 0)
        evaluate(learner, [(images, labels)], 4)
    assert "convolution_backward" in watch.names and not watch.words()


@pytest.mark.parametrize(
    ("call", "found"),
    [
        (lambda x: F.adaptive_avg_pool2d(x, 2), "AdaptiveAvgPool2d"),
        (lambda x: F.adaptive_avg_pool2d(x, 1), None),
        (lambda x: F.adaptive_avg_pool2d(x.detach(), 2), None),
        (lambda x: F.adaptive_max_pool2d(x, 2), "AdaptiveMaxPool2d"),
        (lambda x: F.pad(x, (1, 1, 1, 1), "reflect"), "ReflectionPad2d"),
        (lambda x: F.pad(x, (1, 1, 1, 1), "replicate"), None),
        (lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"), "interpolate"),
        (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), None),
        (lambda x: F.max_pool2d(x, 2), None),
        (lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), "MaxUnpool2d"),
        (lambda x: F.grid_sample(x, torch.zeros(1, 2, 2, 2), align_corners=False), "grid_sample"),
        (lambda x: torch.histc(x.detach(), 4), "histc"),
        (lambda x: x.cumsum(0), "cumsum"),
        (lambda x: x.detach().long().cumsum(0), None),
        (lambda x: x.median(0), "median"),
        (lambda x: x.median(), None),
        (lambda x: torch.bincount(torch.arange(3), torch.ones(3)), "bincount"),
        (lambda x: torch.bincount(torch.arange(3)), None),
        (lambda x: torch.zeros(2).scatter_reduce(0, torch.arange(2), torch.ones(2), "prod"), "scatter_reduce"),
        (lambda x: torch.zeros(2).scatter_reduce(0, torch.arange(2), torch.ones(2), "sum"), None),
        (lambda x: torch.zeros(2).put_(torch.arange(2), torch.ones(2)), "put_"),
        (lambda x: F.nll_loss(x[:, :, 0, 0], torch.zeros(1, dtype=torch.long)), None),
        (lambda x: F.nll_loss(x, torch.zeros(1, 6, 6, dtype=torch.long)), "NLLLoss"),
        (lambda x: F.embedding_bag(torch.zeros(1, 1, dtype=torch.long), x[0, 0], mode="max"), "EmbeddingBag"),
        (lambda x: F.embedding_bag(torch.zeros(1, 1, dtype=torch.long), x[0, 0], mode="sum"), None),
    ],
)
def test_calls_that_raise_on_cuda(call, found):
    with Watch() as watch:
        call(torch.rand(1, 2, 6, 6, requires_grad=True))
    assert watch.words() == ("" if found is None else f"outside of layers ({found})")


def test_what_the_backward_calls_is_seen_too():
    loss = F.adaptive_avg_pool2d(torch.rand(1, 2, 6, 6, requires_grad=True), 2).sum()
    with Watch() as watch:
        loss.backward()
    assert "_adaptive_avg_pool2d_backward" in watch.names and watch.raising


class Pooled(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv, self.relu = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1)), nn.ReLU()
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.fc = nn.Linear(16, num_classes)

    def forward(self, images):
        return self.fc(self.squeeze(self.relu(self.conv(images))))


def strict(config) -> None:
    check_together(config, data_source(config), strict=True)


def test_a_users_layer_is_named_before_anything_trains(tmp_path, monkeypatch):
    def pooled(num_classes: int, width: int) -> nn.Module:
        return Pooled(num_classes)

    pooled.__module__ = "brsweep.models.tiny"
    monkeypatch.setattr("brsweep.models.tiny.tiny", pooled)
    config = small_runs.config(tmp_path=tmp_path)
    with pytest.raises(BrsweepError) as raised:
        strict(config)
    assert str(raised.value) == (
        "model: brsweep.models.tiny.tiny: CUDA has no deterministic form of squeeze.0 (AdaptiveAvgPool2d); set "
        "deterministic=false, and equal runs then differ in their last bits, or take another layer"
    )
    check_together(config, data_source(config))


def test_a_users_quantizer_and_regularizer_are_looked_at(tmp_path, monkeypatch):
    config = small_runs.config("kernels=numba", tmp_path=tmp_path)
    strict(config)
    penalty = BinRegularization.penalties

    def sorted_penalties(self, collected):
        sums = next(iter(collected.values())).sums
        return penalty(self, collected) | {"act": sums.cumsum(-1).sum()}

    monkeypatch.setattr(BinRegularization, "penalties", sorted_penalties)
    with pytest.raises(BrsweepError, match=r"^quant, reg: .* no deterministic form of outside of layers \(cumsum\)"):
        strict(config)


def test_the_check_before_a_run_asks_where_it_would_train_on_cuda(tmp_path, monkeypatch):
    from brsweep.stages import preflight

    asked = []
    monkeypatch.setattr(preflight, "check_together", lambda config, source, strict, made: asked.append(strict))
    monkeypatch.setattr(preflight.kernels, "use", lambda *_: None)
    monkeypatch.setattr(preflight, "_sound", set())
    for here, typed in (("cpu", "true"), ("cuda", "true"), ("cuda", "false")):
        monkeypatch.setattr(preflight, "check_device", lambda _, here=here: torch.device(here))
        preflight.check_parts(small_runs.config(f"deterministic={typed}", tmp_path=Path(tmp_path)))
    assert asked == [False, True]  # what was sound without the question is remembered
