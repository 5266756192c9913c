"""LSQ: exact values and gradients, its scale and initialisation, properties, and the state that it keeps."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from references import code_of, lsq_loop
from torch.nn.functional import mse_loss

from brsweep.errors import BrsweepError
from brsweep.kernels import ALPHA_FLOOR
from brsweep.quant import LSQQuantizer, QuantizedClippedReLU, Site, SumRequest, collect

GRIDS = [(bits, signed) for bits in range(1, 9) for signed in (True, False) if (bits, signed) != (1, True)]
ONE_ROUNDING = 2.0**-23  # relative: one float32 rounding
properties = settings(max_examples=60, deadline=None, derandomize=True)


def quantizer(bits, signed, alpha, dtype=torch.float32, **options) -> LSQQuantizer:
    made = LSQQuantizer(bits, signed, **options).to(dtype)
    made.load_state_dict({"alpha": torch.as_tensor(alpha, dtype=dtype)})
    return made


# --- exact values ----------------------------------------------------------------------------------------------------

SIGNED_3_BITS = [  # v / alpha, code, d/dv, d/dalpha before g
    (-4.3, -4, 0, -4.0), (-4.0, -4, 0, -4.0), (-3.75, -4, 1, -0.25), (-3.5, -4, 1, -0.5), (-2.5, -2, 1, 0.5),
    (-1.5, -2, 1, -0.5), (-0.5, 0, 1, 0.5), (0.0, 0, 1, 0.0), (0.5, 0, 1, -0.5), (1.5, 2, 1, 0.5),
    (2.5, 2, 1, -0.5), (2.75, 3, 1, 0.25), (3.0, 3, 0, 3.0), (3.3, 3, 0, 3.0),
]  # fmt: skip
UNSIGNED_2_BITS = [
    (-0.3, 0, 0, 0.0), (0.0, 0, 0, 0.0), (0.25, 0, 1, -0.25), (0.5, 0, 1, -0.5), (1.5, 2, 1, 0.5),
    (2.5, 2, 1, -0.5), (2.75, 3, 1, 0.25), (3.0, 3, 0, 3.0), (3.3, 3, 0, 3.0), (1000.0, 3, 0, 3.0),
]  # fmt: skip


@pytest.mark.parametrize(
    ("bits", "signed", "row"), [(3, True, r) for r in SIGNED_3_BITS] + [(2, False, r) for r in UNSIGNED_2_BITS]
)
@pytest.mark.parametrize("alpha", [0.25, 2.0])
def test_value_and_both_gradients_at_every_kind_of_place(bits, signed, row, alpha):
    steps, code, to_value, to_alpha = row
    quantize = quantizer(bits, signed, alpha)
    value = torch.tensor([steps * alpha], requires_grad=True)
    out = quantize(value)
    (5 * out).sum().backward()
    assert out.item() == code * alpha
    assert value.grad.item() == 5 * to_value
    g = 1 / math.sqrt(quantize.grid.qp)
    assert quantize.alpha.grad.item() == pytest.approx(5 * to_alpha * g, rel=ONE_ROUNDING, abs=0)


@pytest.mark.parametrize(("bits", "signed"), GRIDS)
def test_equals_the_loop_in_double_precision(bits, signed):
    torch.manual_seed(bits)
    alpha = 0.37
    quantize = quantizer(bits, signed, alpha, torch.float64)
    grid = quantize.grid
    steps = torch.rand(200, dtype=torch.float64) * (grid.bins + 2) + grid.qn - 1.5
    values = (steps * alpha).requires_grad_()
    upstream = torch.randn(200, dtype=torch.float64)
    out = quantize(values)
    out.backward(upstream)
    rows = [lsq_loop(v, alpha, grid.qn, grid.qp) for v in values.tolist()]
    assert out.tolist() == [row[0] for row in rows]
    assert values.grad.tolist() == [u * row[1] for u, row in zip(upstream.tolist(), rows, strict=True)]
    slope = math.fsum(u * row[2] for u, row in zip(upstream.tolist(), rows, strict=True))
    # 200 products, each with a rounding in v / alpha, near codes up to 255
    assert quantize.alpha.grad.item() == pytest.approx(slope / math.sqrt(200 * grid.qp), rel=1e-11)


@pytest.mark.parametrize("steps", [-5.0, -3.9, -0.7, 0.2, 1.1, 2.9, 7.0])
def test_gradients_are_those_of_the_surrogate_by_finite_differences(steps):
    """LSQ differentiates alpha * (clamp(v / alpha) + rest), where the rest of the rounding is held constant."""
    alpha, h = 0.37, 1e-6
    value = steps * alpha
    inside = min(max(steps, -4.0), 3.0)
    rest = round(inside) - inside

    def surrogate(v: float, a: float) -> float:
        return a * (min(max(v / a, -4.0), 3.0) + rest)

    quantize = quantizer(3, True, alpha, torch.float64)
    v = torch.tensor([value], dtype=torch.float64, requires_grad=True)
    quantize(v).backward()
    to_value = (surrogate(value + h, alpha) - surrogate(value - h, alpha)) / (2 * h)
    to_alpha = (surrogate(value, alpha + h) - surrogate(value, alpha - h)) / (2 * h)
    # central differences of functions of size 1: rounding 1e-16 / h
    assert v.grad.item() == pytest.approx(to_value, abs=1e-8)
    assert quantize.alpha.grad.item() * math.sqrt(3) == pytest.approx(to_alpha, abs=1e-8)


# --- the gradient's scale and the initialisation ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "options", "n", "each"),
    [
        ((12,), {"count": "tensor"}, 12, 12),
        ((3, 2, 2), {"count": "tensor"}, 12, 12),
        ((5, 12), {"count": "sample"}, 12, 60),
        ((5, 12), {"count": "tensor"}, 60, 60),
        ((2, 12), {"per_channel": True, "channels": 2}, 12, 12),
        ((12, 2), {"per_channel": True, "channels": 2, "axis": 1}, 12, 12),
        ((12, 2), {"per_channel": True, "channels": 2, "axis": -1}, 12, 12),
        ((5, 2, 12), {"per_channel": True, "channels": 2, "axis": 1, "count": "sample"}, 12, 60),
    ],
)
def test_the_gradient_scale_counts_what_it_says(shape, options, n, each):
    """Every value saturates at Qp = 3, so alpha's gradient is (values per alpha) * 3 / sqrt(N * 3)."""
    channels = options.get("channels")
    quantize = quantizer(3, True, [0.5] * channels if channels else 0.5, **options)
    quantize(torch.full(shape, 9.0)).sum().backward()
    assert quantize.grad_scale(torch.zeros(shape)) == 1 / math.sqrt(n * 3)
    expected = torch.full_like(quantize.alpha, each * 3 / math.sqrt(n * 3))
    torch.testing.assert_close(quantize.alpha.grad, expected, rtol=ONE_ROUNDING, atol=0)


def test_two_signed_bits_scale_by_qp_alone():
    """Qn = -2, Qp = 1: 16 weights give g = 1/4 and alpha = 2 * mean|v|, not sqrt(2) less."""
    quantize = LSQQuantizer(2, True)
    quantize.init_from(torch.tensor([1.0, -1.0, 3.0, -3.0] * 4))
    assert quantize.alpha.item() == 4.0
    quantize(torch.full((16,), 100.0)).sum().backward()
    assert quantize.alpha.grad.item() == 16 / 4


@pytest.mark.parametrize(("bits", "signed"), GRIDS)
def test_init_is_twice_the_mean_magnitude_over_root_qp(bits, signed):
    quantize = LSQQuantizer(bits, signed)
    quantize.init_from(torch.tensor([[0.5, -1.5], [2.0, 0.0]]))  # mean magnitude 1
    assert quantize.alpha.item() == pytest.approx(2 / math.sqrt(quantize.grid.qp), rel=ONE_ROUNDING)


def test_init_per_channel():
    quantize = LSQQuantizer(2, True, per_channel=True, channels=2)
    quantize.init_from(torch.tensor([[1.0, -1.0, 1.0], [0.0, 6.0, 0.0]]))
    assert quantize.alpha.tolist() == [2.0, 4.0]
    along = LSQQuantizer(2, True, per_channel=True, channels=3, axis=1)
    along.init_from(torch.tensor([[1.0, -1.0, 1.0], [0.0, 6.0, 0.0]]))
    assert along.alpha.tolist() == [1.0, 7.0, 1.0]


def test_gaussian_weights_at_two_bits():
    """alpha = 1.596 sigma; the bins of -2a, -a, 0, +a hold 0.8, 20.4, 57.5 and 21.2 %."""
    n = 100_001
    values = 3.0 * torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)  # a sample without noise
    quantize = LSQQuantizer(2, True).double()
    quantize.init_from(values)
    assert quantize.alpha.item() / 3.0 == pytest.approx(1.596, abs=5e-4)
    codes = (quantize(values) / quantize.alpha).round()
    shares = [100 * (codes == code).double().mean().item() for code in quantize.grid.codes]
    assert shares == pytest.approx([0.8, 20.4, 57.5, 21.2], abs=0.06)  # half of the last printed digit, and the sum's


def test_init_of_zeros_is_the_floor_and_of_nonsense_an_error():
    quantize = LSQQuantizer(2, False)
    for nonsense in (torch.tensor([1.0, math.nan]), torch.tensor([math.inf]), torch.empty(0)):
        with pytest.raises(BrsweepError, match="empty or not finite"):
            quantize.init_from(nonsense)
        assert not quantize.initialised
    quantize.init_from(torch.zeros(8))
    assert quantize.alpha.item() == ALPHA_FLOOR
    assert quantize(torch.zeros(8)).tolist() == [0.0] * 8


def test_init_refuses_another_number_of_channels():
    with pytest.raises(BrsweepError, match="3 channels along axis 0, made for 2"):
        LSQQuantizer(2, True, per_channel=True, channels=2).init_from(torch.ones(3, 4))


# --- properties, over six decades ------------------------------------------------------------------------------------

grids = st.sampled_from(GRIDS)
alphas = st.builds(lambda m, e: m * 10.0**e, st.floats(1, 10, width=32), st.integers(-3, 2))
steps = st.lists(st.floats(-300, 300, width=32), min_size=1, max_size=40)


@properties
@given(grids, alphas)
def test_levels_are_fixed_points(grid, alpha):
    quantize = quantizer(*grid, alpha)
    levels = quantize.grid.levels(quantize.alpha.detach())
    assert torch.equal(quantize(levels), levels)


@properties
@given(grids, alphas, steps)
def test_quantizing_twice_is_quantizing_once(grid, alpha, steps):
    quantize = quantizer(*grid, alpha)
    once = quantize(torch.tensor(steps) * alpha)
    assert torch.equal(quantize(once), once)


@properties
@given(grids, alphas, steps)
def test_nearest_level_inside_and_the_end_outside(grid, alpha, steps):
    quantize = quantizer(*grid, alpha)
    values = torch.tensor(steps) * alpha
    out, alpha = quantize(values).double(), quantize.alpha.item()
    qn, qp = quantize.grid.qn, quantize.grid.qp
    for v, q in zip(values.tolist(), out.tolist(), strict=True):
        if qn <= v / alpha <= qp:
            # half a step, and the float32 rounding of v / alpha and of code * alpha
            assert abs(v - q) <= alpha / 2 + 2 * ONE_ROUNDING * abs(v)
        else:
            assert q == torch.tensor(alpha).mul(qn if v / alpha < qn else qp).item()


@properties
@given(grids, alphas, steps, st.integers(-8, 8))
def test_scaling_by_a_power_of_two_scales_the_result_to_the_bit(grid, alpha, steps, exponent):
    values, scale = torch.tensor(steps) * alpha, 2.0**exponent
    small = quantizer(*grid, torch.tensor(alpha))(values)
    large = quantizer(*grid, torch.tensor(alpha) * scale)(values * scale)
    assert torch.equal(large, small * scale)


@properties
@given(grids, alphas, steps, st.randoms(use_true_random=False))
def test_order_of_the_values_does_not_matter(grid, alpha, steps, random):
    order = torch.tensor(random.sample(range(len(steps)), len(steps)))
    quantize = quantizer(*grid, alpha)
    values = torch.tensor(steps) * alpha
    grads = []
    for index in (torch.arange(len(steps)), order):
        quantize.alpha.grad = None
        quantize(values[index]).sum().backward()
        grads.append(quantize.alpha.grad.item())
    assert torch.equal(quantize(values[order]), quantize(values)[order])
    # n terms of at most Qp each, times g, summed in float32 in two orders: n roundings of the running sum in each
    n, largest = len(steps), max(-quantize.grid.qn, quantize.grid.qp)
    slack = 2 * n * ONE_ROUNDING / 2 * n * largest * quantize.grad_scale(values)
    assert grads[1] == pytest.approx(grads[0], rel=ONE_ROUNDING, abs=slack)


# --- state -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_channel", [False, True])
def test_forward_changes_no_state_and_does_the_same_in_both_modes(per_channel):
    torch.manual_seed(0)
    values = torch.randn(4, 6)
    quantize = LSQQuantizer(2, True, per_channel=per_channel, channels=4)
    quantize.init_from(values)
    assert quantize.initialised  # looked at once, then remembered
    before = copy.deepcopy(quantize.state_dict())
    attributes = {k: v for k, v in vars(quantize).items() if k not in ("training", "_parameters")}
    outputs = [quantize.train(mode)(values) for mode in (True, True, False, False)]
    assert all(torch.equal(out, outputs[0]) for out in outputs)
    after = quantize.state_dict()
    assert before.keys() == after.keys() == {"alpha"}
    assert torch.equal(before["alpha"], after["alpha"])
    assert attributes == {k: v for k, v in vars(quantize).items() if k not in ("training", "_parameters")}


def test_forward_before_init_says_what_to_call():
    with pytest.raises(BrsweepError, match=r"init_from\(values\), or calibrate\(model, batches\)"):
        LSQQuantizer(2, False)(torch.ones(3))


@pytest.mark.parametrize("initialised", [True, False])
@pytest.mark.parametrize(
    "again",
    [
        copy.deepcopy,
        lambda q: pickle.loads(pickle.dumps(q)),
        lambda q: (other := LSQQuantizer(2, True), other.load_state_dict(q.state_dict()))[0],
    ],
    ids=["deepcopy", "pickle", "state_dict"],
)
def test_copies_know_whether_they_are_initialised(again, initialised):
    quantize = LSQQuantizer(2, True)
    if initialised:
        quantize.init_from(torch.tensor([0.3, -0.9]))
    copied = again(quantize)
    assert copied.initialised is initialised
    assert torch.equal(copied.alpha, quantize.alpha) or not initialised
    if not initialised:
        with pytest.raises(BrsweepError, match="no value yet"):
            copied(torch.ones(2))


def test_a_state_without_alpha_leaves_it_as_it_was():
    quantize = quantizer(2, True, 0.5)
    quantize.load_state_dict({}, strict=False)
    assert quantize.initialised
    assert quantize.alpha.item() == 0.5


def test_a_huge_gradient_can_neither_break_alpha_nor_trap_it():
    quantize = quantizer(2, False, 0.5)
    values = torch.linspace(0, 2, 64)
    optimizer = torch.optim.SGD(quantize.parameters(), lr=1.0)
    (1e6 * quantize(values)).sum().backward()
    optimizer.step()
    assert quantize.alpha.item() < -1e6
    out = quantize(values)
    assert out.max().item() == 3 * ALPHA_FLOOR
    assert out.min().item() == 0.0
    optimizer = torch.optim.SGD(quantize.parameters(), lr=1e6)
    for _ in range(100):
        optimizer.zero_grad()
        mse_loss(quantize(values), values).backward()
        assert quantize.alpha.grad.item() < 0  # up again
        optimizer.step()
        if quantize.alpha.item() > 0:
            return
    pytest.fail("alpha stayed below zero")


@pytest.mark.parametrize("alpha", [-1.0, 0.0, ALPHA_FLOOR / 2])
def test_below_the_floor_it_computes_with_the_floor(alpha):
    values = torch.tensor([-3.0, 0.25, 1.0, 9.0]) * ALPHA_FLOOR
    below, at = quantizer(2, True, alpha), quantizer(2, True, ALPHA_FLOOR)
    for quantize in (below, at):
        quantize(values).sum().backward()
    assert torch.equal(below(values), at(values))
    assert torch.equal(below.alpha.grad, at.alpha.grad)
    assert at.alpha.grad.item() != 0


# --- what it refuses, and the narrow cases ---------------------------------------------------------------------------


def test_one_signed_bit_is_refused_with_the_reason():
    with pytest.raises(BrsweepError, match=r"Qp is 0, and LSQ divides by sqrt\(Qp\); use 2 bits or more"):
        LSQQuantizer(1, True)


def test_an_unknown_count_is_refused():
    with pytest.raises(BrsweepError, match="count='batch': choose one of tensor, sample"):
        LSQQuantizer(2, True, count="batch")


def test_one_unsigned_bit():
    quantize = LSQQuantizer(1, False)
    quantize.init_from(torch.tensor([0.0, 0.5, 1.0, 2.5]))
    assert quantize.alpha.item() == 2.0
    assert quantize(torch.tensor([0.0, 0.5, 1.0, 1.5, 2.5])).tolist() == [0.0, 0.0, 0.0, 2.0, 2.0]  # 0.5 steps to even


def test_per_channel_is_each_channel_by_itself():
    torch.manual_seed(1)
    values, alphas = torch.randn(3, 50), [0.1, 0.7, 2.0]
    together = quantizer(2, True, alphas, per_channel=True, channels=3)
    upstream = torch.randn(3, 50)
    out = together(values)
    out.backward(upstream)
    for channel, alpha in enumerate(alphas):
        alone = quantizer(2, True, alpha)
        expected = alone(values[channel])
        expected.backward(upstream[channel])
        assert torch.equal(out[channel], expected)
        assert together.alpha.grad[channel].item() == pytest.approx(alone.alpha.grad.item(), rel=4 * ONE_ROUNDING)


def test_bfloat16_values_are_computed_in_float32():
    torch.manual_seed(2)
    values = torch.randn(64).bfloat16().requires_grad_()
    quantize = quantizer(3, True, 0.3)
    out = quantize(values)
    out.sum().backward()
    assert out.dtype == values.grad.dtype == torch.bfloat16
    assert quantize.alpha.grad.dtype == torch.float32
    alone = quantizer(3, True, 0.3)
    wide = values.detach().float().requires_grad_()
    expected = alone(wide)
    expected.sum().backward()
    assert torch.equal(out, expected.bfloat16())
    assert torch.equal(values.grad, wide.grad.bfloat16())
    assert quantize.alpha.grad.item() == pytest.approx(alone.alpha.grad.item(), rel=4 * ONE_ROUNDING)


def test_not_a_number_shows_and_does_not_raise():
    out = quantizer(2, True, 0.5)(torch.tensor([math.nan, 1.0]))
    assert math.isnan(out[0].item())
    assert out[1].item() == 0.5


def test_codes_match_the_loop_where_division_has_to_be_rounded_correctly():
    """v = (k + 1/2) * alpha in float32, for many alphas: the quotient sits on a tie or a rounding away from it."""
    for alpha in torch.linspace(0.01, 3, 400).tolist():
        quantize = quantizer(4, False, alpha)
        alpha = quantize.alpha.detach()
        values = (torch.arange(15) + 0.5) * alpha
        quotient = (values.double() / alpha.double()).float()  # the correctly rounded float32 quotient
        codes = [code_of(q, 1.0, 0, 15) for q in quotient.tolist()]
        assert torch.equal(quantize(values), torch.tensor(codes) * alpha)


class OwnForward(LSQQuantizer):
    """A part of someone else's: it is called with the values alone, after the ReLU, as its contract says."""

    def forward(self, values):
        assert not (values < 0).any()
        return super().forward(values)


@pytest.mark.parametrize("clip_value", [None, 1.0])
def test_a_site_gives_the_same_bits_whether_its_relu_is_in_the_pass_or_before_it(clip_value):
    images, upstream = torch.randn(2, 3, 40, 40), torch.randn(2, 3, 40, 40)
    watched, own, plain = (
        QuantizedClippedReLU(2, clip_value, quantizer=q) for q in (LSQQuantizer, OwnForward, LSQQuantizer)
    )
    received = []
    watched.quantizer.register_forward_pre_hook(lambda _, inputs: received.append(inputs[0]))
    answers = []
    for site in (watched, own, plain):
        site.init_from(images)
        given = images.clone().requires_grad_()
        with collect([Site("here", "act", site.quantizer)], activations=SumRequest()) as seen:
            quantized = site(given)
        torch.autograd.backward((quantized, seen["here"].sums), (upstream, torch.ones_like(seen["here"].sums)))
        answers.append((quantized, seen["here"].sums, given.grad, site.quantizer.alpha.grad))
    assert torch.equal(received[0], images.clamp(0, clip_value))
    fused = answers[2]
    for answer in answers[:2]:
        assert all(torch.equal(one, other) for one, other in zip(answer[:2], fused[:2], strict=True))
        for one, other in zip(answer[2:], fused[2:], strict=True):  # two passes' gradients are added, in float32
            torch.testing.assert_close(one, other, rtol=2**-22, atol=2**-22 * float(other.abs().max()))
