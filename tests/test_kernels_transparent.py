"""The op in operators that a compiler can fuse: the reference's codes, outputs and gradients, compiled or not."""

from __future__ import annotations

import math
import shutil

import pytest
import torch

from brsweep import kernels
from brsweep.errors import BrsweepError
from brsweep.kernels import ALL_VALUES, INSIDE_VALUES, NO_SUMS, fake_quantize, reference
from brsweep.kernels.op import OpOptions, apply
from brsweep.kernels.transparent import Transparent


def answers(op, values, alpha, options: OpOptions) -> tuple[torch.Tensor, ...]:
    """Outputs, sums and both gradients, under fixed gradients of outputs and sums."""
    values, alpha = values.clone().requires_grad_(), alpha.clone().requires_grad_()
    quantized, sums = op(values, alpha, options)
    draw = torch.Generator().manual_seed(1)
    loss = (quantized * torch.randn(quantized.shape, generator=draw)).sum()
    if options.sums != NO_SUMS:
        loss = loss + (sums * torch.randn(sums.shape, generator=draw, dtype=torch.float64)).sum()
    loss.backward()
    return quantized.detach(), sums.detach(), values.grad, alpha.grad


def by_reference(values, alpha, options):
    return apply(values, alpha, options, reference)


def by_transparent(values, alpha, options):
    return Transparent.apply(values, alpha, options)


@pytest.mark.parametrize("ceiling", [None, math.inf, 0.9])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("sums", [NO_SUMS, ALL_VALUES, INSIDE_VALUES])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_it_is_the_reference(bits, sums, per_channel, ceiling):
    low, high = (0, 1) if bits == 1 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    values = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(bits)) * 1.5
    alpha = torch.full((3,) if per_channel else (), 3 / 2**bits)
    values[0, 0, 0] = alpha.flatten()[0] * torch.tensor([low, high, low - 0.3, high + 0.3, 0.5])  # ends and a tie
    options = OpOptions(low, high, 0.3, 1, sums, 0.7, ceiling)
    ours, plain = answers(by_transparent, values, alpha, options), answers(by_reference, values, alpha, options)
    assert torch.equal(ours[0], plain[0])
    for got, wanted in zip(ours[1:], plain[1:], strict=True):  # sums of a few hundred float32 terms
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_a_value_that_is_no_number_counts_to_the_lowest_bin():
    values = torch.tensor([math.nan, 0.4, 1.2])
    quantized, sums = Transparent.apply(values, torch.tensor(1.0), OpOptions(-2, 1, 1.0, 0, ALL_VALUES, 0.0))
    assert quantized[0].isnan() and quantized[1:].tolist() == [0.0, 1.0]
    assert sums[0].tolist() == [1.0, 0.0, 1.0, 1.0] and sums[1:, 0].isnan().all() and sums[:, 1:].isfinite().all()


def test_forms_are_chosen_by_name():
    with pytest.raises(BrsweepError, match=r"^compile_as\('fused'\): choose opaque or transparent"):
        kernels.compile_as("fused")
    kernels.compile_as("transparent")
    assert kernels._form == "transparent"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile wants g++")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, at inductor's import
def test_compiled_it_is_one_graph_without_an_operator_of_ours():
    torch.compiler.reset()
    kernels.compile_as("transparent")
    values = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    graphs = []

    def op(values, alpha, options):
        return fake_quantize(values, alpha, -2, 1, grad_scale=0.3, sums=ALL_VALUES, ceiling=None)

    options = OpOptions(-2, 1, 0.3, 0, ALL_VALUES, 0.0)
    made = answers(torch.compile(op, dynamic=False, fullgraph=True), values, torch.tensor(0.75), options)
    torch.compiler.reset()
    torch.compile(op, backend=lambda graph, _: graphs.append(graph) or graph)(values, torch.tensor(0.75), options)
    assert len(graphs) == 1 and "brsweep" not in str(graphs[0].graph)
    plain = answers(by_reference, values, torch.tensor(0.75), options)
    assert torch.equal(made[0], plain[0])
    for got, wanted in zip(made[1:], plain[1:], strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
