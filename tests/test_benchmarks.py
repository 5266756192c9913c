"""The benchmark measures what it says: the textbook forms are the same mathematics, and its ratios are exact."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from benchmarks.step import measure, ratio, variants
from benchmarks.textbook import TextbookLSQ, loop_penalty
from brsweep.quant import LSQQuantizer
from brsweep.regularizers import BinRegularizer


@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize("signed", [True, False])
def test_textbook_lsq_has_our_values_and_gradients(bits, signed):
    values = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(bits))
    upstream = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(9))
    seen = []
    for kind in (LSQQuantizer, TextbookLSQ):
        quantizer, leaf = kind(bits, signed), values.clone().requires_grad_()
        quantizer.init_from(values)
        quantized = quantizer(leaf)
        quantized.backward(upstream)
        seen.append((quantized.detach(), leaf.grad, quantizer.alpha.grad))
    for ours, theirs in zip(*seen, strict=True):
        # the detach trick and the multiplications round in float32, about 1e-7 each
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 4])
def test_the_loop_has_our_penalty(bits):
    values = torch.randn(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(bits))
    alpha = torch.tensor(3 / 2**bits, dtype=torch.float64)
    ours = BinRegularizer(bits, signed=True).compute_bin_loss(values, alpha)
    loop = loop_penalty(values, alpha, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    torch.testing.assert_close(ours, loop, rtol=1e-12, atol=0)


def test_every_form_of_a_step_starts_from_the_same_loss():
    """Same weights, same batch: one step each, and the task loss before it agrees to float32's rounding."""
    found = variants("resnet20", [2], 2, torch.device("cpu"))
    assert len(found) == 10
    losses = {}
    for name, variant in found.items():
        variant.step()
        totals = variant.totals.read()
        losses[name] = (totals.task_loss, totals.penalty_weight, totals.penalty_act)
    quantized = [loss[0] for name, loss in losses.items() if name != "float"]
    assert quantized == pytest.approx([quantized[0]] * 9, rel=1e-3)  # codes at a border may fall to the other side
    for column, suffix in ((1, "+BR(W)"), (2, "+BR(W+A)")):
        penalties = [loss[column] for name, loss in losses.items() if suffix in name]
        assert len(penalties) == 3 and penalties[0] > 0
        assert penalties == pytest.approx([penalties[0]] * 3, rel=1e-3)


def test_ratio_and_its_interval():
    assert ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]) == (2.0, 2.0, 2.0)
    middle, low, high = ratio([1.0, 2.0, 9.0, 2.0, 3.0], [1.0] * 5)
    assert low <= middle == 2.0 <= high and low < high


def test_each_step_runs_once_a_round_and_once_before():
    calls = {"a": 0, "b": 0}

    def step(name):
        calls[name] += 1

    seconds = measure({name: lambda name=name: step(name) for name in calls}, rounds=3)
    assert calls == {"a": 4, "b": 4} and [len(times) for times in seconds.values()] == [3, 3]


@pytest.mark.slow
def test_the_command_writes_its_table_and_its_figures(tmp_path):
    typed = ["--bits", "2", "--rounds", "2", "--batch-size", "4", "--json", str(tmp_path / "step.json")]
    done = subprocess.run([sys.executable, "-m", "benchmarks.step", *typed], capture_output=True, text=True, check=True)
    rows = json.loads((tmp_path / "step.json").read_text())["rows"]
    assert len(rows) == 11 and all(f"| {name} |" in done.stdout for name in rows)
    assert rows["textbook LSQ+BR(W+A) 2 bits"]["saved_bytes"] > rows["LSQ+BR(W+A) 2 bits"]["saved_bytes"]
