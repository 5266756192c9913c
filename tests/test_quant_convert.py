"""Conversion of float networks: which sites arise, at which bits, and that nothing else changes."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from references import SmallNet
from torch import fx, nn

from brsweep.errors import BrsweepError
from brsweep.models.resnet import resnet18, resnet20
from brsweep.quant import (
    ClippedReLU,
    LSQQuantizer,
    QuantConv2d,
    QuantizedClippedReLU,
    QuantLinear,
    calibrate,
    clip_relus,
    quantize_model,
)
from brsweep.quant.lsq_plus import LSQPlusQuantizer
from brsweep.torchvision_import import import_torchvision

SMALL_ORDER = ["conv1", "relu1", "conv2", "relu2", "conv3", "relu3", "fc"]


def sites_of(conversion, kind: str) -> dict[str, int]:
    return {site.name: site.grid.bits for site in conversion.sites if site.kind == kind}


def seeded(build, *args, **kwargs) -> nn.Module:
    torch.manual_seed(11)
    return build(*args, **kwargs)


# --- networks of this project and of torchvision ---------------------------------------------------------------------


def test_resnet20_has_20_layers_and_19_sites():
    model, done = quantize_model(seeded(resnet20, num_classes=10), 2, 3)
    weights, acts = sites_of(done, "weight"), sites_of(done, "act")
    assert len(weights) == 20
    assert len(acts) == 19
    assert (*list(weights)[::19], *list(acts)[::18]) == (
        "conv1", "fc", "relu1", "stages.2.2.relu2",
    )  # fmt: skip
    ends = {"conv1", "fc", "stages.2.2.relu2"}
    assert {name: bits for name, bits in (weights | acts).items() if bits == 8} == dict.fromkeys(ends, 8)
    assert {s.name for s in done.sites if not s.low} == ends
    assert set(weights.values()) == {2, 8}
    assert set(acts.values()) == {3, 8}
    assert type(model).__name__ == "ResNet"
    assert (done.left_float, done.float_inputs, done.untraced, done.warnings) == ({}, (), "", [])
    assert done.weights == sum(p.numel() for p in resnet20(num_classes=10).parameters() if p.dim() > 1)
    assert done.low_weights == done.weights - 3 * 16 * 9 - 64 * 10
    assert len({id(site.quantizer) for site in done.sites}) == 39
    assert all(site.grid.signed == (site.kind == "weight") for site in done.sites)


def test_resnet18_has_17_sites():
    model, done = quantize_model(seeded(resnet18, num_classes=10), 2, 2)
    assert len(sites_of(done, "act")) == 17
    assert len(sites_of(done, "weight")) == 21  # 17 convolutions, 3 projections, the linear layer
    assert sum(isinstance(m, QuantizedClippedReLU) for m in model.modules()) == 17
    assert done.warnings == []


@pytest.fixture(scope="module")
def torchvision_resnet18():
    return seeded(import_torchvision().models.resnet18, num_classes=10).eval()


def test_torchvision_resnet18_gets_a_site_per_place(torchvision_resnet18):
    """Its blocks use one ReLU module twice: 9 modules, 17 places."""
    assert sum(isinstance(m, nn.ReLU) for m in torchvision_resnet18.modules()) == 9
    model, done = quantize_model(torchvision_resnet18, 2, 2)
    assert isinstance(model, fx.GraphModule)
    acts = list(sites_of(done, "act"))
    assert acts == ["relu"] + [
        f"layer{i}.{j}.relu{place}" for i in (1, 2, 3, 4) for j in (0, 1) for place in ("", "_1")
    ]
    assert len({id(model.get_submodule(name)) for name in acts}) == 17
    assert done.warnings == []
    torch.manual_seed(0)
    images = torch.randn(2, 3, 32, 32)
    calibrate(model, [images])
    alphas = [model.get_submodule(name).quantizer.alpha.item() for name in acts]
    assert len(set(alphas)) == 17
    assert torch.isfinite(model(images)).all()


def test_torchvision_resnet18_at_32_bits_is_the_float_network(torchvision_resnet18):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, done = quantize_model(torchvision_resnet18, 32, 32)
    torch.manual_seed(1)
    images = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        assert torch.equal(model(images), torchvision_resnet18(images))
    assert done.sites == ()
    assert len(done.left_float) == 17 + 21


def test_mobilenet_v2_clips_at_6_and_tells_which_inputs_stay_float():
    float_model = seeded(import_torchvision().models.mobilenet_v2, num_classes=10)
    with pytest.warns(UserWarning, match=r"compute on float inputs: .*features.3.conv.0.0"):
        model, done = quantize_model(float_model, 4, 4, inputs="relu_only")
    acts = sites_of(done, "act")
    assert len(acts) == sum(isinstance(m, nn.ReLU6) for m in float_model.modules()) == 35
    assert {model.get_submodule(name).clip_value for name in acts} == {6.0}
    # the layer after each of the 17 linear bottlenecks: the first of the next block, and the last convolution
    assert done.float_inputs == (*(f"features.{i}.conv.0.0" for i in range(2, 18)), "features.18.0")


def test_float_inputs_are_those_of_quantized_layers():
    """At 32 bits a layer is no quantized layer, whatever it is fed with."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.ReLU())
    with pytest.warns(UserWarning, match=r"float inputs: 2$"):
        _, done = quantize_model(net, 2, 2, first_last_bits=None, overrides={"1": 32}, inputs="relu_only")
    assert done.float_inputs == ("2",)
    assert list(done.left_float) == ["1"]


# --- inputs that come from no ReLU -----------------------------------------------------------------------------------


def test_layers_behind_linear_bottlenecks_get_input_sites_of_both_signs():
    model, done = quantize_model(seeded(import_torchvision().models.mobilenet_v2, num_classes=10), 4, 4)
    behind = (*(f"features.{i}.conv.0.0" for i in range(2, 18)), "features.18.0")
    own = {site.name: site for site in done.sites if site.name.endswith(".input")}
    assert list(own) == [f"{name}.input" for name in behind]
    facts = {(site.kind, site.grid.bits, site.grid.signed, site.low) for site in own.values()}
    assert facts == {("act", 4, True, True)}
    assert all(own[f"{name}.input"].quantizer is model.get_submodule(name).input_quantizer for name in behind)
    assert (done.float_inputs, done.float_input_count, done.warnings) == ((), 0, [])
    # the last layer's input comes from a ReLU6, which stays the end
    assert sites_of(done, "act")["features.18.2"] == 8


class Activated(nn.Module):
    """conv - ReLU - conv - activation - pooling - fc"""

    def __init__(self, activation: nn.Module):
        super().__init__()
        self.conv1, self.relu = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()
        self.conv2, self.activation = nn.Conv2d(4, 4, 3, padding=1), activation
        self.conv3, self.fc = nn.Conv2d(4, 4, 1), nn.Linear(4, 5)

    def forward(self, x):
        h = self.activation(self.conv2(self.relu(self.conv1(x))))
        return self.fc(self.activation(self.conv3(h)).mean((2, 3)))


@pytest.mark.parametrize("activation", [nn.GELU(), nn.SiLU(), nn.Hardswish(), nn.Tanh()], ids=repr)
def test_the_input_of_the_last_layer_is_the_end_where_no_relu_comes_before_it(activation):
    model, done = quantize_model(Activated(activation), 2, 2)
    assert sites_of(done, "act") == {"relu": 2, "conv3.input": 2, "fc.input": 8}
    assert {site.name for site in done.sites if not site.low} == {"conv1", "fc.input", "fc"}
    assert model.conv2.input_quantizer is None


def test_an_input_site_quantizes_what_its_layer_gets():
    torch.manual_seed(0)
    model, _ = quantize_model(Activated(nn.SiLU()), 2, 2)
    calibrate(model, [torch.randn(8, 3, 8, 8)])
    received, levels = [], []
    model.conv3.register_forward_pre_hook(lambda _, inputs: received.append(inputs[0]))
    model.conv3.input_quantizer.register_forward_hook(lambda _, inputs, out: levels.append(out))
    out = model(torch.randn(4, 3, 8, 8))
    alpha = model.conv3.input_quantizer.step_size
    assert torch.equal(levels[0], (received[0] / alpha).round().clamp(-2, 1) * alpha)
    assert (levels[0] < 0).any()
    out.sum().backward()
    assert model.conv3.input_quantizer.alpha.grad.abs() > 0


def test_a_quantizer_with_an_offset_takes_an_unsigned_grid_for_such_inputs():
    model, done = quantize_model(Activated(nn.SiLU()), 2, 2, quantizer=LSQPlusQuantizer)
    site = next(site for site in done.sites if site.name == "conv3.input")
    assert not site.grid.signed
    torch.manual_seed(0)
    calibrate(model, [torch.randn(8, 3, 8, 8)])
    assert site.quantizer.offset < 0, "SiLU has values down to -0.28"


def test_bits_of_an_input_site_go_by_its_layers_name():
    bits = {"conv3": {"act": 4}, "fc": {"act": 32}}
    _, done = quantize_model(Activated(nn.SiLU()), 2, 2, overrides=bits)
    assert sites_of(done, "act") == {"relu": 2, "conv3.input": 4}
    assert sites_of(done, "weight")["conv3"] == 2
    assert done.left_float["fc.input"] == "32 bits were asked for"
    with pytest.raises(BrsweepError, match=r"quant\.overrides: conv2 sets 'act', and conv2 has none to quantize"):
        quantize_model(Activated(nn.SiLU()), 2, 2, overrides={"conv2": {"act": 4}})
    with pytest.raises(BrsweepError, match=r"quant\.overrides: relu sets 'weight', and relu has none to quantize"):
        quantize_model(Activated(nn.SiLU()), 2, 2, overrides={"relu": {"weight": 4}})


def test_inputs_are_auto_or_relu_only():
    with pytest.raises(BrsweepError, match="inputs='all': choose one of auto, relu_only"):
        quantize_model(SmallNet(), 2, 2, inputs="all")


# --- places ----------------------------------------------------------------------------------------------------------


class Functional(nn.Module):
    """A ReLU in each of its spellings, the same module at two places, one within a block."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(3, 3, 1) for _ in range(4))
        self.e, self.act, self.block = nn.Conv2d(3, 3, 1), nn.ReLU(), Block()

    def forward(self, x):
        x = F.relu(self.a(x))
        x = torch.relu(input=self.b(input=x))
        x = self.c(x).relu()
        x = F.relu6(self.d(x), inplace=True)
        x = self.block(self.act(x))
        return self.act(self.e(x))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return F.relu(self.conv(x))


def test_functional_and_shared_relus_become_a_module_per_place():
    net = seeded(Functional)
    images = 10 * torch.randn(4, 3, 5, 5)
    same, _ = quantize_model(net, 32, 32)
    assert torch.equal(same(images), net(images))
    model, done = quantize_model(net, 2, 2)
    assert list(sites_of(done, "act")) == ["relu", "relu_1", "relu_2", "relu_3", "act", "block.relu", "act_1"]
    assert list(sites_of(done, "weight")) == ["a", "b", "c", "d", "block.conv", "e"]
    assert [model.get_submodule(s.name).clip_value for s in done.sites if s.kind == "act"] == [
        None, None, None, 6.0, None, None, None,
    ]  # fmt: skip
    assert done.float_inputs == ()
    calibrate(model, [images])
    assert len({site.quantizer.alpha.item() for site in done.sites if site.kind == "act"}) == 7


def test_a_shared_clip_clips_at_every_place():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.act = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), ClippedReLU(1.5)

        def forward(self, x):
            return self.act(self.b(self.act(self.a(x))))

    net = seeded(Shared)
    images = 10 * torch.randn(4, 3, 5, 5)
    same, _ = quantize_model(net, 32, 32)
    assert torch.equal(same(images), net(images))
    model, _ = quantize_model(net, 2, 2, first_last_bits=None)
    assert (model.act.clip_value, model.act_1.clip_value) == (1.5, 1.5)


def test_a_layer_used_twice_is_an_error_with_its_name():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.shared = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.shared(self.shared(self.first(x)))

    with pytest.raises(BrsweepError, match=r"^shared: this layer is used at several places"):
        quantize_model(Twice(), 2, 2)


class Untraceable(nn.Module):
    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.act = nn.ReLU()
        self.other = self.act if shared else nn.ReLU()

    def forward(self, x):
        x = self.act(self.a(x))
        if x.sum() < 0:
            x = -x
        return self.other(self.b(x))


def test_an_untraceable_network_is_converted_by_its_modules_and_says_so():
    with pytest.warns(UserWarning, match="can't be traced"):
        model, done = quantize_model(Untraceable(shared=False), 2, 2, first_last_bits=None)
    assert done.untraced
    assert list(sites_of(done, "weight")) == ["a", "b"]
    assert list(sites_of(done, "act")) == ["act", "other"]
    calibrate(model, [torch.randn(5, 4)])


def test_an_untraceable_network_with_a_shared_relu_fails_at_calibration():
    with pytest.warns(UserWarning, match="can't be traced"):
        model, _ = quantize_model(Untraceable(shared=True), 2, 2, first_last_bits=None)
    assert model.act is model.other
    with pytest.raises(BrsweepError, match=r"^act: runs twice in one forward pass"):
        calibrate(model, [torch.randn(5, 4)])


def test_a_call_that_tracing_would_fix_in_one_mode_is_an_error():
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x):
            return F.relu(F.dropout(self.a(x), 0.5, self.training))

    with pytest.raises(BrsweepError, match="would fix training or evaluation at call_function dropout"):
        quantize_model(Dropping(), 2, 2)


def test_an_in_place_relu_whose_input_is_read_again_is_an_error():
    """`identity` is rectified too in the float network; a quantizer that returns a new tensor would not do that."""

    class Aliased(nn.Module):
        def __init__(self, by_module: bool) -> None:
            super().__init__()
            self.a, self.act, self.by_module = nn.Linear(4, 4), nn.ReLU(inplace=True), by_module

        def forward(self, x):
            x = self.a(x)
            out = self.act(x) if self.by_module else F.relu_(x)
            return out + x

    for by_module in (True, False):
        with pytest.raises(BrsweepError, match="works in place and its input is read again"):
            quantize_model(Aliased(by_module), 2, 2)


def test_a_branch_on_the_mode_is_an_error_where_a_trace_would_fix_it():
    class Auxiliary(nn.Module):
        def __init__(self, act) -> None:
            super().__init__()
            self.a, self.b, self.act = nn.Linear(4, 4), nn.Linear(4, 4), act

        def forward(self, x):
            x = self.act(self.a(x))
            return (x, self.b(x)) if self.training else x

    with pytest.raises(BrsweepError, match="would fix training or evaluation at call_module b"):
        quantize_model(Auxiliary(F.relu), 2, 2)
    model, _ = quantize_model(Auxiliary(nn.ReLU()), 2, 2, first_last_bits=None)  # keeps its class, and so both modes
    calibrate(model, [torch.randn(5, 4)])
    assert isinstance(model.train()(torch.randn(5, 4)), tuple)
    assert isinstance(model.eval()(torch.randn(5, 4)), torch.Tensor)


# --- policy ----------------------------------------------------------------------------------------------------------


def test_small_net_in_order_and_its_table():
    _, done = quantize_model(SmallNet(), 2, 4)
    assert [s.name for s in done.sites] == SMALL_ORDER
    assert done.lines()[:2] == ["conv1  weight  8 bits", "relu1  act     4 bits"]


@pytest.mark.parametrize(("first_last", "ends"), [(8, 8), (None, 2), (6, 6), (32, None)])
def test_ends(first_last, ends):
    _, done = quantize_model(SmallNet(), 2, 2, first_last_bits=first_last)
    bits = {s.name: s.grid.bits for s in done.sites}
    assert [bits.get(name) for name in ("conv1", "relu3", "fc")] == [ends] * 3
    assert [bits[name] for name in ("relu1", "conv2", "relu2", "conv3")] == [2] * 4
    low = {s.name for s in done.sites if s.low}
    assert low == set(SMALL_ORDER if first_last is None else ("relu1", "conv2", "relu2", "conv3"))


def test_overrides_by_pattern_later_ones_win():
    overrides = {"conv?": 3, "conv2": {"weight": 4}, "relu[12]": {"act": 5}, "fc": 32}
    _, done = quantize_model(SmallNet(), 2, 2, overrides=overrides)
    assert {s.name: s.grid.bits for s in done.sites} == {
        "conv1": 3, "conv2": 4, "conv3": 3, "relu1": 5, "relu2": 5, "relu3": 8,
    }  # fmt: skip
    assert done.left_float == {"fc": "32 bits were asked for"}
    _, swapped = quantize_model(SmallNet(), 2, 2, overrides={"conv2": 4, "conv?": 3})
    assert sites_of(swapped, "weight")["conv2"] == 3
    _, other_kind = quantize_model(SmallNet(), 2, 2, overrides={"*2": {"act": 4}})
    assert sites_of(other_kind, "weight")["conv2"] == 2


def test_overrides_that_can_have_no_effect_are_errors():
    with pytest.raises(BrsweepError, match=r"no layer or ReLU matches 'con2'; did you mean conv2\?"):
        quantize_model(SmallNet(), 2, 2, overrides={"con2": 4})
    with pytest.raises(BrsweepError, match=r"no layer or ReLU matches 'xyzzy'$"):
        quantize_model(SmallNet(), 2, 2, overrides={"xyzzy": 4})
    with pytest.raises(BrsweepError, match=r"conv2.*'weights'.*weight, act"):
        quantize_model(SmallNet(), 2, 2, overrides={"conv2": {"weights": 4}})
    with pytest.raises(BrsweepError, match="bits=9"):
        quantize_model(SmallNet(), 2, 2, overrides={"conv2": 9})


@pytest.mark.parametrize(("weight_bits", "act_bits"), [(32, 2), (2, 32), (32, 32)])
def test_32_bits_stay_float(weight_bits, act_bits):
    net = seeded(SmallNet)
    model, done = quantize_model(net, weight_bits, act_bits)
    assert len(sites_of(done, "weight")) == (0 if weight_bits == 32 else 4)
    assert len(sites_of(done, "act")) == (0 if act_bits == 32 else 3)
    assert len(done.left_float) + len(done.sites) == 7
    assert done.warnings == []
    if weight_bits == act_bits == 32:
        images = torch.randn(2, 3, 8, 8)
        assert torch.equal(model.eval()(images), net.eval()(images))


def test_one_bit_weights_are_refused_and_one_bit_activations_are_not():
    with pytest.raises(BrsweepError, match="no signed 1-bit grid"):
        quantize_model(SmallNet(), 1, 2)
    _, done = quantize_model(SmallNet(), 2, 1)
    assert sites_of(done, "act") == {"relu1": 1, "relu2": 1, "relu3": 8}


def test_input_bits_without_a_quantized_first_layer_are_an_error():
    with pytest.raises(BrsweepError, match="input_bits=8: the first layer stays float"):
        quantize_model(SmallNet(), 2, 2, input_bits=8, overrides={"conv1": 32})


def test_a_quantized_network_is_not_quantized_again():
    with pytest.raises(BrsweepError, match="quantized already"):
        quantize_model(quantize_model(SmallNet(), 2, 2)[0], 4, 4)


def test_weights_that_are_not_numbers_are_an_error_with_the_layers_name():
    net = SmallNet()
    nn.init.constant_(net.conv2.weight, float("nan"))
    with pytest.raises(BrsweepError, match=r"^conv2: .*not finite"):
        quantize_model(net, 2, 2)


def test_input_bits_quantize_the_image():
    model, done = quantize_model(seeded(SmallNet), 2, 2, input_bits=8)
    image = done.sites[0]
    assert (image.name, image.kind, image.grid.bits) == ("conv1.input", "act", 8)
    assert (image.grid.signed, image.low) == (True, False)
    assert image.quantizer is model.conv1.input_quantizer
    images = torch.randn(4, 3, 8, 8)
    calibrate(model, [images])
    received = []
    handle = model.conv1.weight_quantizer.register_forward_hook(lambda _, inputs, out: received.append(out))
    levels = image.quantizer(images)
    out = model.conv1(images)
    handle.remove()
    assert torch.equal(out, F.conv2d(levels, received[0], padding=1))
    assert levels.unique().numel() <= 256
    assert not torch.equal(levels, images)


def test_per_channel_gives_each_output_channel_its_step_size():
    net = seeded(SmallNet)
    model, done = quantize_model(net, 2, 2, per_channel=True)
    shapes = {s.name: tuple(s.quantizer.alpha.shape) for s in done.sites}
    assert shapes == {
        "conv1": (4,), "conv2": (6,), "conv3": (6,), "fc": (5,), "relu1": (), "relu2": (), "relu3": (),
    }  # fmt: skip
    expected = 2 * net.conv2.weight.double().abs().mean((1, 2, 3))  # Qp = 1
    assert torch.equal(model.conv2.weight_quantizer.alpha, expected.float())


def test_clip_values():
    model, _ = quantize_model(SmallNet(), 2, 2, clip_value=1.0)
    assert [m.clip_value for m in model.modules() if isinstance(m, QuantizedClippedReLU)] == [1.0] * 3
    mixed = nn.Sequential(nn.Linear(4, 4), nn.ReLU6(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), ClippedReLU(0.5))
    for clip, expected in ((None, [6.0, None, 0.5]), (3.0, [3.0, 3.0, 0.5]), (8.0, [6.0, 8.0, 0.5])):
        model, _ = quantize_model(mixed, 2, 2, clip_value=clip, first_last_bits=None)
        assert [m.clip_value for m in model.modules() if isinstance(m, QuantizedClippedReLU)] == expected
    model, _ = quantize_model(mixed, 2, 32, clip_value=1.0, first_last_bits=None)
    assert [type(m) for m in model] == [QuantLinear, ClippedReLU] * 3
    assert [m.clip_value for m in model if isinstance(m, ClippedReLU)] == [1.0, 1.0, 0.5]
    for wrong in (0, -1.0):
        with pytest.raises(BrsweepError, match="a clip is a positive number"):
            quantize_model(SmallNet(), 2, 2, clip_value=wrong)


def test_clipped_relu_values():
    values = torch.tensor([-1.0, 0.0, 0.5, 1.0, 7.0])
    assert ClippedReLU()(values).tolist() == [0.0, 0.0, 0.5, 1.0, 7.0]
    assert ClippedReLU(1.0)(values).tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]


# --- what the copy keeps ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [SmallNet, Functional])
def test_the_original_is_untouched(build):
    net = seeded(build)
    state = copy.deepcopy(net.state_dict())
    modules = list(net.named_modules())
    quantize_model(net, 2, 2, clip_value=1.0)
    clip_relus(net, 1.0)
    assert list(net.named_modules()) == modules
    assert state.keys() == net.state_dict().keys()
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("build", [SmallNet, Functional])
def test_weights_are_copied_to_the_bit_and_shared_with_nobody(build):
    net = seeded(build)
    model, _ = quantize_model(net, 2, 2)
    copies = model.state_dict()
    for key, value in net.state_dict().items():
        assert torch.equal(copies[key], value), key
        assert copies[key].data_ptr() != value.data_ptr(), key


def test_a_quantized_layer_computes_with_levels():
    torch.manual_seed(4)
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=(2, 1), dilation=2, groups=2, padding_mode="circular")
    quantized = QuantConv2d.from_float(conv, 3)
    latent, alpha = conv.weight.detach(), quantized.weight_quantizer.alpha.detach()
    reference = copy.deepcopy(conv)
    reference.weight.data = (latent / alpha).clamp(-4, 3).round() * alpha
    values = torch.randn(2, 4, 9, 9)
    assert torch.equal(quantized(values), reference(values))
    assert torch.equal(quantized.weight, latent)
    linear = nn.Linear(5, 3, bias=False)
    quantized = QuantLinear.from_float(linear, 2)
    alpha = quantized.weight_quantizer.alpha.detach()
    levels = (linear.weight.detach() / alpha).clamp(-2, 1).round() * alpha
    values = torch.randn(2, 5)
    assert torch.equal(quantized(values), F.linear(values, levels))


@pytest.mark.parametrize("build", [SmallNet, Functional])
def test_modes_are_kept_module_by_module(build):
    net = build().eval()
    net.train()
    frozen = [name for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)][:2] or ["e", "block"]
    for name in frozen:
        net.get_submodule(name).eval()
    modes = {name: module.training for name, module in net.named_modules()}
    model, _ = quantize_model(net, 2, 2)
    kept = {name: module.training for name, module in model.named_modules() if name in modes}
    assert kept == {name: modes[name] for name in kept}
    assert len(kept) == len(modes)


@pytest.mark.parametrize("training", [True, False])
def test_new_modules_are_in_the_networks_mode(training):
    model, _ = quantize_model(seeded(Functional).train(training), 2, 2)
    assert {module.training for module in model.modules()} == {training}


def test_dtype_is_kept():
    model, _ = quantize_model(seeded(SmallNet).double(), 2, 2, input_bits=8)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    calibrate(model, [torch.randn(2, 3, 8, 8, dtype=torch.float64)])
    assert model(torch.randn(2, 3, 8, 8, dtype=torch.float64)).dtype == torch.float64


def test_requires_grad_is_kept():
    net = SmallNet()
    net.conv2.weight.requires_grad_(False)
    net.fc.bias.requires_grad_(False)
    model, _ = quantize_model(net, 2, 2)
    off = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert off == {"conv2.weight", "fc.bias"}


@pytest.mark.parametrize("build", [SmallNet, Functional])
def test_the_clipped_float_networks_state_loads_into_the_quantized_one(build):
    net = seeded(build)
    clipped = clip_relus(net, 1.0)
    assert not any(type(m) in (nn.ReLU, nn.ReLU6) for m in clipped.modules())
    model, done = quantize_model(seeded(build), 2, 2, clip_value=1.0)
    with torch.no_grad():
        for parameter in clipped.parameters():
            parameter.add_(1.0)
    missing, unexpected = model.load_state_dict(clipped.state_dict(), strict=False)
    assert unexpected == []
    quantizer_of = {"weight": "weight_quantizer", "act": "quantizer"}
    assert sorted(missing) == sorted(f"{s.name}.{quantizer_of[s.kind]}.alpha" for s in done.sites)
    for key, value in clipped.state_dict().items():
        assert torch.equal(model.state_dict()[key], value)


def test_clip_relus_clips_and_without_a_clip_only_copies():
    net = seeded(Functional)
    images = 10 * torch.randn(2, 3, 5, 5)
    same = clip_relus(net, None)
    assert same is not net
    assert torch.equal(same(images), net(images))
    clipped = clip_relus(net, 0.25)
    assert clipped(images).max().item() == 0.25
    assert {m.clip_value for m in clipped.modules() if isinstance(m, ClippedReLU)} == {0.25}
    assert clip_relus(nn.Sequential(nn.ReLU6()), 8.0)[0].clip_value == 6.0


def test_forward_changes_no_state_of_a_quantized_network():
    torch.manual_seed(5)
    model, done = quantize_model(SmallNet(), 2, 2)
    calibrate(model, [torch.randn(4, 3, 8, 8)])
    before = copy.deepcopy(model.state_dict())
    for training in (True, True, False, False):
        model.train(training)(torch.randn(4, 3, 8, 8))
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert all(key.startswith("bn") for key in moved)
    assert all(site.quantizer.collector is None for site in done.sites)


def test_a_quantizer_of_ones_own_is_used_everywhere():
    class Halves(nn.Module):
        def __init__(self, bits, signed, per_channel=False, channels=1, axis=0, count="tensor") -> None:
            super().__init__()
            from brsweep.quant import Grid

            self.grid, self.alpha, self.initialised = Grid(bits, signed), nn.Parameter(torch.tensor(0.5)), False

        def init_from(self, values):
            self.initialised = True

        def forward(self, values):
            return (values * 2).round() / 2

    model, done = quantize_model(SmallNet(), 1, 1, quantizer=Halves)
    assert {type(site.quantizer) for site in done.sites} == {Halves}
    assert not any(isinstance(m, LSQQuantizer) for m in model.modules())
    calibrate(model, [torch.randn(2, 3, 8, 8)])
    assert all(site.quantizer.initialised for site in done.sites)
