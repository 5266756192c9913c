"""Parts of one's own, tried before anything trains: each mistake that a first pass shows is one line, and what is sound
begins."""

from __future__ import annotations

import pytest
import torch
from small_runs import config

from brsweep import kernels
from brsweep.errors import BrsweepError
from brsweep.models.tiny import tiny
from brsweep.quant import LSQQuantizer, Quantizer, quantize_model
from brsweep.quant.pact import PACTQuantizer
from brsweep.regularizers import BinRegularization, Regularizer
from brsweep.regularizers.dampening import Dampening
from brsweep.regularizers.kure import KURE
from brsweep.regularizers.regularizer import KINDS
from brsweep.stages import preflight
from brsweep.stages.trial import try_quantizers, try_regularizer

IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
NO_GRADIENT = "no gradient reaches its values"


class Rounded(LSQQuantizer):
    def forward(self, values):
        return self.codes(values).to(values.dtype) * self.step_size.detach()


class RoundedAlone(LSQQuantizer):
    def forward(self, values):
        return self.codes(values) * self.step_size


class Flat(LSQQuantizer):
    def forward(self, values):
        return super().forward(values).flatten()


class Narrow(LSQQuantizer):
    def forward(self, values):
        return super().forward(values).half()


class Listed(LSQQuantizer):
    def forward(self, values):
        return [values]


class Divided(LSQQuantizer):
    def forward(self, values):
        return super().forward(values) / (values - values)


class Noise(LSQQuantizer):
    """Values beside their levels, as an estimator with noise has them."""

    def forward(self, values):
        return super().forward(values) + (torch.rand_like(values) - 0.5) * self.along_axis(self.step_size, values)


def networks(quantizer: type[Quantizer] = LSQQuantizer, **options):
    model, done = quantize_model(tiny(4, 3, width=8), quantizer=quantizer, weight_bits=2, act_bits=2, **options)
    return model, done.sites


@pytest.mark.parametrize(
    ("quantizer", "says"),
    [
        (Rounded, rf"^Rounded.forward: {NO_GRADIENT}, .* values \+ \(quantized - values\).detach\(\)"),
        (RoundedAlone, rf"^RoundedAlone.forward: {NO_GRADIENT}"),
        (Flat, r"^Flat.forward: returns a tensor of \[512\], torch.float32 for values of \[8, 8, 4, 4\]"),
        (Narrow, r"returns a tensor of \[8, 8, 4, 4\], torch.float16 for values of \[8, 8, 4, 4\], torch.float32"),
        (Listed, "returns list for values"),
        (Divided, "of finite values it makes some that are not"),
    ],
)
def test_a_quantizer_that_cannot_train_is_named(quantizer, says):
    _, sites = networks(quantizer, per_channel=True)
    says = says.replace(r"\[512\]", r"\[\d+\]").replace(r"\[8, 8, 4, 4\]", r"\[\d+, 8, 4, 4\]")
    with pytest.raises(BrsweepError, match=says):
        try_quantizers(sites)


def test_quantizers_are_tried_by_the_reference_whatever_the_run_takes(monkeypatch):
    """They are tried on the CPU, where the run's choice need not work."""
    monkeypatch.setattr(kernels, "_choice", "triton")
    _, sites = networks(Noise)
    try_quantizers(sites)
    assert kernels.chosen("cpu") == "triton"


@pytest.mark.parametrize(
    ("quantizer", "per_channel"),
    [(LSQQuantizer, False), (LSQQuantizer, True), (Noise, False), (Noise, True), (PACTQuantizer, False)],
)
def test_a_quantizer_that_trains_is_left_as_it_is(quantizer, per_channel):
    model, sites = networks(quantizer, per_channel=per_channel)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try_quantizers(sites)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) or before[name].isnan().all() for name in before)


def penalty(name: str, of):
    return type(name, (Regularizer,), {"penalty": lambda self, collected: of(collected)})


def penalties(name: str, of):
    methods = {"penalty": lambda self, collected: None, "penalties": lambda self, collected: of(collected)}
    return type(name, (Regularizer,), methods)


def mean_of(collected):
    return torch.stack([entry.values.square().mean() for entry in collected.values()]).mean()


@pytest.mark.parametrize(
    ("regularizer", "says"),
    [
        (penalty("Forgot", lambda c: c.values**2), r"^Forgot.penalty of .* a tensor of .*; a 0-d tensor"),
        (penalty("Number", lambda c: c.values.square().mean().item()), r"^Number.penalty of .* gives float; a 0"),
        (penalty("Nothing", lambda c: None), "gives NoneType"),
        (penalty("Cut", lambda c: c.values.detach().square().mean()), "Cut.penalty of .* has no gradient, so"),
        (penalty("Below", lambda c: -c.values.square().mean()), r"gives -\S+ on made-up images; a penalty"),
        (penalty("Endless", lambda c: c.values.square().mean() / 0), "gives inf on made-up images"),
        (penalty("Unknown", lambda c: (c.values / 0).mean()), "gives nan on made-up images"),
        (penalties("One", lambda c: {"weight": mean_of(c)}), r"^One.penalties: gives \['weight'\]; a penalty for each"),
        (penalties("Bare", mean_of), r"^Bare.penalties: gives a tensor of \[\], torch.float32; a penalty for each of"),
        (penalties("Rows", lambda c: dict.fromkeys(KINDS, mean_of(c)[None])), "Rows.penalties, weight: gives a tensor"),
    ],
)  # fmt: skip
def test_a_penalty_that_is_no_number_of_the_values_is_named(regularizer, says):
    model, sites = networks()
    with pytest.raises(BrsweepError, match=says):
        try_regularizer(regularizer(1.0, 1.0), model, sites, IMAGES)


@pytest.mark.parametrize(
    "regularizer",
    [
        BinRegularization(1.0, 1.0), Dampening(1.0), KURE(1.0),
        penalty("Fine", lambda c: c.values.square().mean())(1.0, 0.5),
        penalties("Both", lambda c: dict.fromkeys({entry.site.kind for entry in c.values()}, mean_of(c)))(0.0, 1.0),
    ],
    ids=lambda r: type(r).__name__,
)  # fmt: skip
def test_a_penalty_that_is_sound_passes_and_leaves_the_network_as_it_is(regularizer):
    model, sites = networks()
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try_regularizer(regularizer, model, sites, IMAGES)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) or before[name].isnan().all() for name in before)
    assert not model.training and all(site.quantizer.collector is None for site in sites)


def test_the_choice_of_kernels_is_that_of_before():
    kernels.use("numba")
    try:
        with pytest.raises(ZeroDivisionError), kernels.using("reference"):
            assert kernels.chosen("cpu") == "reference"
            raise ZeroDivisionError
        assert kernels.chosen("cpu") == "numba"
    finally:
        kernels.use("auto")


def test_levels_of_a_quantizer_without_a_step_size_are_refused_before_anything_trains(tmp_path):
    pact = "quant/quantizer=pact"
    with pytest.raises(BrsweepError, match=r"^PACTQuantizer has no step size, so its values have no bins"):
        preflight.check_parts(config(pact, "regularizer=dampening", tmp_path=tmp_path))
    spread = penalty("Spread", lambda c: (c.values / c.alpha).square().mean())
    with pytest.raises(BrsweepError, match=r"^PACTQuantizer has no step size"):
        try_regularizer(spread(1.0, 0.0), *networks(PACTQuantizer), IMAGES)
    preflight.check_parts(config(pact, "regularizer=kure", tmp_path=tmp_path))
    preflight.check_parts(config(pact, "regularizer=br", "reg.lambda_weight=0", tmp_path=tmp_path))
