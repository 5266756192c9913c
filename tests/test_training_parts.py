"""The parts of training by themselves: schedule, parameter groups, evaluation, measurements."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import pytest
import small_runs
import torch
import torch.nn.functional as F
from references import SmallNet, code_of
from torch import nn

from brsweep.errors import BrsweepError
from brsweep.kernels import ALPHA_FLOOR
from brsweep.quant import calibrate, quantize_model
from brsweep.regularizers import BinRegularizer
from brsweep.regularizers.regularizer import ramp
from brsweep.training.evaluate import evaluate, with_reestimated_norms
from brsweep.training.measure import CodeChanges, Probe, _cell_counts, penalty_totals
from brsweep.training.optim import build_optimizer, check_partition, freeze_alphas, parameter_groups, set_lr
from brsweep.training.schedule import lr_factor, seed_of
from brsweep.training.step import Learner

OPTIONS = {"lr": 0.1, "weight_decay": 5e-4, "alpha_lr": 0.02, "alpha_weight_decay": 0.0, "norm_weight_decay": 0.0}


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors this small only wait for a second thread."""
    torch.set_num_threads(1)


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.randn(16, 3, 8, 8)


def quantized_net(images, **options):
    torch.manual_seed(1)
    model, done = quantize_model(SmallNet(), 2, 2, **options)
    calibrate(model, [images])
    return model, done.sites


# --- schedule --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "steps", "warmup", "factor"),
    [
        (0, 100, 0, 1.0),
        (25, 100, 0, (2 + math.sqrt(2)) / 4),
        (50, 100, 0, 0.5),
        (75, 100, 0, (2 - math.sqrt(2)) / 4),
        (0, 100, 10, 0.1),
        (4, 100, 10, 0.5),
        (9, 100, 10, 1.0),
        (10, 100, 10, 1.0),
        (55, 100, 10, 0.5),
        (40, 100, 10, 0.75),
        (0, 1, 0, 1.0),
        (0, 4, 4, 0.25),
        (3, 4, 4, 1.0),
    ],
)
def test_lr_factor(step, steps, warmup, factor):
    assert lr_factor(step, steps, warmup) == pytest.approx(factor, rel=1e-15)


def test_lr_factor_falls_to_almost_nothing():
    factors = [lr_factor(step, 100) for step in range(100)]
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] == pytest.approx((math.pi / 200) ** 2, rel=1e-3)  # cosine near its end: x^2/4 with x = pi/100


@pytest.mark.parametrize(
    ("kind", "shares"),
    [
        ("constant", [1, 1, 1, 1]),
        ("linear", [0, 1 / 4, 1 / 2, 1]),
        ("cosine", [0, (2 - math.sqrt(2)) / 4, 1 / 2, 1]),
    ],
)
def test_ramp(kind, shares):
    assert [ramp(kind, p) for p in (0, 1 / 4, 1 / 2, 1)] == pytest.approx(shares, abs=1e-16)


def test_seeds_are_the_same_for_ever():
    """Other values would train every run with other batches: raise the signatures' version if that is meant."""
    assert seed_of(42, "br", 7) == 4230972822600304432
    assert seed_of(42, "weights") == 1218831237610215275
    assert len({seed_of(s, stage, e) for s in (1, 11) for stage in ("br", "float") for e in range(20)}) == 80


# --- parameter groups ------------------------------------------------------------------------------------------------


def test_each_parameter_is_in_one_group(images):
    model, _ = quantized_net(images, per_channel=True)
    groups = parameter_groups(model)
    names = [name for group in groups.values() for name in group]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert set(groups["weights"]) == {"conv1.weight", "conv2.weight", "conv3.weight", "fc.weight"}
    assert set(groups["alphas"]) == {name for name in names if name.endswith(".alpha")} and len(groups["alphas"]) == 7
    assert set(groups["norms"]) == {f"bn{i}.{kind}" for i in (1, 2, 3) for kind in ("weight", "bias")} | {
        "conv3.bias",
        "fc.bias",
    }


@pytest.mark.parametrize(("factory", "more"), [(torch.optim.SGD, {"momentum": 0.9}), (torch.optim.Adam, {})])
def test_alphas_have_their_own_rate_and_no_decay(images, factory, more):
    model, _ = quantized_net(images)
    optimizer = build_optimizer(factory, model, OPTIONS | more)
    set_lr(optimizer, 0.5)
    seen = {g["name"]: (g["initial_lr"], g["lr"], g["weight_decay"]) for g in optimizer.param_groups}
    assert seen == {"weights": (0.1, 0.05, 5e-4), "alphas": (0.02, 0.01, 0.0), "norms": (0.1, 0.05, 0.0)}


def test_a_parameter_twice_or_not_at_all_is_refused(images):
    model, _ = quantized_net(images)
    optimizer = build_optimizer(torch.optim.SGD, model, OPTIONS)
    left_out = optimizer.param_groups[0]["params"].pop()
    with pytest.raises(BrsweepError, match=r"not in exactly one group: fc\.weight$"):
        check_partition(optimizer, model)
    optimizer.param_groups[0]["params"].append(left_out)
    optimizer.param_groups[2]["params"].append(left_out)
    with pytest.raises(BrsweepError, match=r"not in exactly one group: fc\.weight$"):
        check_partition(optimizer, model)
    optimizer.param_groups[2]["params"][-1] = nn.Parameter(torch.zeros(2))
    with pytest.raises(BrsweepError, match="unknown"):
        check_partition(optimizer, model)


def test_an_option_that_the_optimizer_does_not_take(tmp_path):
    from brsweep.stages.setup import Setup

    config = small_runs.config("+float_optimizer.momentun=0.9", tmp_path=tmp_path)
    with pytest.raises(BrsweepError, match=r"^float_optimizer: torch\.optim\.SGD: .*momentun") as raised:
        Setup(config, None, torch.device("cpu")).optimizer(SmallNet(), "float_optimizer")
    assert "\n" not in str(raised.value)


def test_freezing_takes_the_alphas_out(images):
    model, sites = quantized_net(images)
    optimizer = build_optimizer(torch.optim.Adam, model, OPTIONS)
    F.cross_entropy(model(images), torch.zeros(16, dtype=torch.int64)).backward()
    optimizer.step()
    assert len(freeze_alphas(model, optimizer)) == len(sites)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]} | {id(p) for p in optimizer.state}
    assert not held & {id(site.quantizer.alpha) for site in sites}
    check_partition(optimizer, model)


# --- evaluation ------------------------------------------------------------------------------------------------------


def test_evaluation_is_quantized(images):
    """Against a forward pass written out with the paper's formula; labels are what the float network says."""
    model, _ = quantized_net(images)
    model.eval()
    float_net = SmallNet()
    float_net.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():  # take the favourite class's lead away, so that labels differ between images
        for net in (float_net, model):
            net.fc.bias -= float_net.eval()(images).mean(0) if net is float_net else model.fc.bias - float_net.fc.bias
    labels = float_net(images).argmax(1)
    assert len(labels.unique()) > 2
    score = evaluate(Learner(model.train(), None), [(images[:10], labels[:10]), (images[10:], labels[10:])], 5)
    assert model.training

    def quantized(values, quantizer):
        alpha, grid = quantizer.alpha, quantizer.grid
        return (values / alpha).clamp(grid.qn, grid.qp).round() * alpha

    with torch.no_grad():
        x, net = images, model.eval()
        for i, padding, stride in ((1, 1, 1), (2, 1, 1), (3, 0, 2)):
            conv, norm, relu = (net.get_submodule(f"{kind}{i}") for kind in ("conv", "bn", "relu"))
            weight = quantized(conv.weight, conv.weight_quantizer)
            x = F.conv2d(x, weight, conv.bias, padding=padding, stride=stride)
            x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
            x = quantized(x.relu(), relu.quantizer)
        logits = F.linear(x.mean((2, 3)), quantized(net.fc.weight, net.fc.weight_quantizer), net.fc.bias)
    by_hand = logits.argmax(1)
    assert score.accuracy == (by_hand == labels).double().mean().item() < 1
    assert score.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)  # float32 over 16 images
    confusion = torch.zeros(5, 5, dtype=torch.int64)
    for true, said in zip(labels.tolist(), by_hand.tolist(), strict=True):
        confusion[true, said] += 1
    assert torch.equal(score.confusion, confusion)


def test_reestimated_norms_are_the_mean_over_the_batches(images):
    net = SmallNet()
    before = copy.deepcopy(net.state_dict())
    batches = [images[:8], images[8:] * 3]
    new = with_reestimated_norms(net, iter(batches))
    received = [net.conv1(batch) for batch in batches]
    mean = sum(x.mean((0, 2, 3)) for x in received) / 2
    variance = sum(x.var((0, 2, 3), unbiased=True) for x in received) / 2
    torch.testing.assert_close(new.bn1.running_mean, mean, rtol=1e-5, atol=1e-6)  # float32 sums in another order
    torch.testing.assert_close(new.bn1.running_var, variance, rtol=1e-5, atol=1e-6)
    assert not new.training and torch.equal(new.conv1.weight, net.conv1.weight)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


# --- measurements ----------------------------------------------------------------------------------------------------


def loops(values, alpha, grid, near=0.01) -> SimpleNamespace:
    """One tensor's numbers, a value at a time, in double precision."""
    residuals = {k: [] for k in range(grid.qn, grid.qp + 1)}
    close = low = high = 0
    for v in values.double().flatten().tolist():
        k = code_of(v, alpha, grid.qn, grid.qp)
        residuals[k].append(v - k * alpha)
        close += abs(v - k * alpha) < near * alpha
        low += v / alpha < grid.qn
        high += v / alpha > grid.qp
    filled = [r for r in residuals.values() if r]
    means = [math.fsum(r) / len(r) for r in filled]
    n = values.numel()
    return SimpleNamespace(
        br_mean=math.fsum(m * m for m in means),
        br_variance=math.fsum(math.fsum((x - m) ** 2 for x in r) / len(r) for r, m in zip(filled, means, strict=True)),
        occupancy=[len(r) / n for r in residuals.values()],
        near=close / n,
        clip_low=low / n,
        clip_high=high / n,
    )


@pytest.fixture
def probed(images):
    model, sites = quantized_net(images)
    with torch.no_grad():
        for name, scale in (("conv2", 0.4), ("conv3", 1.7)):
            model.get_submodule(name).weight_quantizer.alpha.mul_(scale)
    return model, sites, Probe(model, sites, images)


def test_numbers_per_site_against_loops(probed):
    model, sites, probe = probed
    layers, received = probe.layers(None, {}, 1e-4), probe.values()
    assert layers["site"] == [s.name for s in sites] and model.training
    for i, site in enumerate(sites):
        wanted = loops(received[site.name], site.quantizer.alpha.item(), site.grid)
        for key, value in vars(wanted).items():
            assert layers[key][i] == pytest.approx(value, rel=1e-5, abs=1e-12), (site.name, key)  # residuals in float32
    assert max(layers["clip_low"]) > 0 and max(layers["clip_high"]) > 0 and max(layers["near"]) > 0
    assert layers["bits"] == [s.grid.bits for s in sites] and layers["low"] == [s.low for s in sites]
    assert set(layers["changed"]) == set(layers["pull_over_decay"]) == {None}


def test_activations_are_measured_before_the_quantizer_and_after_the_relu(probed, images):
    model, _, probe = probed
    model.eval()
    received = model.bn1(model.conv1(images)).relu()
    assert torch.equal(probe.values()["relu1"], received.detach())


def test_changed_counts_codes_and_not_values(probed):
    model, _, probe = probed
    changes = CodeChanges(probe, steps=3)
    conv = model.conv2
    alpha = conv.weight_quantizer.alpha.item()
    with torch.no_grad():
        flat = conv.weight.view(-1)
        flat[:] = torch.where(flat.abs() < alpha / 4, flat * 1.5, flat)  # within the bin of 0
        flat[:3] = torch.where(flat[:3] > 0, -2 * alpha, alpha)  # to another bin
    layers = probe.layers(changes, {}, 0.0)
    changed = dict(zip(layers["site"], layers["changed"], strict=True))
    assert changed["conv2"] == 3 / conv.weight.numel()
    assert changed["conv3"] == 0 and changed["relu1"] is None
    assert {value for value in layers["oscillating"] if value is not None} == {0.0}


def test_a_weight_oscillates_when_its_code_turns_round_and_not_when_it_goes_on_or_rests(probed):
    model, _, probe = probed
    conv = model.conv2
    alpha, flat = conv.weight_quantizer.alpha.item(), conv.weight.data.view(-1)
    paths = [[-2, -1, 0, 1, 1], [0, 1, 1, 0, 0], [0, 1, 0, 1, 1], [1, 1, 0, 0, -1], [0, 1, 1, 1, 0], [1, 0, 0, 0, 1]]
    turns = [False, True, True, False, True, True]
    flat[: len(paths)] = torch.tensor([path[0] * alpha for path in paths])
    changes = CodeChanges(probe, steps=4)
    for step in range(1, 5):
        flat[: len(paths)] = torch.tensor([path[step] * alpha for path in paths])
        if step < 4:  # the last is seen when the epoch is over
            changes.after_step(step - 1)
    shares = {name: float(turned) for name, (_, turned) in changes.shares().items()}
    assert shares.pop("conv2") == sum(turns) / conv.weight.numel()
    assert set(shares.values()) == {0.0}
    assert changes.turned["conv2"].view(-1)[: len(paths)].tolist() == turns


def test_an_epoch_is_looked_at_eight_times(probed):
    _, _, probe = probed
    changes, looks = CodeChanges(probe, steps=87), []
    changes._look = lambda: looks.append(None)
    for step in range(87):
        changes.after_step(step)
    assert len(looks) == 8


@pytest.mark.parametrize("per_channel", [False, True])
def test_pull_over_decay_is_the_ratio_of_the_gradients(images, per_channel):
    model, sites = quantized_net(images, per_channel=per_channel)
    probe = Probe(model, sites, images)
    layers = probe.layers(None, {"weight": 3.0, "act": 1.0}, 1e-4)
    ratios = dict(zip(layers["site"], layers["pull_over_decay"], strict=True))
    weight = model.conv2.weight.detach().clone().requires_grad_()
    penalty = BinRegularizer(2, signed=True).compute_bin_loss(weight, model.conv2.weight_quantizer.alpha.detach())
    (pull,) = torch.autograd.grad(3.0 * penalty, weight)
    assert ratios["conv2"] == pytest.approx((pull.norm() / (1e-4 * weight.norm())).item(), rel=1e-5)
    assert ratios["relu1"] is None


def test_penalty_totals_leave_out_the_ends(probed):
    _, sites, probe = probed
    layers, received = probe.layers(None, {}, 0.0), probe.values()
    totals = {"weight": 0.0, "act": 0.0}
    for site in sites:
        if site.low:
            numbers = loops(received[site.name], site.quantizer.alpha.item(), site.grid)
            totals[site.kind] += numbers.br_mean + numbers.br_variance
    assert penalty_totals(layers) == pytest.approx(totals, rel=1e-5)  # residuals in float32
    assert sum(not s.low for s in sites) == 3
    of_weights = {"kind": ["weight", "act"], "low": [True, False], "br_mean": [1.0, 2.0], "br_variance": [0.5, 1.0]}
    assert penalty_totals(of_weights) == {"weight": 1.5, "act": None}


def test_histograms_hold_every_value(probed):
    _, sites, probe = probed
    received = probe.values()
    for site in sites:
        seen = probe.histograms()[site.name]
        assert int(seen["counts"].sum()) + seen["below"] + seen["above"] == received[site.name].numel()
        steps = (received[site.name] / site.quantizer.alpha.clamp(min=ALPHA_FLOOR)).flatten()
        assert seen["below"] == int((steps < site.grid.qn - 1.5).sum())


def test_cells_of_a_histogram_are_told_apart_exactly():
    """Half-open cells of an eighth from -3.5 up to 2.5, on their edges and a rounding beside them; what lies outside,
    infinite values included, is numbered apart, and what is no number counts as below."""
    edges = torch.arange(-28, 21) / 8.0
    beside = torch.cat((edges, torch.nextafter(edges, torch.tensor(math.inf)), torch.nextafter(edges, -edges[-1:] * 9)))
    counts = _cell_counts(beside, -3.5, 2.5, 8)
    assert counts.dtype == torch.int64 and counts.tolist() == [1, *[3] * 48, 2]
    outside = torch.tensor([math.inf, -math.inf, 1e30, -1e30, 2.5, math.nan])
    assert _cell_counts(outside, -3.5, 2.5, 8).nonzero().flatten().tolist() == [0, 49]
    assert _cell_counts(outside, -3.5, 2.5, 8)[0] == 3
