"""What stays float is named with its reason, in one warning; the ends stay where they are; the shares are counted."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from references import SmallNet
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from brsweep.errors import BrsweepError
from brsweep.quant import quantize_model

ASKED = "32 bits were asked for"


class Own(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.weight - self.weight.mean(), self.bias, padding=1)


def small(**layers: nn.Module) -> SmallNet:
    net = SmallNet()
    for name, layer in layers.items():
        setattr(net, name, layer)
    return net


def converted(net: nn.Module, *bits: int, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, done = quantize_model(net, *(bits or (2, 2)), **options)
    assert [str(w.message) for w in caught] == done.warnings
    return done


REASONS = {
    "a subclass": (small(conv2=Own(4, 6, 3)), {"conv2": "Own computes in a way of its own"}),
    "parametrized": (
        small(conv2=parametrizations.weight_norm(nn.Conv2d(4, 6, 3, padding=1))),
        {"conv2": "its weight is parametrized by WeightNorm"},
    ),
    "never called": (small(spare=nn.Linear(3, 3)), {"spare": "no step of the forward pass calls it"}),
    "no layer": (
        small(spare=nn.Embedding(3, 3)),
        {"spare": "a weight of Embedding, which is no convolution and no linear layer"},
    ),
    "attention": (
        small(spare=nn.MultiheadAttention(4, 2)),
        {
            "spare.in_proj_weight": "a weight of MultiheadAttention, which is no convolution and no linear layer",
            "spare.out_proj": "no step of the forward pass calls it",
        },
    ),
    "a list of them": (
        small(spare=nn.ParameterList([torch.zeros(2, 2), torch.zeros(2)])),
        {"spare.0": "a weight of ParameterList, which is no convolution and no linear layer"},
    ),
}


@pytest.mark.parametrize("name", REASONS)
def test_each_weight_that_stays_float_has_its_reason_and_all_have_one_warning(name):
    net, reasons = REASONS[name]
    done = converted(net, first_last_bits=None)
    assert done.left_float == reasons
    lines = [line for line in done.warnings if line.startswith("these weights stay float: ")]
    assert len(lines) == 1
    assert all(key in lines[0] and reason in lines[0] for key, reason in reasons.items())
    assert any(line.endswith(f"stays float: {next(iter(reasons.values()))}") for line in done.lines())


def test_what_was_asked_to_stay_float_needs_no_warning():
    net = small(conv2=Own(4, 6, 3))
    done = converted(net, first_last_bits=None, overrides={"conv2": 32, "relu2": 32})
    assert done.left_float == {"conv2": ASKED, "relu2": ASKED}
    assert done.warnings == []
    assert set(converted(net, 32, 2).left_float.values()) == {ASKED}
    assert converted(net, 32, 2).warnings == []


def test_bits_for_a_weight_that_can_not_have_them_are_an_error():
    with pytest.raises(BrsweepError, match=r"conv2 can't be quantized \(Own computes in a way of its own\); 32 leaves"):
        quantize_model(small(conv2=Own(4, 6, 3)), 2, 2, overrides={"conv2": 4})


def test_a_weight_that_a_layer_uses_and_the_forward_pass_reads_too_is_named():
    class Both(SmallNet):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) + self.conv2.weight.mean()

    done = converted(Both(), first_last_bits=None)
    assert done.left_float == {"conv2.weight": "read by the forward pass beside the layer's own call"}


@pytest.mark.parametrize("inplace", [False, True])
def test_relus_of_an_untraced_network_that_work_in_place_are_named(inplace):
    class Branches(SmallNet):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images if images.sum() > 0 else -images)

    net = Branches()
    net.relu2.inplace = inplace
    done = converted(net, first_last_bits=None)
    assert done.untraced
    assert done.unchecked == (("relu2",) if inplace else ())
    assert len(done.warnings) == 1 + inplace


# --- the ends --------------------------------------------------------------------------------------------------------


class Projected(nn.Module):
    """The first and the last product are with bare parameters, scaled by others."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.first, self.last = (nn.Parameter(torch.ones(*s)) for s in ((1, 6), (6, 6), (6, 6)))
        self.norm, self.a, self.r, self.b = nn.LayerNorm([1, 6]), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm((x * self.scale).unsqueeze(1)).squeeze(1) @ self.first.mT.clone()
        return torch.einsum("bi,oi->bo", self.b(self.r(self.a(h))), self.last)


FLOAT_ENDS = {
    "first": (small(conv1=Own(3, 4, 3)), ("conv1",), {"fc"}),
    "last": (small(fc=parametrizations.orthogonal(nn.Linear(6, 6))), ("fc",), {"conv1"}),
    "both": (small(conv1=Own(3, 4, 3), fc=parametrizations.orthogonal(nn.Linear(6, 6))), ("conv1", "fc"), set()),
    "bare": (Projected(), ("first", "last"), set()),
}


@pytest.mark.parametrize("name", FLOAT_ENDS)
def test_ends_that_stay_float_are_said_and_no_other_layer_takes_their_place(name):
    net, ends, eight = FLOAT_ENDS[name]
    done = converted(net)
    assert done.float_ends == ends
    assert {s.name for s in done.sites if s.kind == "weight" and s.grid.bits == 8} == eight
    assert f"first_last_bits: {' and '.join(ends)} can't be quantized" in "\n".join(done.warnings)
    assert converted(net, first_last_bits=None).float_ends == ()


def test_an_end_that_was_asked_to_stay_float_needs_no_warning():
    done = converted(small(conv1=Own(3, 4, 3)), overrides={"conv1": 32})
    assert (done.float_ends, done.left_float) == ((), {"conv1": ASKED})
    assert {s.name for s in done.sites if s.kind == "weight" and s.grid.bits == 8} == {"fc"}


def test_the_image_is_not_quantized_where_the_first_layer_can_not_be():
    with pytest.raises(BrsweepError, match=r"input_bits=8: the first layer stays float \(conv1\)"):
        quantize_model(small(conv1=Own(3, 4, 3)), 2, 2, input_bits=8)


# --- the share -------------------------------------------------------------------------------------------------------


def test_the_share_of_low_weights_is_counted_and_said_below_a_half():
    done = converted(SmallNet())  # the ends: 108 and 30
    assert (done.weights, done.low_weights, done.warnings) == (108 + 216 + 324 + 30, 216 + 324, [])
    done = converted(SmallNet(), overrides={"conv3": 32})
    assert done.warnings == ["fewer than half of the network's weights are at the low bit-width: 216 of 678 (31.9%)"]
    assert converted(SmallNet(), 32, 2).warnings == []


def test_a_tied_weight_counts_once():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU())
    net[2].weight = net[0].weight
    done = converted(net, first_last_bits=None)
    assert (done.weights, done.low_weights) == (16, 16)


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, np.int8])
def test_bits_may_be_any_integers(kind):
    options = {"first_last_bits": kind(8), "input_bits": kind(8), "overrides": {"conv2": kind(3)}}
    done = converted(SmallNet(), kind(2), kind(4), **options)
    assert {type(site.grid.bits) for site in done.sites} == {int}
    expected = converted(SmallNet(), 2, 4, first_last_bits=8, input_bits=8, overrides={"conv2": 3})
    assert [(s.name, s.grid) for s in done.sites] == [(s.name, s.grid) for s in expected.sites]
    assert converted(SmallNet(), kind(32), kind(32)).sites == ()
