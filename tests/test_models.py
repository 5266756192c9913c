"""The float networks: published sizes, sites, initialization, shortcuts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from brsweep.models.resnet import BasicBlock, PaddingShortcut, resnet18, resnet20, resnet32, resnet56
from brsweep.models.tiny import tiny
from brsweep.models.vgg import vgg_small

FACTORIES = [resnet20, resnet32, resnet56, resnet18, vgg_small, tiny]


@pytest.mark.parametrize(
    ("factory", "count"),
    [
        (resnet20, 269_722),  # 0.27 M in He et al., table 6; 272,474 would be with option B's shortcuts
        (resnet32, 464_154),  # 0.46 M
        (resnet56, 853_018),  # 0.85 M
        (resnet18, 11_173_962),
        (vgg_small, 4_660_106),
    ],
)
def test_parameter_count_for_ten_classes_of_rgb_images(factory, count):
    assert sum(p.numel() for p in factory(10).parameters()) == count


@pytest.mark.parametrize(
    ("factory", "sites"), [(resnet20, 19), (resnet32, 31), (resnet56, 55), (resnet18, 17), (vgg_small, 6), (tiny, 3)]
)
def test_each_activation_is_a_module_of_its_own_used_once(factory, sites):
    model = factory(10)
    calls = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ReLU):
            assert not module.inplace
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    model(torch.randn(2, 3, 32, 32))
    assert len(calls) == len(set(calls)) == sites


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32)])
@pytest.mark.parametrize("factory", [resnet20, resnet18, vgg_small, tiny])
def test_sizes_of_images(factory, channels, size, channels_last):
    options = {"image_size": size} if factory is vgg_small else {}
    model = factory(7, in_channels=channels, **options)
    images = torch.randn(2, channels, size, size)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
        model = model.to(memory_format=torch.channels_last)
    logits = model(images)
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_vgg_takes_height_and_width():
    assert vgg_small(4, image_size=(32, 17))(torch.randn(1, 3, 32, 17)).shape == (1, 4)


def test_padding_shortcut_is_a_slice_between_zero_channels():
    for layout in (torch.contiguous_format, torch.channels_last):
        values = torch.randn(2, 4, 7, 8).contiguous(memory_format=layout).requires_grad_()
        out = PaddingShortcut(4, 9, 2)(values)
        expected = torch.zeros(2, 9, 4, 4)
        expected[:, 2:6] = values.detach()[:, :, ::2, ::2]
        assert torch.equal(out, expected)
        assert out.is_contiguous(memory_format=torch.channels_last)
        out.backward(torch.ones_like(out))
        pulled = torch.zeros(2, 4, 7, 8)
        pulled[:, :, ::2, ::2] = 1
        assert torch.equal(values.grad, pulled)


def test_channels_last_stays_through_the_network():
    """One layer that falls back to the other layout costs a copy of every activation after it."""
    model = resnet20(10).to(memory_format=torch.channels_last)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ReLU)):
            module.register_forward_hook(
                lambda m, _, out: seen.append(out.is_contiguous(memory_format=torch.channels_last))
            )
    seen: list[bool] = []
    model(torch.randn(2, 3, 32, 32).contiguous(memory_format=torch.channels_last))
    assert seen and all(seen)


@pytest.mark.parametrize("factory", [resnet20, resnet18])
def test_gamma_zero_makes_each_block_its_shortcut(factory):
    model = factory(10, residual_gamma=0.0).train()
    seen = []
    for block in (m for m in model.modules() if isinstance(m, BasicBlock)):
        block.register_forward_hook(lambda m, args, out: seen.append(torch.equal(out, m.shortcut(args[0]).relu())))
    model(torch.randn(4, 3, 32, 32))
    assert len(seen) in (8, 9) and all(seen)


@pytest.mark.parametrize("gamma", [0.25, 1.0])
def test_gamma_is_where_the_last_batch_norm_of_each_block_starts(gamma):
    blocks = [m for m in resnet20(10, residual_gamma=gamma).modules() if isinstance(m, BasicBlock)]
    assert len(blocks) == 9
    assert all((block.norm1.weight == 1).all() and (block.norm2.weight == gamma).all() for block in blocks)


@pytest.mark.parametrize("factory", [resnet18, vgg_small])
def test_convolutions_start_with_kaiming_fan_out(factory):
    torch.manual_seed(0)
    for module in factory(10).modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.double()
            expected = math.sqrt(2 / (module.out_channels * module.kernel_size[0] * module.kernel_size[1]))
            # the standard deviation of n Gaussian values has a relative error of 1 / sqrt(2n); 5 of them
            assert weight.std().item() == pytest.approx(expected, rel=5 / math.sqrt(2 * weight.numel()))
            assert abs(weight.mean().item()) < 5 * expected / math.sqrt(weight.numel())


def test_a_small_gamma_keeps_the_sums_below_a_clip_at_one():
    """After every ReLU a clip at 1, beyond which there is no gradient: each block that adds to the sum pushes more of
    it there. The share of values that still have a gradient at the last site is what residual_gamma is for."""
    share = {}
    for gamma in (0.25, 1.0):
        torch.manual_seed(0)
        model = resnet20(10, residual_gamma=gamma)
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.ReLU):
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, nn.Hardtanh(0, 1))
        model.stages[-1][-1].relu2.register_forward_hook(
            lambda m, args, out, gamma=gamma: share.update({gamma: (args[0] < 1).float().mean().item()})
        )
        model(torch.randn(32, 3, 32, 32))
    assert share[0.25] > share[1.0] + 0.2
