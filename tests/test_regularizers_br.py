"""Bin Regularization of a network: which sites count, by how much, and who moves alpha."""

from __future__ import annotations

import math

import pytest
import small_runs
import torch
from references import SmallNet, bin_penalty_loop
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from brsweep import kernels, targets
from brsweep.errors import BrsweepError
from brsweep.quant import LSQQuantizer, Site, calibrate, quantize_model
from brsweep.quant.sites import Collected
from brsweep.regularizers import ActivationHookManager, BinRegularization, BinRegularizer
from brsweep.regularizers.regularizer import ramp

FLOAT32 = 1e-6  # relative: the penalty of one tensor alone comes back in float32
LOW_WEIGHTS, LOW_ACTS = ("conv2", "conv3"), ("relu1", "relu2")


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.randn(8, 3, 8, 8)


def quantized_net(images, **options):
    torch.manual_seed(1)
    model, done = quantize_model(SmallNet(), 2, 2, **options)
    calibrate(model, [images])
    return model, done.sites


def penalties(regularization, model, sites, images) -> dict[str, float]:
    with regularization.collect(sites) as seen:
        model(images)
    return {kind: value.item() for kind, value in regularization.penalties(seen).items()}


# --- the penalty of a network ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance", ["biased", "unbiased"])
@pytest.mark.parametrize("saturated", ["pull", "ignore"])
@pytest.mark.parametrize("unit", ["value", "step"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_equals_the_sum_or_mean_by_hand(images, variance, saturated, unit, reduction):
    model, sites = quantized_net(images)
    regularization = BinRegularization(
        variance=variance,
        **{
            name: dict.fromkeys(("weight", "act"), value)
            for name, value in (("saturated", saturated), ("unit", unit), ("reduction", reduction))
        },
    )
    with regularization.collect(sites) as seen, ActivationHookManager(model) as hooks:
        model(images)
        captured = hooks.get_pre_quant_activations()
    together = regularization.penalties(seen)
    assert set(seen) == {*LOW_WEIGHTS, *LOW_ACTS}

    def one(name, values, quantizer):
        regularizer = BinRegularizer(2, quantizer.grid.signed, variance, saturated, unit, reduction)
        return regularizer.compute_bin_loss(values, quantizer.alpha).item()

    by_hand = {
        "weight": sum(one(n, getattr(model, n).weight, getattr(model, n).weight_quantizer) for n in LOW_WEIGHTS),
        "act": sum(one(n, captured[n], getattr(model, n).quantizer) for n in LOW_ACTS),
    }
    sites = 2 if reduction == "mean" else 1  # of each kind
    by_hand = {kind: value / sites for kind, value in by_hand.items()}
    assert set(together) == {"weight", "act"}
    for kind, value in together.items():
        assert (value.shape, value.dtype) == ((), torch.float64)
        assert value.item() == pytest.approx(by_hand[kind], rel=FLOAT32)


def test_the_scale_multiplies_both_penalties(images):
    model, sites = quantized_net(images)
    plain = penalties(BinRegularization(), model, sites, images)
    scaled = penalties(BinRegularization(scale=0.25), model, sites, images)  # a power of two: exact
    assert scaled == {kind: 0.25 * value for kind, value in plain.items()} and plain.keys() == {"weight", "act"}
    with BinRegularization().collect(sites) as seen:
        model(images)
    for entry in seen.values():
        assert BinRegularization(scale=0.25).penalty(entry) == 0.25 * BinRegularization().penalty(entry)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("kind", ["weight", "act"])
def test_evenly_spread_values_pay_a_fortieth_of_lambda_in_the_default_form(kind, bits, tmp_path):
    """0.3 of the twelfth that their mean of squares is in steps; n values a bin are short of it by 1 in n^2."""
    regularization = targets.build("reg", small_runs.config("regularizer=br", tmp_path=tmp_path)["reg"])
    quantizer, n = LSQQuantizer(bits, signed=kind == "weight"), 64
    codes = torch.arange(quantizer.grid.qn, quantizer.grid.qp + 1)
    quantizer.alpha.data.fill_(0.5)
    values = 0.5 * (codes[:, None] + (torch.arange(n) + 0.5) / n - 0.5)
    site = Site("only", kind, quantizer)
    sums = quantizer.bin_sums(values, regularization.request(kind))
    paid = regularization.penalties({"only": Collected(site, sums)})
    assert paid[kind].item() == pytest.approx((1 - n**-2) / 40, rel=1e-6)  # residuals are float32


def test_equals_the_loop_on_latent_weights(images):
    model, sites = quantized_net(images)
    regularization = BinRegularization(lambda_act=0)
    expected = sum(
        bin_penalty_loop(layer.weight.detach(), layer.weight_quantizer.alpha.item(), -2, 1)
        for layer in (model.conv2, model.conv3)
    )
    # residuals are float32: a rounding each of values up to 2 steps
    assert penalties(regularization, model, sites, images) == {"weight": pytest.approx(expected, rel=1e-5)}


def test_ends_count_only_where_asked(images):
    model, sites = quantized_net(images, input_bits=8)
    with BinRegularization().collect(sites) as seen:
        model(images)
    assert set(seen) == {*LOW_WEIGHTS, *LOW_ACTS}
    with BinRegularization(first_last=True).collect(sites) as seen:
        model(images)
    assert set(seen) == {site.name for site in sites}
    assert len(seen) == 8
    everything = BinRegularization(first_last=True).penalties(seen)
    assert set(everything) == {"weight", "act"}
    model, sites = quantized_net(images, first_last_bits=None)  # no ends: all sites are alike
    with BinRegularization().collect(sites) as seen:
        model(images)
    assert set(seen) == {site.name for site in sites}


def test_a_kind_with_lambda_0_costs_nothing(images):
    model, sites = quantized_net(images)
    for options, kind in (({"lambda_act": 0}, "weight"), ({"lambda_weight": 0}, "act")):
        regularization = BinRegularization(**options)
        with regularization.collect(sites) as seen:
            assert {site.kind for site in sites if site.quantizer.collector is not None} == {kind}
            model(images)
        assert set(regularization.penalties(seen)) == {kind}
    neither = BinRegularization(lambda_weight=0, lambda_act=0)
    with neither.collect(sites) as seen:
        assert all(site.quantizer.collector is None for site in sites)
        model(images)
    assert neither.penalties(seen) == {}


def test_per_channel_is_the_mean_over_channels(images):
    model, sites = quantized_net(images, per_channel=True)
    expected = 0.0
    for layer in (model.conv2, model.conv3):
        alphas = layer.weight_quantizer.alpha.tolist()
        single = [bin_penalty_loop(w, a, -2, 1) for w, a in zip(layer.weight.detach(), alphas, strict=True)]
        expected += sum(single) / len(single)
    assert penalties(BinRegularization(lambda_act=0), model, sites, images)["weight"] == pytest.approx(
        expected, rel=1e-5
    )


def test_sites_of_several_grids_are_told_apart(images):
    """conv2 at 2 bits and conv3 at 4: two groups of sums of different size."""
    model, sites = quantized_net(images, overrides={"conv3": 4, "relu2": 3})
    regularization = BinRegularization()
    together = penalties(regularization, model, sites, images)
    expected = sum(
        bin_penalty_loop(layer.weight.detach(), layer.weight_quantizer.alpha.item(), qn, qp)
        for layer, qn, qp in ((model.conv2, -2, 1), (model.conv3, -8, 7))
    )
    assert together["weight"] == pytest.approx(expected, rel=1e-5)


def test_it_is_zero_when_the_latent_weights_are_levels(images):
    model, sites = quantized_net(images)
    for layer in (model.conv2, model.conv3):
        layer.weight_quantizer.load_state_dict({"alpha": torch.tensor(0.25)})
        layer.weight.data = layer.weight_quantizer(layer.weight).detach()
    assert penalties(BinRegularization(lambda_act=0), model, sites, images) == {"weight": 0.0}


def test_options_are_each_kinds_own(images):
    model, sites = quantized_net(images)
    plain = penalties(BinRegularization(), model, sites, images)
    mixed = penalties(BinRegularization(saturated={"act": "ignore"}, unit={"weight": "step"}), model, sites, images)
    assert mixed["act"] < plain["act"]
    by_step = sum(
        bin_penalty_loop(layer.weight.detach(), a, -2, 1) / a**2
        for layer in (model.conv2, model.conv3)
        if (a := layer.weight_quantizer.alpha.item())
    )
    assert mixed["weight"] == pytest.approx(by_step, rel=1e-5)
    unbiased = penalties(BinRegularization(variance="unbiased"), model, sites, images)
    assert unbiased["weight"] > plain["weight"]


# --- lambda ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "shares"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("cosine", [0.0, 0.5 - math.sqrt(0.125), 0.5, 0.5 + math.sqrt(0.125), 1.0]),
    ],
)
def test_ramps(kind, shares):
    assert [ramp(kind, progress) for progress in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx(shares, abs=1e-15)


def test_lambdas_are_strength_times_ramp():
    regularization = BinRegularization(2.0, 10.0, ramp={"act": "linear"})
    assert regularization.lambdas(0.0) == {"weight": 2.0, "act": 0.0}
    assert regularization.lambdas(0.25) == {"weight": 2.0, "act": 2.5}
    assert regularization.lambdas(1.0) == {"weight": 2.0, "act": 10.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lambda_weight": -1.0}, "a lambda is 0 or more"),
        ({"lambda_act": math.nan}, "a lambda is 0 or more"),
        ({"lambda_act": math.inf}, "a lambda is 0 or more"),
        ({"alpha_grad_scale": "detached"}, "choose one of raw, lsq"),
        ({"ramp": {"act": "exponential"}}, "choose one of constant, linear, cosine"),
        ({"variance": "sample"}, "choose one of biased, unbiased"),
        ({"saturated": {"weight": "drop"}}, "choose one of pull, ignore"),
        ({"unit": {"act": "alpha"}}, "choose one of value, step"),
        ({"reduction": {"act": "max"}}, "choose one of sum, mean"),
        ({"scale": 0.0}, r"reg.scale=0.0: the unit of both lambdas is above 0, and finite"),
        ({"scale": math.nan}, "reg.scale=nan"),
        ({"scale": math.inf}, "reg.scale=inf"),
        ({"unit": {"activation": "step"}}, "unit.*'activation'.*weight, act"),
        ({"ramp": {"weights": "linear"}}, "ramp.*'weights'.*weight, act"),
        ({"saturated": {"acts": "pull"}}, "saturated.*'acts'.*weight, act"),
    ],
)
def test_options_that_do_not_exist_are_refused(options, message):
    with pytest.raises(BrsweepError, match=message):
        BinRegularization(**options)


# --- who moves alpha -------------------------------------------------------------------------------------------------

# Two values in bin 0 and two in bin 1, one of them beyond the range: m_1 = (0.25 + 2) / 2 steps
STEPS, RAW = [0.25, -0.25, 1.25, 3.0], -2 * 1 * 1.125


@pytest.mark.parametrize("variance", ["biased", "unbiased"])
@pytest.mark.parametrize(
    ("options", "factor"),
    [
        ({"backprop_to_alpha": False}, None),
        ({"backprop_to_alpha": False, "alpha_grad_scale": "lsq"}, None),
        ({"backprop_to_alpha": True, "alpha_grad_scale": "raw"}, 1.0),
        ({"backprop_to_alpha": True, "alpha_grad_scale": "lsq"}, 1 / math.sqrt(4 * 1)),
    ],
)
def test_the_penaltys_gradient_to_alpha(variance, options, factor):
    alpha = 0.5
    quantizer = LSQQuantizer(2, True)
    quantizer.load_state_dict({"alpha": torch.tensor(alpha)})
    site = Site("w", "weight", quantizer)
    regularization = BinRegularization(lambda_act=0, variance=variance, **options)
    values = (alpha * torch.tensor(STEPS)).requires_grad_()
    with regularization.collect([site]) as seen:
        quantizer(values)
    regularization.penalties(seen)["weight"].backward()
    assert values.grad.abs().sum() > 0
    if factor is None:
        assert quantizer.alpha.grad is None
    else:
        assert quantizer.alpha.grad.item() == RAW * alpha * factor


def test_the_default_is_raw_where_it_reaches_alpha_at_all():
    assert BinRegularization().alpha_grad == "detached"
    assert BinRegularization(backprop_to_alpha=True).alpha_grad == "raw"


def test_alpha_of_activations_takes_g_of_one_sample(images):
    """ "lsq" is "raw" times 1 / sqrt(N * Qp), N the 4 x 8 x 8 features of one sample and Qp = 3."""
    grads = {}
    for scale in ("raw", "lsq"):
        model, sites = quantized_net(images)
        regularization = BinRegularization(lambda_weight=0, backprop_to_alpha=True, alpha_grad_scale=scale)
        with regularization.collect([site for site in sites if site.name == "relu1"]) as seen:
            model(images)
        regularization.penalties(seen)["act"].backward()
        grads[scale] = model.relu1.quantizer.alpha.grad.item()
    assert grads["raw"] != 0
    assert grads["lsq"] == pytest.approx(grads["raw"] / math.sqrt(4 * 8 * 8 * 3), rel=FLOAT32)


def gradients(model, sites, images, regularization, with_penalty) -> dict[str, torch.Tensor | None]:
    labels = torch.arange(8) % 5
    model.zero_grad()
    with regularization.collect(sites) as seen:
        loss = cross_entropy(model(images), labels)
    if with_penalty:
        lambdas, parts = regularization.lambdas(1.0), regularization.penalties(seen)
        loss = loss + sum(lambdas[kind] * parts[kind] for kind in parts)
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def test_detached_weight_alphas_get_the_tasks_gradient_to_the_bit(images, monkeypatch):
    # the compiled passes with and without sums are two loops, whose sums over a tensor round differently
    monkeypatch.setattr(kernels, "_choice", "reference")
    model, sites = quantized_net(images)
    model.eval()
    regularization = BinRegularization(10.0, 0.0)
    task = gradients(model, sites, images, regularization, with_penalty=False)
    both = gradients(model, sites, images, regularization, with_penalty=True)
    changed = {name for name in task if not torch.equal(task[name], both[name])}
    assert changed == {"conv2.weight", "conv3.weight"}
    raw = BinRegularization(10.0, 0.0, backprop_to_alpha=True)
    moved = gradients(model, sites, images, raw, with_penalty=True)
    assert {name for name in both if not torch.equal(both[name], moved[name])} == {
        "conv2.weight_quantizer.alpha", "conv3.weight_quantizer.alpha",
    }  # fmt: skip


def test_an_activations_penalty_reaches_what_makes_the_activation(images):
    model, sites = quantized_net(images)
    regularization = BinRegularization(0.0, 1.0)
    with regularization.collect(sites) as seen:
        model(images)
    regularization.penalties(seen)["act"].backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    # relu1's values pass through relu1's own quantizer on the way to relu2, and so its step size is moved
    assert reached == {
        "conv1.weight", "conv1.weight_quantizer.alpha", "bn1.weight", "bn1.bias", "relu1.quantizer.alpha",
        "conv2.weight", "conv2.weight_quantizer.alpha", "bn2.weight", "bn2.bias",
    }  # fmt: skip


# --- what it costs ---------------------------------------------------------------------------------------------------


class NoSync(TorchDispatchMode):
    """Fails on what would make a GPU's host wait: reading a value back, or a shape that depends on values."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique", "item")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if any(name == word or name.startswith(f"_{word}") or name.startswith(f"{word}_") for word in self.FORBIDDEN):
            raise AssertionError(f"host sync: {name}")
        return function(*args, **(kwargs or {}))


def train_step(model, sites, images, regularization, labels) -> None:
    with regularization.collect(sites) as seen:
        loss = cross_entropy(model(images), labels)
    parts, lambdas = regularization.penalties(seen), regularization.lambdas(0.5)
    (loss + sum(lambdas[kind] * parts[kind] for kind in parts)).backward()


@pytest.mark.parametrize("options", [{}, {"per_channel": True}])
@pytest.mark.parametrize("variance", ["biased", "unbiased"])
def test_a_step_waits_for_no_device(images, options, variance):
    model, sites = quantized_net(images, **options)
    regularization = BinRegularization(
        backprop_to_alpha=True,
        alpha_grad_scale="lsq",
        variance=variance,
        saturated={"act": "ignore"},
        unit={"act": "step"},
    )
    labels = torch.arange(8) % 5
    with NoSync():
        train_step(model, sites, images, regularization, labels)
    assert model.conv2.weight_quantizer.alpha.grad is not None
    # A meta tensor has no values at all, and takes the path of a GPU
    model.to("meta")
    train_step(model, sites, images.to("meta"), regularization, labels.to("meta"))


@pytest.mark.parametrize("wait", [lambda t: t.item(), lambda t: bool(t > 0), lambda t: t[t > 0], lambda t: t.nonzero()])
def test_the_watch_for_syncs_sees_them(wait):
    with pytest.raises(AssertionError, match="host sync"), NoSync():
        wait(torch.ones(()))


def saved_bytes(run) -> int:
    """Bytes that autograd keeps for the backward pass of what `run` computes; memory in common counts once."""
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # the tensor, so that no address is used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    del result
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("per_channel", [False, True])
def test_it_keeps_no_more_memory_than_lsq_alone(per_channel):
    torch.manual_seed(2)
    images = torch.randn(32, 3, 16, 16)
    model, sites = quantized_net(images, per_channel=per_channel)
    regularization = BinRegularization()

    def alone():
        return model(images).sum()

    def regularized():
        with regularization.collect(sites) as seen:
            out = model(images).sum()
        return out + sum(regularization.penalties(seen).values())

    base = saved_bytes(alone)
    assert base > 32 * 16 * 16 * 4 * 4  # so the count sees at least the first activation
    assert saved_bytes(regularized) <= 1.02 * base


def test_gradient_descent_on_the_penalty_alone_finds_the_levels():
    """Each weight goes to the level of its bin: a step leaves 1 - 2 lr / n of its residual, n the bin's count."""
    torch.manual_seed(3)
    layer = nn.Parameter(torch.randn(64))
    quantizer = LSQQuantizer(2, True)
    quantizer.init_from(layer)
    site, regularization = Site("w", "weight", quantizer), BinRegularization(lambda_act=0)
    levels = quantizer(layer).detach()
    optimizer = torch.optim.SGD([layer], lr=0.5)
    for _ in range(600):
        optimizer.zero_grad()
        with regularization.collect([site]) as seen:
            quantizer(layer)
        regularization.penalties(seen)["weight"].backward()
        optimizer.step()
    torch.testing.assert_close(layer.detach(), levels, rtol=0, atol=1e-5)
