"""The packed integers: every code and step size comes back, the table counts what is there, and what has no integers is
refused by name."""

from __future__ import annotations

import json
import math
import re
import sys

import numpy as np
import pytest
import small_runs
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

import brsweep
from brsweep.errors import BrsweepError
from brsweep.export import extra
from brsweep.export.codes import pack, unpack
from brsweep.export.costs import costs
from brsweep.export.levels import levels_of
from brsweep.export.plain import plain_network
from brsweep.export.program import Program
from brsweep.export.write import export
from brsweep.quant import LSQQuantizer
from brsweep.quant.grid import Grid

pytest.importorskip("safetensors")
SHORT = ("schedule.float_epochs=1", "schedule.warmup_epochs=1", "schedule.qat_epochs=2")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("codes")


@pytest.fixture(scope="module")
def network(place):
    """W3A2, per channel, the image quantized, ReLUs clipped: a grid that fills no byte, and every kind of site."""
    options = ("quant.weight_bits=3", "quant.per_channel=true", "quant.input_bits=8", "quant.clip_value=1")
    return brsweep.load(small_runs.train(*SHORT, *options, tmp_path=place), device="cpu")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.booleans(), st.data())
def test_packing_loses_nothing_and_takes_the_bits_that_it_says(bits, signed, data):
    grid = Grid(bits, signed)
    shape = data.draw(st.sampled_from([(1,), (7,), (3, 2, 3, 3), (2, 5)]))
    codes = data.draw(arrays(np.int16, shape, elements=st.integers(grid.qn, grid.qp)))
    packed = pack(codes, bits, grid.qn)
    assert packed.nbytes == math.ceil(codes.size * bits / 8)
    assert np.array_equal(unpack(packed, shape, bits, grid.qn), codes)


def test_four_two_bit_weights_fill_a_byte_lowest_first():
    assert pack(np.array([-2, 1, 0, -1, 1]), 2, -2).tolist() == [0 + (3 << 2) + (2 << 4) + (1 << 6), 3]


def test_the_files_hold_the_network(network, tmp_path):
    """From the two files alone: the levels of each weight are those that the trained network computes with."""
    from safetensors.numpy import load_file

    export(network, tmp_path, ["codes"], check=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["codes.json", "codes.safetensors"]
    meaning, tensors = json.loads((tmp_path / "codes.json").read_text()), load_file(tmp_path / "codes.safetensors")
    weights = [site for site in network.conversion.sites if site.kind == "weight"]
    assert [of["name"] for of in meaning["weights"]] == [site.name for site in weights]
    for of, site in zip(meaning["weights"], weights, strict=True):
        codes = unpack(tensors[of["codes"]], of["shape"], of["bits"], of["lowest"])
        layer = network.model.get_submodule(site.name)
        expected = layer.weight_quantizer(layer.weight).detach().numpy()
        assert np.array_equal(codes.astype(np.float32) * tensors[of["steps"]], expected)
        assert tensors[of["codes"]].nbytes == math.ceil(layer.weight.numel() * site.grid.bits / 8)
    acts = {site.name: site for site in network.conversion.sites if site.kind == "act"}
    assert [of["name"] for of in meaning["activations"]] == list(acts)
    for of in meaning["activations"]:
        quantizer = acts[of["name"]].quantizer
        assert tensors[of["step"]] == quantizer.alpha.detach().numpy()
        assert (of["lowest"], of["bits"]) == (quantizer.grid.qn, quantizer.grid.bits)
        if not of["name"].endswith(".input"):
            assert of["highest"] == int(quantizer.codes(torch.tensor(1.0)))  # the clip's own code
    state = network.model.state_dict()
    kept = {name for name in tensors if name in state}
    assert all(np.array_equal(tensors[name], state[name].numpy()) for name in kept)
    floats = {n for n in state if "quantizer" not in n and "num_batches" not in n}
    assert kept == floats - {f"{site.name}.weight" for site in weights}


def test_the_table_counts_what_the_layers_do(network):
    """Against hooks on the layers and, for one image, the sums of the definition."""
    layers = {cost.name: cost for cost in costs(Program(network, levels_of(network)))}
    seen = {}
    names = {m: name for name, m in network.model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    count = lambda m, _, out: seen.update({names[m]: out.numel() * m.weight[0].numel()})  # noqa: E731
    hooks = [module.register_forward_hook(count) for module in names]
    network.logits(np.zeros((1, 8, 8, 3), np.uint8))
    for hook in hooks:
        hook.remove()
    assert set(layers) == {*seen, "other"}
    assert {name: cost.macs for name, cost in layers.items() if name != "other"} == seen
    first, second = layers["conv1"], layers["stages.1.0.conv1"]
    assert (first.weight_bits, first.input_bits) == (8, 8) and (second.weight_bits, second.input_bits) == (3, 2)
    assert second.bit_operations == second.macs * 6
    channels, count = second.shape[0], math.prod(second.shape)
    assert second.bytes == math.ceil((count * 3 + channels * 32) / 8) and second.bytes_float32 == 4 * count
    assert layers["fc"].input_bits == 32  # a mean of levels is no level
    state = network.model.state_dict()
    floats = sum(v.numel() for k, v in state.items() if v.dim() == 1 and "quantizer" not in k)
    assert layers["other"].parameters == floats


def test_the_plain_network_is_the_trained_one_to_the_bit(network):
    images = network.preprocess(np.random.default_rng(0).integers(0, 256, (32, 8, 8, 3), dtype=np.uint8))
    plain = plain_network(network, levels_of(network))
    with torch.no_grad():
        assert torch.equal(plain(images), network.model(images))
    assert not [m for m in plain.modules() if isinstance(m, LSQQuantizer)]


class Soft(LSQQuantizer):
    def forward(self, values):
        return super().forward(values) * 0.9 + values * 0.1


@pytest.mark.parametrize("kind, says", [(Soft, "gives values that are not its levels"), (LSQQuantizer, "an offset")])
@pytest.mark.parametrize("site", ["weight", "act"])
def test_a_quantizer_without_integers_is_named(place, kind, says, site):
    network = brsweep.load(small_runs.train(*SHORT, tmp_path=place), device="cpu")
    chosen = next(s for s in network.conversion.sites if s.kind == site and s.low)
    if kind is Soft:
        chosen.quantizer.__class__ = Soft
    else:
        chosen.quantizer.offset = nn.Parameter(torch.tensor(0.1))
    with pytest.raises(BrsweepError, match=f"^{re.escape(chosen.name)}: .*{says}"):
        levels_of(network)


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.delitem(sys.modules, "safetensors.numpy", raising=False)
    with pytest.raises(BrsweepError, match=r"safetensors is not installed: pip install brsweep\[export\]"):
        extra.wanted("safetensors.numpy")
