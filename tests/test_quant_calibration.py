"""Calibration: every activation's step size from what its site receives, and nothing else in the network moved."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from references import SmallNet
from torch import nn

from brsweep.errors import BrsweepError
from brsweep.kernels import ALPHA_FLOOR
from brsweep.quant import QuantizedClippedReLU, calibrate, quantize_model


@pytest.fixture
def images():
    torch.manual_seed(7)
    return torch.randn(6, 3, 8, 8)


def quantized_net(**options) -> nn.Module:
    torch.manual_seed(3)
    net = SmallNet()
    for norm in (net.bn1, net.bn2, net.bn3):  # statistics that a forward pass in training would move
        norm.running_mean.uniform_(-0.5, 0.5)
        norm.running_var.uniform_(0.5, 2.0)
    return quantize_model(net, 2, 2, **options)[0]


class _Reached(Exception):
    pass


def _input_of(model: nn.Module, name: str, images: torch.Tensor) -> torch.Tensor:
    """What the module `name` receives, the network in evaluation, stopped there."""
    seen = []

    def stop(_, inputs):
        seen.append(inputs[0].clone())
        raise _Reached

    handle = model.get_submodule(name).register_forward_pre_hook(stop)
    with torch.no_grad(), pytest.raises(_Reached):
        model.eval()(images)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("clip", [None, 0.75])
def test_each_site_is_set_with_all_before_it_quantized(images, clip):
    model = quantized_net(clip_value=clip, first_last_bits=4, input_bits=8)
    expected = copy.deepcopy(model)
    calibrate(model, [images[:4], images[4:]])

    def set_by_hand(quantizer, values):
        alpha = 2 * values.double().abs().mean().item() / math.sqrt(quantizer.grid.qp)
        quantizer.load_state_dict({"alpha": torch.tensor(alpha)})

    set_by_hand(expected.conv1.input_quantizer, images)
    for name in ("relu1", "relu2", "relu3"):
        values = _input_of(expected, name, images).clamp(min=0, max=math.inf if clip is None else clip)
        set_by_hand(getattr(expected, name).quantizer, values)
    for (name, alpha), (_, by_hand) in zip(model.named_parameters(), expected.named_parameters(), strict=True):
        assert torch.equal(alpha, by_hand), name
    assert model.relu1.quantizer.alpha.item() != model.relu2.quantizer.alpha.item()


def test_buffers_and_weights_stay_and_modes_come_back(images):
    model = quantized_net()
    model.train()
    model.bn2.eval()
    before = copy.deepcopy(model.state_dict())
    modes = {name: module.training for name, module in model.named_modules()}
    calibrate(model, [images])
    assert {name: module.training for name, module in model.named_modules()} == modes
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {f"relu{i}.quantizer.alpha" for i in (1, 2, 3)}
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_an_exception_leaves_modes_and_no_hooks(images):
    class Breaks(nn.Module):
        def forward(self, values):
            raise RuntimeError("no further")

    model = quantized_net()
    model.train()
    model.bn1.eval()
    model.bn3 = Breaks()
    modes = {name: module.training for name, module in model.named_modules()}
    with pytest.raises(RuntimeError, match="no further"):
        calibrate(model, [images])
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_all_zero_values_give_the_floor(images):
    model = quantized_net()
    nn.init.zeros_(model.bn1.weight)
    nn.init.constant_(model.bn1.bias, -1.0)
    calibrate(model, [images])
    assert model.relu1.quantizer.alpha.item() == pytest.approx(ALPHA_FLOOR, rel=0)
    assert torch.isfinite(model(images)).all()


def test_a_step_size_that_is_set_stays(images):
    model = quantized_net()
    model.relu2.init_from(torch.tensor([-5.0, 3.0]))
    alpha = model.relu2.quantizer.alpha.item()
    calibrate(model, [images])
    assert model.relu2.quantizer.alpha.item() == alpha == pytest.approx(3 / math.sqrt(3))
    other = model.relu1.quantizer.alpha.item()
    calibrate(model, [100 * images])
    assert model.relu1.quantizer.alpha.item() == other


def test_the_clip_comes_before_the_step_size():
    site = QuantizedClippedReLU(2, clip_value=1.0)
    site.init_from(torch.tensor([-4.0, 0.5, 9.0, 1.5]))
    assert site.quantizer.alpha.item() == pytest.approx(2 * (0 + 0.5 + 1 + 1) / 4 / math.sqrt(3))


def test_without_batches_or_with_broken_ones_it_says_so(images):
    with pytest.raises(BrsweepError, match="pass at least one batch"):
        calibrate(quantized_net(), iter(()))
    with pytest.raises(BrsweepError, match=r"^relu1: .*not finite"):
        calibrate(quantized_net(), [images * math.nan])


def test_a_site_that_does_not_run_is_named(images):
    model = quantized_net()
    model.extra = QuantizedClippedReLU(2)
    with pytest.raises(BrsweepError, match=r"^extra: this activation did not run"):
        calibrate(model, [images])


def test_a_site_that_runs_twice_is_named(images):
    model = quantized_net()
    model.relu3 = model.relu1
    with pytest.raises(BrsweepError, match=r"^relu1: runs twice in one forward pass"):
        calibrate(model, [images])
