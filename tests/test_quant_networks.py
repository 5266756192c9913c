"""Networks of every make: conversion refuses in one line, or what it returns computes to the bit what the float network
does, outputs and gradients, in training and in evaluation, with a quantizer that changes nothing.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from strange_networks import REFUSED, SAME, Blocks, Net, OneDimension, Tied, Tree, Volumes
from torch import Tensor, nn

from brsweep.errors import BrsweepError
from brsweep.quant import Grid, clip_relus, quantize_model
from brsweep.torchvision_import import import_torchvision


class Unchanged(nn.Module):
    """A quantizer that returns its values."""

    def __init__(self, bits, signed, per_channel=False, channels=1, axis=0, count="tensor") -> None:
        super().__init__()
        self.grid, self.alpha, self.initialised = Grid(bits, signed), nn.Parameter(torch.ones(())), True

    def init_from(self, values: Tensor) -> None:
        pass

    def forward(self, values: Tensor) -> Tensor:
        return values


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(3)
    return make()


def convert(net: nn.Module, **options):
    """The converted network and what was done, without warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return quantize_model(net, 4, 4, quantizer=Unchanged, **options)


def computed(net: nn.Module, training: bool) -> dict[str, Tensor]:
    """What a network returns, and the gradients of its input and of its parameters, by name."""
    torch.manual_seed(5)
    images = torch.randn(4, 3, 8, 8, requires_grad=True)
    out = net.train(training)(images * 1.0)
    out.square().sum().backward()
    found = {"out": out.detach(), "images": images.grad}
    return found | {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", SAME)
def test_a_converted_network_computes_what_the_float_one_does(name, training):
    model, _ = convert(seeded(SAME[name]))
    before = computed(seeded(SAME[name]), training)
    after = computed(model, training)
    assert before.keys() == after.keys()
    assert [key for key in before if not torch.equal(before[key], after[key])] == []


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_change_is_refused_in_one_line(name):
    make, words = REFUSED[name]
    net = seeded(make)
    with pytest.raises(BrsweepError, match=words) as refused:
        convert(net)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", [name for name in REFUSED if REFUSED[name][1] == "in place"])
def test_the_refused_in_place_relus_would_change_the_network(name, monkeypatch):
    """So no network of the table is refused for nothing; a mean of an unread part apart."""
    from brsweep.quant import places

    monkeypatch.setattr(places, "refuse_aliases", lambda model, graph: None)
    net = seeded(REFUSED[name][0])
    if "detach" in name or "buffer" in name:
        return  # differs in the gradient, or in the state that is left
    try:
        expected = computed(net, training=False)
    except RuntimeError:
        return  # torch itself refuses to differentiate it
    model, _ = convert(seeded(REFUSED[name][0]))
    assert not torch.equal(expected["out"], computed(model, training=False)["out"])


@pytest.mark.parametrize("name", SAME)
def test_every_weight_is_a_site_or_named_as_left_float(name):
    net = seeded(SAME[name])
    _, done = convert(net)
    sites = {site.name for site in done.sites if site.kind == "weight"}
    for key, parameter in net.named_parameters():
        if parameter.dim() > 1:
            name = key.partition(".parametrizations.")[0].removesuffix(".weight")
            assert (name in sites) != (name in done.left_float), key
    assert done.weights == sum(p.numel() for p in net.parameters() if p.dim() > 1)


@pytest.mark.parametrize("name", SAME)
def test_the_state_of_a_converted_network_is_the_float_ones_and_step_sizes(name):
    net = seeded(SAME[name])
    model, done = convert(net)
    sites = {f"{s.name}.{'weight_quantizer' if s.kind == 'weight' else 'quantizer'}.alpha" for s in done.sites}
    sites = {name.replace(".input.quantizer.", ".input_quantizer.") for name in sites}  # a layer's own input
    assert model.state_dict().keys() == net.state_dict().keys() | sites
    assert dict(model.named_buffers()).keys() == dict(net.named_buffers()).keys()


@pytest.mark.parametrize("name", ["weight", "bias", "embedding"])
def test_tied_parameters_stay_tied_and_are_trained_once(name):
    net = seeded(lambda: Tied(name))
    model, _ = convert(net)
    one, other = {
        "weight": (model.a.weight, model.b.weight),
        "bias": (model.a.bias, model.b.bias),
        "embedding": (model.emb.weight, model.b.weight),
    }[name]
    assert one is other
    assert one is not net.a.weight


@pytest.mark.parametrize("make", [Net, Tree, Blocks, OneDimension, Volumes])
@pytest.mark.parametrize("clip", [False, True])
def test_the_memory_format_of_each_weight_is_kept(make, clip):
    layout = torch.channels_last_3d if make is Volumes else torch.channels_last
    net = seeded(make).to(memory_format=layout)
    model, _ = convert(clip_relus(net, 6.0) if clip else net)
    strides = {name: p.stride() for name, p in net.named_parameters()}
    kept = {name: p.stride() for name, p in model.named_parameters() if name in strides}
    assert kept == strides
    assert make is OneDimension or any(not p.is_contiguous() for p in net.parameters())


@pytest.mark.parametrize("make", [Net, Tree])
def test_hooks_of_the_float_network_are_untouched_and_the_copy_has_its_own(make):
    net, calls = seeded(make), []
    handle = net.c2.register_forward_hook(lambda module, args, out: calls.append(type(module).__name__))
    model, _ = convert(net)
    assert calls == []
    model(torch.randn(2, 3, 8, 8))
    net(torch.randn(2, 3, 8, 8))
    assert calls == ["QuantConv2d", "Conv2d"]
    handle.remove()
    model(torch.randn(2, 3, 8, 8))
    net(torch.randn(2, 3, 8, 8))
    assert calls == ["QuantConv2d", "Conv2d", "QuantConv2d"]


def test_a_hook_that_reloads_a_state_knows_the_module_that_it_is_on():
    net, seen = Net(), []
    net.r2.register_load_state_dict_pre_hook(lambda module, *_: seen.append(module))
    model, _ = convert(net)
    del net
    model.load_state_dict(model.state_dict())
    assert seen == [model.r2]


def test_optional_arguments_stay_at_their_defaults_in_a_traced_network():
    model, _ = convert(seeded(Tree))
    with pytest.raises((AssertionError, TypeError)):
        model(torch.randn(2, 3, 8, 8), torch.ones(1))


def test_tracing_leaves_nothing_behind():
    class Counting(Net):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("steps", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.steps += 1
            return super().forward(x)

    net = seeded(Counting)
    model, _ = convert(net)
    assert (net.steps.item(), model.steps.item()) == (0, 0)
    assert not any(isinstance(value, torch.fx.Proxy) for m in model.modules() for value in vars(m).values())
    copy.deepcopy(model)


def test_a_compiled_network_is_converted_and_computes_with_weights_of_its_own():
    net = seeded(Net).eval()
    model, _ = convert(torch.compile(net, backend="eager"))
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = net(images)
        net.c2.weight.zero_()
        assert torch.equal(model(images), expected)


def vision_transformer(models) -> nn.Module:
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
    return models.VisionTransformer(image_size=64, patch_size=16, num_classes=10, **sizes)


TORCHVISION: dict[str, Callable] = {
    "resnet18": lambda models: models.resnet18(num_classes=10),
    "mobilenet_v2": lambda models: models.mobilenet_v2(num_classes=10),
    "squeezenet1_1": lambda models: models.squeezenet1_1(num_classes=10),
    "shufflenet_v2_x0_5": lambda models: models.shufflenet_v2_x0_5(num_classes=10),
    "densenet121": lambda models: models.densenet121(num_classes=10),
    "googlenet": lambda models: models.googlenet(num_classes=10, aux_logits=False, init_weights=False),
    "vision transformer": vision_transformer,
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_network_of_torchvision_is_kept_and_its_weights_are_accounted_for(name):
    net = seeded(lambda: TORCHVISION[name](import_torchvision().models)).eval()
    model, done = convert(net)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(images), net(images))
    assert done.untraced == ""
    sites = {site.name for site in done.sites if site.kind == "weight"}
    layers = {key for key, module in net.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))}
    assert sites | set(done.left_float) >= layers
    assert net.state_dict().keys() <= model.state_dict().keys()
    assert bool(done.left_float) == (name == "vision transformer")
