"""What a regularizer sees of a forward pass: the bins' sums (`collect`) and whole activations (the hook manager)."""

from __future__ import annotations

import pytest
import torch
from references import SmallNet

from brsweep.errors import BrsweepError
from brsweep.kernels import INSIDE_VALUES
from brsweep.quant import Site, SumRequest, calibrate, collect, quantize_model
from brsweep.regularizers import ActivationHookManager


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.randn(4, 3, 8, 8)


@pytest.fixture
def quantized(images):
    torch.manual_seed(1)
    model, done = quantize_model(SmallNet(), 2, 2)
    calibrate(model, [images])
    return model, done.sites


def taps(sites) -> list:
    return [site.quantizer.collector for site in sites if site.quantizer.collector is not None]


# --- collect ---------------------------------------------------------------------------------------------------------


def test_one_entry_per_site_in_order_with_its_alpha_and_grid(quantized, images):
    model, sites = quantized
    with collect(sites, weights=SumRequest(), activations=SumRequest()) as seen:
        model(images)
    assert sorted(seen) == sorted(site.name for site in sites)
    for site in sites:
        entry = seen[site.name]
        assert entry.site is site
        assert entry.alpha is site.quantizer.alpha
        assert entry.grid == site.grid
        assert entry.sums.shape == (3, site.grid.bins)
        assert entry.sums.dtype == torch.float64
    assert seen["conv2"].sums[0].sum().item() == model.conv2.weight.numel()
    assert seen["relu2"].sums[0].sum().item() == 4 * 6 * 8 * 8


def test_a_kind_that_is_not_asked_for_is_not_summed(quantized, images):
    model, sites = quantized
    for request, kind in (({"weights": SumRequest()}, "weight"), ({"activations": SumRequest()}, "act")):
        with collect(sites, **request) as seen:
            assert {tap.site.kind for tap in taps(sites)} == {kind}
            model(images)
        assert {entry.site.kind for entry in seen.values()} == {kind}


def test_outputs_are_the_same_to_the_bit_with_and_without_sums(quantized, images):
    model, sites = quantized
    model.eval()
    alone = model(images)
    with collect(sites, weights=SumRequest(), activations=SumRequest(INSIDE_VALUES)):
        assert torch.equal(model(images), alone)


def test_left_out_values_are_left_out(quantized, images):
    model, sites = quantized
    model.eval()
    with collect(sites, activations=SumRequest()) as every:
        model(images)
    with collect(sites, activations=SumRequest(INSIDE_VALUES)) as inside:
        model(images)
    counts = every["relu1"].sums[0] - inside["relu1"].sums[0]
    with ActivationHookManager(model) as hooks:
        model(images)
        steps = hooks.get_pre_quant_activations()["relu1"] / model.relu1.quantizer.alpha
    assert counts.tolist() == [0, 0, 0, (steps > 3).sum().item()]
    assert counts[3] > 0


def test_a_site_that_runs_twice_is_an_error(quantized, images):
    model, sites = quantized
    with (
        pytest.raises(BrsweepError, match="conv1: ran twice in one forward pass"),
        collect(sites, weights=SumRequest()),
    ):
        model(images)
        model(images)
    assert taps(sites) == []


def test_nothing_is_kept_after_it(quantized, images):
    model, sites = quantized
    state = {k: v.clone() for k, v in model.eval().state_dict().items()}
    with collect(sites, weights=SumRequest(), activations=SumRequest()) as seen:
        model(images)
    assert taps(sites) == []
    kept = len(seen)
    model(images)
    assert len(seen) == kept
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_an_exception_closes_it(quantized):
    _, sites = quantized
    with pytest.raises(RuntimeError, match="inside"), collect(sites, weights=SumRequest(), activations=SumRequest()):
        assert len(taps(sites)) == len(sites)
        raise RuntimeError("inside")
    assert taps(sites) == []


def test_one_inside_another_gives_way_and_hands_back(quantized, images):
    """A measurement during training, say: the inner one sees its pass alone, an exception in it included."""
    model, sites = quantized
    with collect(sites, weights=SumRequest()) as outer:
        with collect(sites, weights=SumRequest(), activations=SumRequest()) as inner:
            model(images)
        with pytest.raises(RuntimeError), collect(sites, activations=SumRequest()):
            raise RuntimeError
        assert outer == {}
        model(images)
    assert set(inner) == {site.name for site in sites}
    assert set(outer) == {site.name for site in sites if site.kind == "weight"}
    assert taps(sites) == []


def test_the_sums_are_differentiable(quantized, images):
    model, sites = quantized
    with collect(sites, activations=SumRequest()) as seen:
        model(images)
    seen["relu2"].sums[2].sum().backward()
    assert model.conv1.weight.grad.abs().sum() > 0
    assert model.conv2.weight.grad.abs().sum() > 0
    assert model.conv3.weight.grad is None


def test_two_sites_under_one_name_are_an_error(quantized, images):
    model, sites = quantized
    same = [sites[0], Site(sites[0].name, "weight", sites[2].quantizer)]
    with pytest.raises(BrsweepError, match="conv1: ran twice"), collect(same, weights=SumRequest()):
        model(images)
    assert taps(sites) == []


# --- the hook manager ------------------------------------------------------------------------------------------------


def hooks_left(model) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


def test_captures_what_each_quantizer_receives_in_order(images):
    torch.manual_seed(1)
    model, _ = quantize_model(SmallNet(), 2, 2, clip_value=0.5)
    calibrate(model, [images])
    received = {}
    handles = [
        getattr(model, name).register_forward_pre_hook(lambda _, x, name=name: received.update({name: x[0]}))
        for name in ("relu1", "relu2", "relu3")
    ]
    with ActivationHookManager(model) as hooks:
        model(images)
        captured = hooks.get_pre_quant_activations()
    assert list(captured) == ["relu1", "relu2", "relu3"]
    for name, values in captured.items():
        assert torch.equal(values, received[name].clamp(0, 0.5))
        assert values.max() == 0.5
    for handle in handles:
        handle.remove()
    assert hooks_left(model) == 0


def test_a_penalty_on_the_captured_reaches_the_weights(quantized, images):
    model, _ = quantized
    with ActivationHookManager(model) as hooks:
        model(images)
        penalty = hooks.get_pre_quant_activations()["relu2"].square().sum()
    penalty.backward()
    assert model.conv1.weight.grad.abs().sum() > 0
    assert model.conv2.weight.grad.abs().sum() > 0
    assert model.conv3.weight.grad is None


def test_a_second_pass_wants_a_clear(quantized, images):
    model, _ = quantized
    with ActivationHookManager(model) as hooks:
        model(images)
        first = hooks.get_pre_quant_activations()
        hooks.clear()
        assert hooks.get_pre_quant_activations() == {}
        model(2 * images)
        second = hooks.get_pre_quant_activations()
        with pytest.raises(BrsweepError, match="relu1: ran twice"):
            model(images)
    assert not torch.equal(first["relu1"], second["relu1"])
    assert hooks_left(model) == 0


def test_leaves_nothing_whatever_ended_it(quantized, images):
    model, _ = quantized
    manager = ActivationHookManager(model)
    with pytest.raises(RuntimeError), manager as hooks:
        model(images)
        assert hooks_left(model) == 3
        raise RuntimeError
    assert hooks_left(model) == 0
    assert manager.get_pre_quant_activations() == {}
    with manager as hooks:  # and opens again
        model(images)
        assert len(hooks.get_pre_quant_activations()) == 3
    assert hooks_left(model) == 0
