"""The transition rate: against the paper's equations in float64, whatever the optimizer, and to the bit over a kill."""

import math

import numpy as np
import pytest
import small_runs
import torch
from stage_configs import CONFIG, changed
from torch import nn

from brsweep.errors import BrsweepError
from brsweep.quant.convert import quantize_model
from brsweep.quant.pact import PACTQuantizer
from brsweep.runs.words import alpha_control, schedule
from brsweep.stages.collapse import unsettled_line
from brsweep.stages.plan import identity, plan
from brsweep.sweep.compared import is_lsq, partners
from brsweep.training.optim import build_optimizer, check_partition, set_lr
from brsweep.training.schedule import lr_factor
from brsweep.training.transitions import (
    LATENT,
    TransitionRate,
    check_transitions,
    hold_step_sizes,
    moved,
    other_optimizer_line,
)

STEP = "brsweep.training.loop:train_step"
DATA = "digits:1"
ON = ("transition_rate.factor=0.02", "transition_rate.momentum=0.9")
ALPHA, FACTOR, MOMENTUM, GAIN, LR = 0.25, 0.05, 0.8, 3.0, 0.1
RATES = {"alpha_lr": 0.0, "weight_decay": 0.01, "alpha_weight_decay": 0.0, "norm_weight_decay": 0.0}


def network(bits: int = 3, ends: int | None = 8, **options):
    """Three linear layers, the middle one at the low bit-width, each alpha 0.25; in float64."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 4))
    net, done = quantize_model(net, bits, bits, first_last_bits=ends, **options)
    net.double()
    for site in done.sites:
        if site.quantizer.alpha is not None:
            site.quantizer.alpha.data.fill_(ALPHA)
    return net, done.sites


def optimizer_of(net: nn.Module, factory=torch.optim.SGD, **options) -> torch.optim.Optimizer:
    return build_optimizer(factory, net, {"lr": LR, **RATES, **options})


def codes_of(weight: np.ndarray, bits: int) -> np.ndarray:
    return np.clip(np.round(weight / ALPHA), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


@pytest.mark.parametrize(
    ("factory", "options", "ends"),
    [
        (torch.optim.SGD, {}, 8),
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}, None),
        (torch.optim.Adam, {}, None),
        (torch.optim.AdamW, {}, 8),
    ],
)
def test_it_is_equations_5_and_10_to_12(factory, options, ends):
    """A second network under the plain optimizer, its learning rate set to U step by step as the equations say it; the
    learning rate rises for five steps first. ends: 8 bits, or None where all three layers follow."""
    bits, steps = 3, 40
    (net, sites), (twin, _) = network(bits, ends), network(bits, ends)
    hold_step_sizes(sites)
    optimizer, plain = optimizer_of(net, factory, **options), optimizer_of(twin, factory, **options)
    rate = TransitionRate(net, sites, optimizer, FACTOR, MOMENTUM, GAIN)
    low = ["2.weight"] if ends else ["0.weight", "2.weight", "4.weight"]
    others = [dict(twin.named_parameters())[name] for name in low]
    codes = lambda: np.concatenate([codes_of(w.detach().numpy().ravel(), bits) for w in others])  # noqa: E731
    running, expected, last, seen = 0.0, LR * lr_factor(0, steps, 5), codes(), []
    generator = torch.Generator().manual_seed(1)
    for t in range(steps):
        factor = lr_factor(t, steps, 5)
        grads = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in net.parameters()]
        for ours, theirs, grad in zip(net.parameters(), twin.parameters(), grads, strict=True):
            ours.grad, theirs.grad = (grad.clone() if ours.requires_grad else None), grad.clone()
        k, last = (codes() != last).mean(), codes()
        running = MOMENTUM * running + (1 - MOMENTUM) * k
        expected = max(0.0, expected + GAIN * LR * (FACTOR * math.sqrt(bits) * factor - running))
        seen.append((k, expected))
        set_lr(optimizer, factor)
        set_lr(plain, factor)
        kept = [other.detach().clone() for other in others]
        rate.step()
        plain.step()
        for other, before in zip(others, kept, strict=True):
            other.data = before + (other.detach() - before) * expected / (LR * factor)  # g, from the update
        # float64: differences of numbers of size 1, over a factor that falls to 0.002, some 10 operations a step
        for name, other in zip(low, others, strict=True):
            weight = dict(net.named_parameters())[name]
            assert torch.allclose(weight, other, rtol=0, atol=steps * 10 * 2**-53 / 0.002)
        assert float(rate.running) == pytest.approx(running, rel=1e-12)
        assert float(rate.rate) == pytest.approx(expected, rel=1e-12)
    assert max(k for k, _ in seen) > 0.05 and 0.0 in [u for _, u in seen], "codes changed, and U met its floor"
    for (name, ours), theirs in zip(net.named_parameters(), twin.parameters(), strict=True):
        if ours.requires_grad and name not in low:
            assert torch.equal(ours, theirs), f"{name} keeps the learning rate"


@pytest.mark.parametrize(
    ("ends", "names"), [(8, ["weights", LATENT, "alphas", "norms"]), (None, [LATENT, "alphas", "norms"])]
)
def test_the_optimizer_still_holds_each_parameter_once(ends, names):
    net, sites = network(ends=ends)
    optimizer = optimizer_of(net, momentum=0.9)
    first = TransitionRate(net, sites, optimizer, FACTOR, MOMENTUM, GAIN)
    check_partition(optimizer, net)
    assert [group["name"] for group in optimizer.param_groups] == names
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter)
    first.step()
    again = optimizer_of(net, momentum=0.9)
    rate = TransitionRate(net, sites, again, FACTOR, MOMENTUM, GAIN)
    again.load_state_dict(optimizer.state_dict())
    for parameter in net.parameters():
        assert torch.equal(again.state[parameter]["momentum_buffer"], optimizer.state[parameter]["momentum_buffer"])
    set_lr(again, 0.25)
    rate.step()
    rates = {group["name"]: group["lr"] for group in again.param_groups}
    assert rates == {name: 0.0 if name == "alphas" else 0.25 * LR for name in names}, "as the schedule has them"


def test_a_weight_that_layers_share_moves_once_and_a_frozen_one_not():
    net, sites = network(ends=None)
    net[4].weight = net[2].weight = nn.Parameter(net[2].weight[:4].detach().clone())
    net[0].weight.requires_grad_(False)
    assert [weight is net[2].weight for weight, _ in moved(net, sites)] == [True]
    optimizer = optimizer_of(net, weight_decay=0.0)
    rate = TransitionRate(net, sites, optimizer, FACTOR, MOMENTUM, GAIN)
    held, before = net[0].weight.detach().clone(), net[2].weight.detach().clone()
    net[2].weight.grad = torch.ones_like(before)
    rate.step()
    assert torch.equal(net[0].weight, held)
    # an addition, a difference and a product in float64
    assert torch.allclose(net[2].weight, before - float(rate.rate), rtol=0, atol=1e-15)
    net[2].weight.requires_grad_(False)
    with pytest.raises(BrsweepError, match="no weight at the low bit-width trains"):
        moved(net, sites)


def test_bits_of_its_own_count_by_their_weights():
    net, sites = network(ends=4)  # 12 x 6 and 4 x 12 at the ends
    for site in sites:
        object.__setattr__(site, "low", True)
    rate = TransitionRate(net, sites, optimizer_of(net), FACTOR, MOMENTUM, GAIN)
    assert rate.first_target == pytest.approx(FACTOR * (144 * math.sqrt(3) + 120 * 2) / 264)


class Mine(torch.optim.SGD):
    """Calls its parent's step, as people's optimizers do."""

    def step(self, closure=None):
        return super().step(closure)


def test_an_optimizer_of_ones_own_moves_the_weights_as_its_parent_and_is_named():
    weights = []
    for factory in (Mine, torch.optim.SGD):
        net, sites = network()
        optimizer = optimizer_of(net, factory)
        rate = TransitionRate(net, sites, optimizer, FACTOR, MOMENTUM, GAIN)
        for parameter in net.parameters():
            parameter.grad = torch.ones_like(parameter)
        rate.step(), rate.step()
        weights.append(net[2].weight.detach())
        line = other_optimizer_line(optimizer)
        assert line is None if factory is torch.optim.SGD else line.startswith("transition_rate: Mine is not known")
    assert torch.equal(*weights)


def test_step_sizes_of_these_weights_stand_still_and_the_others_train():
    net, sites = network()
    assert hold_step_sizes(sites) == 1
    trained = {site.name: site.quantizer.alpha.requires_grad for site in sites}
    assert trained == {site.name: site.name != "2" for site in sites} and len(trained) > 2
    held = {id(p) for group in optimizer_of(net).param_groups for p in group["params"]}
    assert id(net[2].weight_quantizer.alpha) not in held


def test_where_it_would_do_nothing_it_is_refused():
    net, sites = network(2, quantizer=PACTQuantizer)
    with pytest.raises(BrsweepError, match=r"^transition_rate\.factor: 2: PACTQuantizer has no step size"):
        check_transitions(net, sites, 0.1, 0.005)
    net, sites = network()
    with pytest.raises(BrsweepError, match="no weight is at the low bit-width"):
        check_transitions(net, [site for site in sites if site.kind == "act"], 0.1, 0.005)
    with pytest.raises(BrsweepError, match=r"starts at qat_optimizer\.lr .* so at 0 they would never move"):
        check_transitions(net, sites, 0.0, 0.005)
    check_transitions(net, sites, 0.1, 0.577)
    with pytest.raises(BrsweepError, match=r"^transition_rate\.factor=0\.578: 1 of the codes can't change"):
        check_transitions(net, sites, 0.1, 0.578)


def test_what_is_said_of_the_step_sizes():
    on = {"transition_rate__factor": 0.005}
    assert (
        alpha_control(changed(**on)) == "of weights held; of activations trained by the task alone; BR's gradient "
        "is kept from it"
    )
    assert alpha_control(changed(**on, schedule__freeze_alpha=True)) == "frozen when the warm-up ends"
    weights = on | {"reg__lambda_act": 0.0}
    assert identity(changed(**weights), DATA) == identity(changed(**weights, reg__backprop_to_alpha=True), DATA)
    assert identity(changed(**on), DATA) != identity(changed(**on, reg__backprop_to_alpha=True), DATA)


def test_every_quantized_stage_depends_on_it_and_off_leaves_no_trace():
    on = changed(transition_rate__factor=0.005)
    plain, moved = plan(CONFIG, DATA), plan(on, DATA)
    assert [a.signature == b.signature for a, b in zip(plain, moved, strict=True)] == [True, False, False]
    assert [stage.follows_transitions for stage in moved] == [False, True, True]
    assert schedule(on) == "s2-transitions"
    without = {key: value for key, value in CONFIG.items() if key != "transition_rate"}
    assert identity(without, DATA) == identity(CONFIG, DATA) == identity(changed(transition_rate__momentum=0.5), DATA)
    assert [stage.signature for stage in plan(without, DATA)] == [stage.signature for stage in plain]


def test_it_is_compared_with_lsq():
    off = {"reg__lambda_weight": 0.0, "reg__lambda_act": 0.0}
    lsq, moved = changed(**off), changed(**off, transition_rate__factor=0.005)
    assert is_lsq(lsq) and not is_lsq(moved)
    assert partners([lsq, moved]) == {1: 0}


def records(result) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for record in small_runs.lines(small_runs.folder(result) / "metrics.jsonl"):
        found.setdefault(record["stage"], []).append(record)
    return found


def test_a_run_says_its_rates_and_carries_them_from_stage_to_stage(tmp_path):
    """At a target no weight comes near, U climbs in every step; anew in the last stage it would fall back to lr."""
    result = small_runs.train("transition_rate.factor=0.7", "regularizer=none", tmp_path=tmp_path)
    stages = records(result)
    assert "transition_rate" not in stages["float"][0]
    rates = [record["transition_lr"] for name in ("warmup", "br") for record in stages[name]]
    assert rates == sorted(rates) and rates[0] > result["config"]["qat_optimizer"]["lr"]
    steps, lr = small_runs.STEPS, result["config"]["qat_optimizer"]["lr"]
    assert stages["br"][0]["transition_lr"] > lr + steps * lr * 0.7 * math.sqrt(2), "more than one epoch can climb"
    assert all(0 < record["transition_rate"] < 1 for name in ("warmup", "br") for record in stages[name])


def test_a_run_whose_codes_do_not_settle_says_so(tmp_path, capsys):
    """At its end the target is nearly 0, and in 28 steps the rate hardly moves, so codes go on changing."""
    small_runs.train("transition_rate.factor=0.001", "regularizer=none", tmp_path=tmp_path)
    out = capsys.readouterr().out
    assert out.count("a larger transition_rate.gain (it is 1)") == 1 and "of the codes where 0.00% is the target" in out


def test_settled_is_a_tenth_of_the_first_target():
    options = {"gain": 5.0, "momentum": 0.99}
    assert unsettled_line({"transition_rate": 0.0019, "transition_target": 0.001}, options, 0.01) is None
    line = unsettled_line({"transition_rate": 0.0021, "transition_target": 0.001}, options, 0.01)
    assert "0.21% of the codes where 0.10% is the target" in line and "(it is 5)" in line
    assert unsettled_line({"transition_rate": 0.0041, "transition_target": 0.005}, options, 0.01) is None
    line = unsettled_line({"transition_rate": 0.0039, "transition_target": 0.005}, options, 0.01)
    assert "0.39% of the codes where 0.50% is the target: the weights' rate does not rise" in line


def test_a_run_that_diverges_names_what_moves_its_weights(tmp_path):
    with pytest.raises(BrsweepError, match=r"lower the learning rate, or transition_rate.gain$"):
        small_runs.train(*ON, "transition_rate.gain=1e30", "regularizer=none", tmp_path=tmp_path / "alone")
    with pytest.raises(BrsweepError, match=r"lower the learning rate or the lambdas$"):
        small_runs.train("qat_optimizer.lr=1e30", "schedule.warmup_epochs=0", tmp_path=tmp_path / "regularized")


def test_in_a_run_the_step_sizes_of_its_weights_stand_still(tmp_path):
    path = small_runs.folder(small_runs.train(*ON, "regularizer=none", tmp_path=tmp_path))
    epochs = small_runs.lines(path / "layers.jsonl")
    follows = [kind == "weight" and low for kind, low in zip(epochs[0]["kind"], epochs[0]["low"], strict=True)]
    alphas = np.array([epoch["alpha"] for epoch in epochs], dtype=float)
    still = (alphas == alphas[0]).all(0)
    assert still.tolist() == follows and sum(follows) == 2


@pytest.mark.parametrize(
    ("epoch", "others"), [(3, ()), (5, ()), (5, ("schedule.freeze_alpha=true", "freeze_weights.threshold=0.02"))]
)
def test_it_goes_on_bit_for_bit(tmp_path, epoch, others):
    words = (*ON, *others)
    whole = small_runs.outcome(small_runs.folder(small_runs.train(*words, tmp_path=tmp_path / "whole")))
    small_runs.kill_at(STEP, epoch * small_runs.STEPS + 3, False, *words, tmp_path=tmp_path / "killed")
    again = small_runs.train(*words, tmp_path=tmp_path / "killed")
    assert small_runs.outcome(small_runs.folder(again)) == whole
