"""The regularizers beside BR: each against its paper's formula in double precision, and all against the contract."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import yaml
from references import SmallNet, code_of

from brsweep import targets
from brsweep.errors import BrsweepError
from brsweep.quant import LSQQuantizer, Site, calibrate, quantize_model
from brsweep.quant.lsq_plus import LSQPlusQuantizer
from brsweep.quant.sites import Collected
from brsweep.regularizers.dampening import Dampening
from brsweep.regularizers.kure import KURE
from brsweep.regularizers.oscillation_aware import OscillationAware

DOUBLE = 1e-12  # relative: a few roundings of double precision
FILES = sorted((Path(__file__).parents[1] / "conf/regularizer").glob("*.yaml"))
ALPHA = 0.3


def weight_site(alpha=ALPHA, channels: int | None = None, quantizer=LSQQuantizer) -> Site:
    quantizer = quantizer(2, True, per_channel=channels is not None, channels=channels or 1).double()
    quantizer.load_state_dict({"alpha": torch.as_tensor(alpha, dtype=torch.float64)})
    return Site("conv", "weight", quantizer)


def weights(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return (0.4 * torch.randn(*shape, generator=generator, dtype=torch.float64)).requires_grad_()


def collected(regularizer, site: Site, values: torch.Tensor) -> Collected:
    with regularizer.collect([site]) as entries:
        site.quantizer(values)
    return entries[site.name]


# --- dampening --------------------------------------------------------------------------------------------------------


def test_dampening_pulls_what_is_inside_the_range_to_its_level_kernel_by_kernel():
    values = weights(4, 3, 2, 2)
    penalty = Dampening().penalty(collected(Dampening(), weight_site(), values))
    penalty.backward()
    expected, pulls = 0.0, []
    for kernel in values.detach():
        squares = []
        for v in kernel.flatten().tolist():
            residual = min(max(v, -2 * ALPHA), ALPHA) - code_of(v, ALPHA, -2, 1) * ALPHA
            squares.append(residual**2)
            pulls.append(2 * residual / kernel.numel() if -2 <= v / ALPHA <= 1 else 0.0)
        expected += math.fsum(squares) / len(squares)
    assert penalty.item() == pytest.approx(expected, rel=DOUBLE)
    assert values.grad.flatten().tolist() == pytest.approx(pulls, rel=DOUBLE, abs=1e-15)
    assert 0.0 in pulls, "some of these weights are beyond the range"


def test_dampening_moves_no_step_size_and_takes_one_per_channel():
    site, values = weight_site([0.2, 0.3, 0.5, 0.9], 4), weights(4, 3)
    Dampening().penalty(collected(Dampening(), site, values)).backward()
    assert site.quantizer.alpha.grad is None
    each = [
        Dampening().penalty(collected(Dampening(), weight_site(a), values[i : i + 1])).item()
        for i, a in enumerate((0.2, 0.3, 0.5, 0.9))
    ]
    whole = Dampening().penalty(collected(Dampening(), site, values)).item()
    assert whole == pytest.approx(sum(each), rel=DOUBLE)


def test_dampening_goes_by_the_levels_of_a_quantizer_with_an_offset():
    quantizer = LSQPlusQuantizer(2, False).double()
    state = {"alpha": torch.tensor(0.5), "offset": torch.tensor(-0.75)}
    quantizer.load_state_dict({name: value.double() for name, value in state.items()})
    values = torch.tensor([[-0.75, -0.25, 0.35, 2.0]], dtype=torch.float64)
    entry = Collected(Site("conv", "weight", quantizer), values=values)
    assert Dampening().penalty(entry).item() == pytest.approx(0.1**2 / 4, rel=DOUBLE)


# --- kurtosis ---------------------------------------------------------------------------------------------------------


def test_kure_is_the_distance_of_the_fourth_moment_to_that_of_a_uniform_distribution():
    values = weights(5, 4)
    flat = values.detach().flatten().tolist()
    mean = math.fsum(flat) / 20
    second = math.fsum((v - mean) ** 2 for v in flat) / 20
    kurtosis = math.fsum((v - mean) ** 4 for v in flat) / 20 / second**2
    entry = Collected(weight_site(), values=values)
    assert KURE().penalty(entry).item() == pytest.approx((kurtosis - 1.8) ** 2, rel=DOUBLE)
    assert torch.autograd.gradcheck(lambda v: KURE().penalty(Collected(weight_site(), values=v)), values)


def test_two_values_have_kurtosis_one_and_evenly_spread_ones_pay_nothing():
    two = torch.tensor([-1.0, 1.0]).double()
    assert KURE().penalty(Collected(weight_site(), values=two)).item() == pytest.approx(0.64, rel=DOUBLE)
    even = torch.linspace(-1, 1, 10_001, dtype=torch.float64)  # kurtosis 1.8 (1 - O(1/n^2))
    assert KURE().penalty(Collected(weight_site(), values=even)).item() < 1e-12
    equal = torch.ones(9).requires_grad_()
    KURE().penalty(Collected(weight_site(), values=equal)).backward()
    assert torch.isfinite(equal.grad).all()


def test_kure_is_a_mean_over_layers():
    entries = {name: Collected(Site(name, "weight", weight_site().quantizer), values=weights(3, n)) for name, n in
               (("a", 5), ("b", 7))}  # fmt: skip
    mean = sum(KURE().penalty(entry).item() for entry in entries.values()) / 2
    assert KURE().penalties(entries)["weight"].item() == pytest.approx(mean, rel=DOUBLE)
    assert KURE().penalties({}) == {}


# --- oscillation-aware ------------------------------------------------------------------------------------------------


def test_oscillation_aware_adds_the_mean_distance_and_the_variance_of_each_bin():
    values, site, regularizer = weights(6, 5), weight_site(), OscillationAware()
    penalty = regularizer.penalty(collected(regularizer, site, values))
    flat = values.detach().flatten().tolist()
    codes = [code_of(v, ALPHA, -2, 1) for v in flat]
    expected = math.fsum((v - c * ALPHA) ** 2 for v, c in zip(flat, codes, strict=True)) / len(flat)
    for k in range(-2, 2):
        inside = [v for v, c in zip(flat, codes, strict=True) if c == k]
        mean = math.fsum(inside) / len(inside)
        expected += math.fsum((v - mean) ** 2 for v in inside) / len(inside)
    assert penalty.item() == pytest.approx(expected, rel=DOUBLE)
    penalty.backward()
    assert site.quantizer.alpha.grad is None or site.quantizer.alpha.grad.item() == 0


def test_oscillation_aware_per_channel_is_the_mean_over_channels():
    values, alphas, regularizer = weights(3, 20), [0.2, 0.3, 0.5], OscillationAware()
    whole = regularizer.penalty(collected(regularizer, weight_site(alphas, 3), values)).item()
    each = [regularizer.penalty(collected(regularizer, weight_site(a), values[i])).item() for i, a in enumerate(alphas)]
    assert whole == pytest.approx(sum(each) / 3, rel=DOUBLE)


# --- the contract, for every regularizer that has a YAML file --------------------------------------------------------


@pytest.mark.parametrize("kind", [Dampening, KURE, OscillationAware])
def test_a_penalty_on_weights_refuses_a_lambda_for_activations(kind):
    with pytest.raises(BrsweepError, match=f"reg.lambda_act=0.5: {kind.__name__} is a penalty on weights"):
        kind(lambda_act=0.5)


@pytest.fixture(params=[path for path in FILES if path.stem not in ("none", "br")], ids=lambda path: path.stem)
def regularizer(request):
    node = yaml.safe_load(request.param.read_text())
    node.pop("defaults", None)
    return targets.locate("reg", node.pop("_target_"))(**node)


@pytest.fixture
def images():
    return torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("per_channel", [False, True])
def test_minimising_it_lowers_it_and_leaves_the_step_sizes_alone(regularizer, images, per_channel):
    torch.manual_seed(1)
    model, done = quantize_model(SmallNet(), 2, 2, per_channel=per_channel)
    calibrate(model, [images])
    regularizer.check(done.sites)
    before = {site.name: site.quantizer.alpha.detach().clone() for site in done.sites}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    history = []
    for _ in range(6):
        with regularizer.collect(done.sites) as entries:
            model(images)
        penalties = regularizer.penalties(entries)
        assert all(value.shape == () and value.dtype == torch.float64 for value in penalties.values())
        history.append(penalties["weight"].item())
        optimizer.zero_grad()
        penalties["weight"].backward()
        optimizer.step()
    assert 0 < history[-1] < history[0]
    assert all(torch.equal(site.quantizer.alpha, before[site.name]) for site in done.sites)
    assert all(site.quantizer.collector is None for site in done.sites)
