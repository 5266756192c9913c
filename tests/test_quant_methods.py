"""The quantizers beside LSQ: each against its paper's formulas in double precision, and all against the contract."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
import yaml
from references import SmallNet, lsq_loop
from torch.nn.functional import cross_entropy

from brsweep import targets
from brsweep.errors import BrsweepError
from brsweep.kernels import ALPHA_FLOOR
from brsweep.quant import LSQQuantizer, calibrate, quantize_model
from brsweep.quant.ewgs import EWGSQuantizer
from brsweep.quant.grid import Grid
from brsweep.quant.least_squares import least_squares_range
from brsweep.quant.lsq_plus import LSQPlusQuantizer
from brsweep.quant.pact import PACTQuantizer
from brsweep.regularizers import BinRegularization
from brsweep.training.optim import build_optimizer, freeze_alphas

DOUBLE = 1e-12  # relative: a few roundings of double precision
FILES = sorted((Path(__file__).parents[1] / "conf/quant/quantizer").glob("*.yaml"))


def made(quantizer, **parameters):
    """In double precision, its parameters at these values."""
    quantizer = quantizer.double()
    quantizer.load_state_dict({name: torch.tensor(value, dtype=torch.float64) for name, value in parameters.items()})
    return quantizer


def gradients(quantizer, values: torch.Tensor, upstream: torch.Tensor):
    """(the result, the gradient of the values, those of the parameters by name) for a gradient from above."""
    values = values.clone().requires_grad_()
    quantizer.zero_grad(set_to_none=True)
    result = quantizer(values)
    result.backward(upstream)
    return result.detach(), values.grad, {name: p.grad for name, p in quantizer.named_parameters()}


def spread(grid: Grid, alpha: float, count: int = 200):
    """Values over the range and half of it more on each side, and a gradient for each, of both signs."""
    generator = torch.Generator().manual_seed(grid.bits)
    reach = 0.75 * grid.bins * alpha
    middle = alpha * (grid.qn + grid.qp) / 2
    values = middle + reach * (2 * torch.rand(count, generator=generator, dtype=torch.float64) - 1)
    return values, torch.randn(count, generator=generator, dtype=torch.float64)


# --- EWGS ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "signed"), [(2, True), (2, False), (4, True), (3, False)])
def test_ewgs_scales_each_gradient_by_its_distance_to_the_level(bits, signed):
    grid, alpha, delta = Grid(bits, signed), 0.37, 0.6
    values, upstream = spread(grid, alpha)
    result, got, parameters = gradients(made(EWGSQuantizer(bits, signed, delta=delta), alpha=alpha), values, upstream)
    slope = 0.0
    for v, g, out, dv in zip(values.tolist(), upstream.tolist(), result.tolist(), got.tolist(), strict=True):
        quantized, inside, by_alpha = lsq_loop(v, alpha, grid.qn, grid.qp)
        distance = (min(max(v, grid.qn * alpha), grid.qp * alpha) - quantized) / (alpha * (grid.qp - grid.qn))
        assert out == pytest.approx(quantized, rel=DOUBLE, abs=1e-15)
        assert dv == pytest.approx(g * inside * (1 + delta * math.copysign(1, g) * distance), rel=DOUBLE)
        slope += g * by_alpha
    assert parameters["alpha"].item() == pytest.approx(slope / math.sqrt(len(values) * grid.qp), rel=1e-10)


def test_ewgs_without_delta_is_lsq_to_the_bit():
    values, upstream = spread(Grid(2, True), 0.3)
    lsq = gradients(made(LSQQuantizer(2, True), alpha=0.3), values, upstream)
    ewgs = gradients(made(EWGSQuantizer(2, True, delta=0.0), alpha=0.3), values, upstream)
    assert torch.equal(lsq[0], ewgs[0]) and torch.equal(lsq[1], ewgs[1])
    assert torch.equal(lsq[2]["alpha"], ewgs[2]["alpha"])


@pytest.mark.parametrize("delta", [-0.1, math.nan, math.inf])
def test_ewgs_refuses_a_delta_that_is_none(delta):
    with pytest.raises(BrsweepError, match=r"delta=.*0 or more"):
        EWGSQuantizer(2, True, delta=delta)


# --- LSQ+ ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("offset", [-0.8, 0.0, 0.31])
def test_lsq_plus_is_lsq_of_the_shifted_values_and_its_offset_learns_beyond_the_range(bits, offset):
    grid, alpha = Grid(bits, False), 0.37
    values, upstream = spread(grid, alpha)
    values = values + offset
    quantizer = made(LSQPlusQuantizer(bits, False), alpha=alpha, offset=offset)
    result, got, parameters = gradients(quantizer, values, upstream)
    by_alpha = by_offset = 0.0
    for v, g, out, dv in zip(values.tolist(), upstream.tolist(), result.tolist(), got.tolist(), strict=True):
        quantized, inside, slope = lsq_loop(v - offset, alpha, grid.qn, grid.qp)
        assert out == pytest.approx(quantized + offset, rel=DOUBLE, abs=1e-15)
        assert dv == g * inside
        by_alpha += g * slope
        by_offset += g * (1 - inside)
    scale = 1 / math.sqrt(len(values) * grid.qp)
    assert parameters["alpha"].item() == pytest.approx(by_alpha * scale, rel=1e-10)
    assert parameters["offset"].item() == pytest.approx(by_offset * scale, rel=1e-10)


def test_lsq_plus_weights_start_at_three_standard_deviations():
    weights = torch.tensor([[1.0, 3.0, 2.0, 2.0], [-5.0, -1.0, -3.0, -3.0]])  # means 2, -3; std 0.5^0.5, 2^0.5
    for per_channel, expected in (
        (True, [(2 + 3 * 0.5**0.5) / 2, (3 + 3 * 2**0.5) / 2]),
        (False, (0.5 + 3 * weights.std(correction=0).item()) / 2),
    ):
        quantizer = LSQPlusQuantizer(2, True, per_channel=per_channel, channels=2)
        quantizer.init_from(weights)
        assert quantizer.offset is None
        assert quantizer.alpha.tolist() == pytest.approx(expected, rel=1e-6)


def test_lsq_plus_activations_start_on_a_grid_that_they_lie_on():
    """Values on the levels of -0.75, -0.25, 0.25, 0.75, ends included, leave no error: that range is found."""
    levels = torch.tensor([-0.75, -0.25, 0.25, 0.75])
    quantizer = LSQPlusQuantizer(2, False)
    quantizer.init_from(levels.repeat(50))
    assert (quantizer.alpha.item(), quantizer.offset.item()) == (0.5, -0.75)
    assert torch.equal(quantizer(levels).detach(), levels)


# --- the range of least squares -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "signed"), [(2, False), (4, False), (2, True), (8, False)])
def test_no_range_of_those_tried_has_less_error(bits, signed):
    grid = Grid(bits, signed)
    values = torch.randn(500, generator=torch.Generator().manual_seed(bits), dtype=torch.float64)
    values = values if signed else values.relu()

    def error(step, offset):
        codes = [min(max((v - offset) / step, grid.qn), grid.qp) for v in values.tolist()]
        return math.fsum((round(c) * step + offset - v) ** 2 for c, v in zip(codes, values.tolist(), strict=True))

    step, offset = least_squares_range(values, grid)
    least, lowest, highest = error(step, offset), min(values.min().item(), 0.0), values.max().item()
    for i in range(1, 65, 7):
        for j in range(0, 17, 4):
            other = (highest * i / 64 - lowest * j / 16) / (grid.qp - grid.qn)
            assert least <= error(other, lowest * j / 16 - grid.qn * other) * (1 + DOUBLE)


@pytest.mark.parametrize("values", [torch.zeros(5), torch.zeros(1)])
def test_values_that_are_all_zero_have_the_floor(values):
    assert least_squares_range(values, Grid(2, False)) == (ALPHA_FLOOR, 0.0)


# --- PACT and DoReFa --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_pact_clips_rounds_and_hands_the_gradient_beyond_the_clip_to_the_clip(bits):
    qp, clip = 2**bits - 1, 1.7
    values = torch.linspace(-1, 3, 81, dtype=torch.float64)
    upstream = torch.randn(81, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result, got, parameters = gradients(made(PACTQuantizer(bits, False), alpha=clip / qp), values.relu(), upstream)
    for v, g, out, dv in zip(values.relu().tolist(), upstream.tolist(), result.tolist(), got.tolist(), strict=True):
        assert out == pytest.approx(round(min(v, clip) * qp / clip) * clip / qp, rel=DOUBLE)
        assert dv == (g if v < clip else 0.0)
    beyond = math.fsum(g for v, g in zip(values.tolist(), upstream.tolist(), strict=True) if v >= clip)
    assert parameters["alpha"].item() == pytest.approx(beyond / qp, rel=DOUBLE)


def test_under_sgd_pacts_clip_moves_as_if_it_were_the_parameter():
    clip = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    quantizer = made(PACTQuantizer(2, False), alpha=1.7 / 3)
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2}
    theirs, ours = torch.optim.SGD([clip], **options), torch.optim.SGD(quantizer.parameters(), **options)
    for step in range(5):
        values = 3 * torch.rand(64, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        for optimizer in (theirs, ours):
            optimizer.zero_grad()
        torch.where(values < clip, values, clip).sum().div(64).backward()  # the paper's eqs. 1 and 3, before rounding
        quantizer(values).sum().div(64).backward()
        theirs.step()
        ours.step()
        assert quantizer.alpha.item() * 3 == pytest.approx(clip.item(), rel=DOUBLE)


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_dorefa_is_its_formula_and_keeps_the_first_standard_deviation(bits):
    steps = 2**bits - 1
    weights = 0.1 * torch.randn(6, 5, generator=torch.Generator().manual_seed(bits), dtype=torch.float64)
    quantizer = PACTQuantizer(bits, True).double()
    quantizer.init_from(weights)
    largest = math.tanh(weights.abs().max().item())
    unit = [math.tanh(w) / (2 * largest) + 0.5 for w in weights.flatten().tolist()]
    exact = torch.tensor([2 * round(u * steps) / steps - 1 for u in unit], dtype=torch.float64).view(6, 5)
    result, got, _ = gradients(quantizer, weights, torch.ones_like(weights))
    scale = (weights.std(correction=0) / exact.std(correction=0)).item()
    assert quantizer.scale.item() == pytest.approx(scale, rel=DOUBLE)
    assert torch.allclose(result, exact * scale, rtol=DOUBLE)
    smooth = weights.clone().requires_grad_()
    (2 * (smooth.tanh() / (2 * smooth.tanh().abs().max()) + 0.5) - 1).mul(scale).sum().backward()
    assert torch.allclose(got, smooth.grad, rtol=1e-10)
    assert quantizer.alpha is None


def test_dorefa_refuses_channels_and_one_bit():
    with pytest.raises(BrsweepError, match="one range per tensor"):
        PACTQuantizer(2, True, per_channel=True, channels=3)
    with pytest.raises(BrsweepError, match="more than one bit"):
        PACTQuantizer(1, True)


# --- the contract, for every quantizer that has a YAML file ----------------------------------------------------------


@pytest.fixture(params=FILES, ids=[path.stem for path in FILES])
def factory(request):
    node = yaml.safe_load(request.param.read_text())
    part = targets.locate("quant.quantizer", node.pop("_target_"))
    return lambda **given: part(**given, **node)


@pytest.fixture
def images():
    return torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network(factory, images):
    torch.manual_seed(1)
    model, done = quantize_model(SmallNet(), 2, 2, quantizer=factory)
    calibrate(model, [images])
    return model, done.sites


def trained(model, images, steps=3, regularization=None, sites=(), optimizer=None):
    options = {"lr": 0.05, "weight_decay": 1e-4, "alpha_lr": 0.05, "alpha_weight_decay": 0.0, "norm_weight_decay": 0.0}
    optimizer = optimizer or build_optimizer(torch.optim.SGD, model, options | {"momentum": 0.9})
    labels = torch.arange(len(images)) % 5
    for _ in range(steps):
        optimizer.zero_grad()
        if regularization is None:
            loss = cross_entropy(model(images), labels)
        else:
            with regularization.collect(sites) as collected:
                logits = model(images)
            loss = cross_entropy(logits, labels) + sum(regularization.penalties(collected).values())
        loss.backward()
        optimizer.step()
    return optimizer


def test_it_trains_every_parameter_and_stays_finite(factory, images):
    model, _ = network(factory, images)
    before = copy.deepcopy(model.state_dict())
    trained(model, images)
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all(), name
        without = name.endswith("conv3.bias") or (name.endswith("alpha") and not parameter.grad.any())
        # a bias in front of batch norm has no gradient but roundings; PACT's clip has none where no value is beyond it
        assert without or not torch.equal(parameter, before[name]), name


def test_forward_changes_no_state_and_is_the_same_in_both_modes(factory, images):
    model, sites = network(factory, images)
    for site in sites:
        values = model.get_submodule(site.name).weight if site.kind == "weight" else images.relu()
        before = copy.deepcopy(site.quantizer.state_dict())
        training, evaluating = site.quantizer.train()(values), site.quantizer.eval()(values)
        assert torch.equal(training, evaluating)
        assert all(torch.equal(before[key], value) for key, value in site.quantizer.state_dict().items())


def test_it_gives_no_more_levels_than_its_bits_and_they_are_fixed_points(factory, images):
    model, sites = network(factory, images)
    for site in sites:
        if site.grid.bits > 2:
            continue
        values = model.get_submodule(site.name).weight if site.kind == "weight" else images.relu()
        quantized = site.quantizer(values).detach()
        assert 1 < quantized.unique().numel() <= site.grid.bins, site.name
        if site.quantizer.alpha is not None:
            assert torch.allclose(site.quantizer(quantized), quantized, atol=1e-6), site.name


def test_bfloat16_values_come_back_as_such_from_numerics_in_float32(factory):
    quantizer = factory(bits=2, signed=False)
    values = torch.rand(300, generator=torch.Generator().manual_seed(2)).bfloat16()
    quantizer.init_from(values.float())
    assert torch.equal(quantizer(values), quantizer(values.float()).bfloat16())


def test_a_state_that_is_loaded_gives_the_same_bits(factory, images):
    model, _ = network(factory, images)
    trained(model, images)
    torch.manual_seed(7)
    again, _ = quantize_model(SmallNet(), 2, 2, quantizer=factory)
    again.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(images), again.eval()(images))


def test_what_sets_its_levels_freezes_to_the_bit(factory, images):
    model, _ = network(factory, images)
    optimizer = trained(model, images)
    frozen = freeze_alphas(model, optimizer)
    assert frozen
    before = {name: model.get_parameter(name).detach().clone() for name in frozen}
    trained(model, images, optimizer=optimizer)
    assert all(torch.equal(model.get_parameter(name), value) for name, value in before.items())


def test_bin_regularization_sees_it_or_names_what_it_can_not_see(factory, images):
    model, sites = network(factory, images)
    both = BinRegularization(reduction={"weight": "mean", "act": "mean"}, unit={"weight": "step", "act": "step"})
    if any(site.quantizer.alpha is None for site in sites):
        with pytest.raises(BrsweepError, match=r"has no step size.*reg.lambda_weight=0"):
            both.check(sites)
        both = BinRegularization(lambda_weight=0.0)
    both.check(sites)

    def penalty():
        with both.collect(sites) as collected:
            model(images)
        return sum(both.penalties(collected).values()).item()

    before = penalty()
    options = {"lr": 0.02, "weight_decay": 0.0, "alpha_lr": 0.0, "alpha_weight_decay": 0.0, "norm_weight_decay": 0.0}
    optimizer = build_optimizer(torch.optim.SGD, model, options)
    for _ in range(5):
        optimizer.zero_grad()
        with both.collect(sites) as collected:
            model(images)
        sum(both.penalties(collected).values()).backward()
        optimizer.step()
    assert 0 < penalty() < before
