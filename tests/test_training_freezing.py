"""Freezing of weights that oscillate: against a loop over single weights, held against everything that moves them."""

import math

import numpy as np
import pytest
import small_runs
import torch
from stage_configs import CONFIG, changed
from torch import nn

from brsweep.config.schema import check_rules
from brsweep.errors import BrsweepError
from brsweep.quant.convert import quantize_model
from brsweep.quant.pact import PACTQuantizer
from brsweep.runs.words import schedule
from brsweep.stages.plan import identity, plan
from brsweep.training.freezing import WeightFreezing, low_weights

STEP = "brsweep.training.loop:train_step"
DATA = "digits:1"
OFTEN = (
    "schedule.qat_epochs=6", "freeze_weights.threshold=0.02", "freeze_weights.momentum=0.1", "qat_optimizer.lr=0.05",
)  # fmt: skip


def layer(bits: int = 3, **options):
    """A quantized linear layer with alpha 0.5, and its freezing."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
    net, done = quantize_model(net, bits, bits, first_last_bits=None, **options)
    with torch.no_grad():
        if net[0].weight_quantizer.alpha is not None:
            net[0].weight_quantizer.alpha.fill_(0.5)
    return net[0], done.sites


def by_hand(walk: np.ndarray, alpha: float, m: float, threshold) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frozen or not, frozen code and f of each weight, in float64, one weight after the other (algorithm 1)."""
    steps, count = walk.shape
    frozen, at, f = np.zeros(count, bool), np.zeros(count), np.zeros(count)
    code_of = lambda value: min(max(round(value / alpha), -4), 3)  # noqa: E731  Python's round is half to even as well
    for i in range(count):
        last, heading = code_of(walk[0, i]), 0
        average = float(last)
        for t in range(1, steps):
            code = int(at[i]) if frozen[i] else code_of(walk[t, i])
            move = np.sign(code - last)
            turned = move * heading < 0
            f[i] = m * turned + (1 - m) * f[i]
            average = m * code + (1 - m) * average
            heading, last = move or heading, code
            if not frozen[i] and f[i] > threshold((t - 1) / (steps - 1)):
                frozen[i], at[i] = True, round(average)
                last = at[i]
    return frozen, at, f


def test_it_is_the_papers_algorithm_weight_by_weight():
    linear, sites = layer()
    generator = np.random.default_rng(1)
    walk = np.cumsum(generator.normal(0, 0.2, (60, linear.weight.numel())), 0).astype(np.float32)
    walk[:, ::3] = 0.25 + 0.1 * np.sign(generator.normal(size=(60, 10)))  # to and fro over the border of two codes
    linear.weight.data = torch.tensor(walk[0]).view_as(linear.weight)
    freezing = WeightFreezing(linear_in(linear), sites, 0.3, 0.05, 0.1)
    for t in range(1, 60):
        linear.weight.data = torch.tensor(walk[t]).view_as(linear.weight)
        freezing.after_step((t - 1) / 59)
    frozen, at, f = by_hand(walk.astype(np.float64), 0.5, 0.1, freezing.threshold)
    state = freezing.state["0"]
    assert 3 < frozen.sum() < 30, "some freeze and some don't"
    assert np.array_equal(state.frozen.flatten().numpy(), frozen)
    assert np.array_equal(state.frozen_codes.flatten().numpy()[frozen], at[frozen])
    # f is float32 here, of 59 products and sums
    assert np.allclose(state.frequency.flatten().numpy(), f, rtol=0, atol=59 * 2**-24)
    held = linear.weight.detach().flatten().numpy()
    assert np.array_equal(held[frozen], at[frozen] * 0.5) and np.array_equal(held[~frozen], walk[-1][~frozen])
    assert freezing.record() == {"frozen_share": frozen.mean()}


def linear_in(linear: nn.Module) -> nn.Module:
    return nn.Sequential(linear, nn.ReLU())


def test_a_move_on_in_one_direction_is_no_oscillation():
    linear, sites = layer()
    linear.weight.data.fill_(-2)
    freezing = WeightFreezing(linear_in(linear), sites, 1e-6, 1e-6, 0.5)
    for t in range(20):
        linear.weight.data.fill_(-2 + 0.2 * t)
        freezing.after_step(0.5)
    assert freezing.record() == {"frozen_share": 0}
    for value in (1.5, 0.9):
        linear.weight.data.fill_(value)
        freezing.after_step(0.5)
    assert freezing.record() == {"frozen_share": 1}


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_frozen_weight_keeps_its_code_while_alpha_and_momentum_move(per_channel):
    linear, sites = layer(2, per_channel=per_channel)
    net = linear_in(linear)
    freezing = WeightFreezing(net, sites, 0.01, 0.01, 0.1)
    freezing.state["0"].frozen[:, :3] = True
    freezing.state["0"].frozen_codes[:, :3] = torch.tensor([-2, 0, 1], dtype=torch.int16)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1)
    alphas = []
    for _ in range(5):
        linear.weight.grad = torch.randn_like(linear.weight)
        linear.weight_quantizer.alpha.grad = torch.rand_like(linear.weight_quantizer.alpha)
        optimizer.step()
        freezing.after_step(0.0)
        alphas.append(linear.weight_quantizer.alpha.detach().clone())
        codes = linear.weight_quantizer.codes(linear.weight)
        assert torch.equal(codes[:, :3], torch.tensor([-2, 0, 1]).expand(5, 3).to(torch.int16))
        assert torch.equal(linear.weight_quantizer(linear.weight)[:, :3], linear.weight[:, :3]), "it sits on its level"
    assert not torch.equal(alphas[0], alphas[-1])


def test_the_threshold_waits_for_a_quarter_and_falls_as_a_cosine():
    linear, sites = layer()
    of = WeightFreezing(linear_in(linear), sites, 0.1, 0.01, 0.001).threshold
    assert of(0.0) == of(0.2499) == math.inf
    assert of(0.5) == pytest.approx(0.055) and of(1.0) == pytest.approx(0.01)
    assert of(0.25) == pytest.approx(0.01 + 0.09 * (1 + math.sqrt(0.5)) / 2)


def test_what_has_no_level_to_be_held_at_is_refused():
    _, sites = layer(2, quantizer=PACTQuantizer)
    with pytest.raises(BrsweepError, match=r"^freeze_weights\.threshold: 0: PACTQuantizer has no step size"):
        low_weights(sites, "freeze_weights.threshold")
    with pytest.raises(BrsweepError, match="no weight is at the low bit-width"):
        low_weights([site for site in sites if site.kind == "act"], "freeze_weights.threshold")
    rising = changed(freeze_weights__threshold=0.01, freeze_weights__threshold_end=0.02)
    with pytest.raises(BrsweepError, match=r"freeze_weights\.threshold_end=0\.02: the threshold falls"):
        check_rules(rising)


def test_only_the_last_stage_depends_on_it():
    frozen = changed(freeze_weights__threshold=0.1)
    plain, held = plan(CONFIG, DATA), plan(frozen, DATA)
    assert [a.signature == b.signature for a, b in zip(plain, held, strict=True)] == [True, True, False]
    assert [stage.freezes_weights for stage in held] == [False, False, True]
    off = changed(freeze_weights__momentum=0.5)
    assert identity(off, DATA) == identity(CONFIG, DATA), "it has no effect"
    assert schedule(frozen) == "s2-freezing"


def test_a_run_freezes_some_weights_and_the_share_never_falls(tmp_path):
    result = small_runs.train(*OFTEN, tmp_path=tmp_path)
    records = small_runs.lines(small_runs.folder(result) / "metrics.jsonl")
    shares = [record["frozen_share"] for record in records if record["stage"] == "br"]
    assert shares == sorted(shares) and 0 < shares[-1] < 1
    assert all("frozen_share" not in record for record in records if record["stage"] != "br")


@pytest.mark.parametrize("epoch", [4, 6, 7])
def test_it_goes_on_bit_for_bit(tmp_path, epoch):
    whole = small_runs.outcome(small_runs.folder(small_runs.train(*OFTEN, tmp_path=tmp_path / "whole")))
    small_runs.kill_at(STEP, epoch * small_runs.STEPS + 3, False, *OFTEN, tmp_path=tmp_path / "killed")
    again = small_runs.train(*OFTEN, tmp_path=tmp_path / "killed")
    assert small_runs.outcome(small_runs.folder(again)) == whole
