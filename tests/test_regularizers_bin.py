"""The penalty of one tensor: against eq. 5 as a loop, worked numbers, gradients, and where it is exactly zero."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from references import bin_penalty_loop

from brsweep.errors import BrsweepError
from brsweep.kernels import COUNT
from brsweep.quant import Grid
from brsweep.regularizers import BinRegularizer
from brsweep.regularizers.bin import bin_parts, bin_penalty

GRIDS = [(bits, signed) for bits in range(1, 9) for signed in (True, False)]
DOUBLE = 1e-11  # relative, for float64: about 1e5 roundings of sums whose terms have no common sign
properties = settings(max_examples=60, deadline=None, derandomize=True)


def spread_values(grid: Grid, alpha, n: int = 300, seed: int = 0) -> torch.Tensor:
    """Float64 values inside the range and beyond both ends, none within 0.05 steps of a bin's edge."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(grid.qn - 3, grid.qp + 4, (n,), generator=generator)
    rest = torch.rand(n, generator=generator, dtype=torch.float64) * 0.9 - 0.45
    return (codes + rest) * alpha


# --- worked numbers --------------------------------------------------------------------------------------------------

WORKED = [-2.5, -1.0, 0.25, -0.25, 1.5]  # steps; bins -2: {-2.5}, -1: {-1}, 0: {0.25, -0.25}, +1: {1.5}


@pytest.mark.parametrize(
    ("variance", "saturated", "expected"),
    [
        ("biased", "pull", 0.25 + 0 + 0.0625 + 0.25),
        ("unbiased", "pull", 0.25 + 0 + 0.125 + 0.25),
        ("biased", "ignore", 0.0625),
        ("unbiased", "ignore", 0.125),
    ],
)
@pytest.mark.parametrize(("unit", "scale"), [("value", 4.0), ("step", 1.0)])
def test_five_values_in_the_head(variance, saturated, expected, unit, scale):
    """alpha = 2: residuals in values are twice those in steps, their squares four times."""
    regularizer = BinRegularizer(2, True, variance, saturated, unit)
    loss = regularizer.compute_bin_loss(2 * torch.tensor(WORKED), torch.tensor(2.0))
    assert loss.shape == ()
    assert loss.item() == expected * scale


@pytest.mark.parametrize(("bits", "signed"), GRIDS)
@pytest.mark.parametrize("alpha", [0.25, 8.0])
def test_evenly_spread_values_cost_a_twelfth_whatever_the_grid(bits, signed, alpha):
    """As a mean, in steps: n values evenly spread over a bin of width 1 have mean r^2 = (1 - 1/n^2) / 12."""
    grid, n = Grid(bits, signed), 64
    within = (torch.arange(n, dtype=torch.float64) + 0.5) / n - 0.5
    codes = torch.arange(grid.qn, grid.qp + 1, dtype=torch.float64)
    values = alpha * (codes[:, None] + within)
    for variance, expected in (("biased", (1 - n**-2) / 12), ("unbiased", (n * n - 1) / (12 * n * (n - 1)))):
        regularizer = BinRegularizer(bits, signed, variance, "pull", "step", "mean")
        loss = regularizer.compute_bin_loss(values, torch.tensor(alpha, dtype=torch.float64))
        assert loss.item() == pytest.approx(expected, rel=DOUBLE)


def test_the_mean_is_over_the_bins_that_hold_a_value():
    """The five values of the head fill all four bins, without -1.0 and 1.5 two of them; saturated left out, one."""
    step = torch.tensor(1.0)
    for kept, saturated, expected in (
        (WORKED, "pull", 0.5625 / 4),
        ([-2.5, 0.25, -0.25], "pull", 0.3125 / 2),
        ([-2.5, 0.25, -0.25], "ignore", 0.0625),
        ([], "pull", 0.0),
    ):
        regularizer = BinRegularizer(2, True, saturated=saturated, reduction="mean")
        assert regularizer.compute_bin_loss(torch.tensor(kept), step).item() == expected


def test_the_total_loss_is_the_mean_over_tensors_where_the_mean_is_asked_for():
    values = {"a": torch.tensor(WORKED), "b": torch.tensor([0.5, 0.25])}
    alphas = dict.fromkeys(values, torch.tensor(1.0))
    regularizer = BinRegularizer(2, True, reduction="mean")
    loss, info = regularizer.compute_total_loss(values, alphas)
    assert loss.item() == (0.5625 / 4 + (0.25 + 0.0625) / 2) / 2  # 0.5 rounds to even: both in bin 0
    for one in info.values():
        assert one["loss"].item() == pytest.approx((one["mean"] + one["variance"]).item(), rel=1e-6)


def test_a_rare_bin_counts_as_much_as_a_full_one():
    """1000 values at 0.1 in bin 0 and one at 1.1 in bin 1: each bin gives 0.01."""
    values = torch.tensor([0.1] * 1000 + [1.1], dtype=torch.float64)
    loss = BinRegularizer(2, False).compute_bin_loss(values, torch.tensor(1.0, dtype=torch.float64))
    assert loss.item() == pytest.approx(0.02, rel=1e-12)


# --- against the loop ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "signed"), GRIDS)
@pytest.mark.parametrize("variance", ["biased", "unbiased"])
@pytest.mark.parametrize("saturated", ["pull", "ignore"])
def test_equals_the_double_loop(bits, signed, variance, saturated):
    grid, alpha = Grid(bits, signed), 0.37
    values = spread_values(grid, alpha, seed=bits)
    expected = bin_penalty_loop(values, alpha, grid.qn, grid.qp, variance, saturated)
    assert expected > 0
    for unit, divisor in (("value", 1.0), ("step", alpha**2)):
        regularizer = BinRegularizer(bits, signed, variance, saturated, unit)
        loss = regularizer.compute_bin_loss(values, torch.tensor(alpha, dtype=torch.float64))
        assert loss.dtype == torch.float64
        assert loss.item() == pytest.approx(expected / divisor, rel=DOUBLE)


@properties
@given(
    st.sampled_from(GRIDS),
    st.builds(lambda m, e: m * 10.0**e, st.floats(1, 10), st.integers(-3, 2)),
    st.lists(st.floats(-20, 20), min_size=1, max_size=30),
    st.sampled_from(["biased", "unbiased"]),
    st.sampled_from(["pull", "ignore"]),
)
def test_equals_the_double_loop_for_any_values(grid, alpha, steps, variance, saturated):
    grid = Grid(*grid)
    values = torch.tensor(steps, dtype=torch.float64) * alpha
    step = torch.tensor(alpha, dtype=torch.float64)
    loss = BinRegularizer(grid.bits, grid.signed, variance, saturated).compute_bin_loss(values, step)
    expected = bin_penalty_loop(values, alpha, grid.qn, grid.qp, variance, saturated)
    assert loss.item() >= 0
    # against the squares of the values themselves: a bin may sum to nothing but roundings of them
    assert loss.item() == pytest.approx(expected, rel=DOUBLE, abs=1e-28 * (alpha * 256) ** 2)


def test_per_channel_is_the_mean_over_channels():
    grid = Grid(2, True)
    alpha = torch.tensor([0.1, 0.5, 3.0], dtype=torch.float64)
    values = torch.stack([spread_values(grid, a, 40, seed) for seed, a in enumerate(alpha)])
    single = [bin_penalty_loop(values[i], alpha[i].item(), -2, 1) for i in range(3)]
    regularizer = BinRegularizer(2, True)
    assert regularizer.compute_bin_loss(values, alpha).item() == pytest.approx(sum(single) / 3, rel=DOUBLE)
    turned = values.T.reshape(4, 10, 3)
    assert regularizer.compute_bin_loss(turned, alpha, axis=2).item() == pytest.approx(sum(single) / 3, rel=DOUBLE)
    steps = sum(one / a.item() ** 2 for one, a in zip(single, alpha, strict=True))
    in_steps = BinRegularizer(2, True, unit="step").compute_bin_loss(values, alpha)
    assert in_steps.item() == pytest.approx(steps / 3, rel=DOUBLE)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("alpha", [0.25, 2.0])
def test_sharp_bins_keep_their_digits_in_float32(bits, alpha):
    """Residuals of 1e-4 steps: raw sums of squares would be off by orders of magnitude.

    The reference takes the same float32 numbers. alpha is a power of two: the levels of others are rounded in float32,
    by up to 1e-5 steps at 8 bits, and that would be compared instead.
    """
    torch.manual_seed(bits)
    grid, step = Grid(bits, False), torch.tensor(alpha)
    levels = grid.levels(step)
    values = levels[torch.randint(0, grid.bins, (2000,))] + 1e-4 * alpha * torch.randn(2000)
    for variance in ("biased", "unbiased"):
        expected = bin_penalty_loop(values, alpha, grid.qn, grid.qp, variance)
        assert 0 < expected < 1e-7 * grid.bins * alpha**2
        loss = BinRegularizer(bits, False, variance).compute_bin_loss(values, step)
        assert loss.item() == pytest.approx(expected, rel=1e-6)


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "signed"), [(1, False), (2, True), (2, False), (4, True)])
@pytest.mark.parametrize("variance", ["biased", "unbiased"])
@pytest.mark.parametrize("saturated", ["pull", "ignore"])
def test_gradients_to_values_and_alpha(bits, signed, variance, saturated):
    """Finite differences: no value is near an edge of its bin, so the codes stay what they are."""
    grid = Grid(bits, signed)
    alpha = torch.tensor(0.37, dtype=torch.float64, requires_grad=True)
    values = spread_values(grid, 0.37, 40, seed=bits).requires_grad_()
    regularizer = BinRegularizer(bits, signed, variance, saturated)
    assert torch.autograd.gradcheck(lambda v, a: regularizer.compute_bin_loss(v, a, True), (values, alpha))
    in_steps = BinRegularizer(bits, signed, variance, saturated, "step")  # alpha as a unit is a constant
    assert torch.autograd.gradcheck(lambda v: in_steps.compute_bin_loss(v, alpha), (values,))


@pytest.mark.parametrize("variance", ["biased", "unbiased"])
def test_gradients_per_channel(variance):
    grid = Grid(2, True)
    alpha = torch.tensor([0.2, 1.5], dtype=torch.float64, requires_grad=True)
    values = torch.stack([spread_values(grid, a.item(), 20, i) for i, a in enumerate(alpha)], 1).requires_grad_()
    regularizer = BinRegularizer(2, True, variance)
    assert torch.autograd.gradcheck(lambda v, a: regularizer.compute_bin_loss(v, a, True, axis=1), (values, alpha))


@pytest.mark.parametrize("variance", ["biased", "unbiased"])
def test_closed_forms_of_both_gradients(variance):
    """d/da is -2 k m_k summed over the bins; d/dv is 2 r / n, or 2 m / n + 2 (r - m) / (n - 1)."""
    steps = torch.tensor([-2.5, -1.25, -0.75, 0.25, 0.125, -0.25, 1.5], dtype=torch.float64)
    codes = torch.tensor([-2, -1, -1, 0, 0, 0, 1])
    alpha = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    values = (0.5 * steps).requires_grad_()
    BinRegularizer(2, True, variance).compute_bin_loss(values, alpha, True).backward()
    residual = (values - codes * alpha).detach()
    to_alpha = 0.0
    for k in (-2, -1, 0, 1):
        r = residual[codes == k]
        n, m = r.numel(), r.mean()
        to_alpha += -2 * k * m
        expected = 2 * r / n if variance == "biased" else 2 * m / n + 2 * (r - m) / max(n - 1, 1)
        torch.testing.assert_close(values.grad[codes == k], expected, rtol=1e-14, atol=1e-15)
    assert alpha.grad.item() == pytest.approx(to_alpha.item(), rel=1e-14)


def test_alpha_stands_still_unless_asked():
    values = torch.tensor([0.3, 1.4, -2.0], requires_grad=True)
    alpha = torch.tensor(0.5, requires_grad=True)
    BinRegularizer(2, True, unit="step").compute_bin_loss(values, alpha).backward()
    assert alpha.grad is None
    assert values.grad.abs().sum() > 0


def test_ignored_values_feel_nothing():
    values = torch.tensor([-1.5, 0.3, 9.0, 1.4], requires_grad=True)
    BinRegularizer(2, True, saturated="ignore").compute_bin_loss(values, torch.tensor(0.5)).backward()
    assert (values.grad != 0).tolist() == [False, True, False, False]


# --- zero, and the parts ---------------------------------------------------------------------------------------------


on_levels = st.tuples(st.sampled_from(GRIDS), st.lists(st.integers(0, 255), min_size=1, max_size=30))
options = st.tuples(st.sampled_from(["biased", "unbiased"]), st.just("pull"), st.sampled_from(["value", "step"]))


@properties
@given(on_levels, options, st.integers(-12, 8))
def test_zero_exactly_on_levels_and_only_there(picked, options, exponent):
    """With a power of two for alpha each level is a float32 number."""
    (grid, picks), alpha = picked, torch.tensor(2.0**exponent)
    values = Grid(*grid).levels(alpha)[torch.tensor(picks) % Grid(*grid).bins]
    regularizer = BinRegularizer(*grid, *options)
    assert regularizer.compute_bin_loss(values, alpha).item() == 0
    values[0] += alpha / 8
    assert regularizer.compute_bin_loss(values, alpha).item() > 0


@properties
@given(on_levels, options, st.floats(1, 2, width=32))
def test_on_the_levels_of_any_alpha_no_more_than_their_rounding_is_left(picked, options, alpha):
    (grid, picks), alpha = picked, torch.tensor(alpha)
    values = Grid(*grid).levels(alpha)[torch.tensor(picks) % Grid(*grid).bins]
    rounding = 2.0**-24 * values.abs().max().item()  # half a unit in a level's last place
    assert BinRegularizer(*grid, *options).compute_bin_loss(values, alpha).item() <= Grid(*grid).bins * rounding**2


def test_values_beyond_the_range_are_no_levels_unless_ignored():
    values, alpha = torch.tensor([0.0, 1.0, 5.0]), torch.tensor(1.0)
    assert BinRegularizer(2, False).compute_bin_loss(values, alpha).item() == 4.0
    assert BinRegularizer(2, False, saturated="ignore").compute_bin_loss(values, alpha).item() == 0.0


def test_empty_bins_and_single_values():
    n, s1, s2 = [0.0, 1.0, 2.0], [0.0, 0.5, 0.5], [0.0, 0.25, 0.25]
    sums = torch.tensor([n, s1, s2], dtype=torch.float64)
    mean, variance = bin_parts(sums, "unbiased")
    assert mean.tolist() == [0.0, 0.25, 0.0625]
    assert variance.tolist() == [0.0, 0.0, 0.125]
    mean, variance = bin_parts(sums, "biased")
    assert mean.tolist() == [0.0, 0.25, 0.0625]
    assert variance.tolist() == [0.0, 0.0, 0.0625]
    assert bin_penalty(sums, "biased").item() == 0.25 + 0.125
    assert bin_penalty(sums, "unbiased").item() == 0.25 + 0.0625 + 0.125
    assert torch.equal(bin_penalty(torch.zeros(4, 3, 8)), torch.zeros(4))


@pytest.mark.parametrize("variance", ["biased", "unbiased"])
def test_the_parts_add_up_to_the_penalty(variance):
    """Biased: S2 / n is mean^2 + variance, as an identity; to the last digits in double precision."""
    grid = Grid(3, True)
    alpha = torch.tensor(0.37, dtype=torch.float64)
    regularizer = BinRegularizer(3, True, variance)
    loss, info = regularizer.compute_total_loss({"w": spread_values(grid, 0.37)}, {"w": alpha})
    entry = info["w"]
    assert (entry["mean"] + entry["variance"]).item() == pytest.approx(loss.item(), rel=1e-14)
    assert entry["mean"] > 0
    assert entry["variance"] > 0


def test_a_variance_is_never_negative():
    """Equal residuals have none; S2 - n m^2 may leave a negative rounding, whose root a report would take."""
    for r in (0.1, 0.3, 1e-5, 0.7):
        for n in range(1, 60):
            sums = torch.tensor([[n], [n * r], [n * r * r]], dtype=torch.float64)
            for variance in ("biased", "unbiased"):
                assert bin_parts(sums, variance)[1].item() >= 0


# --- several tensors, options, types ---------------------------------------------------------------------------------


def test_total_loss_sums_and_says_what_it_consists_of():
    grid = Grid(2, True)
    values = {"a": spread_values(grid, 0.37, 50, 1), "b": spread_values(grid, 0.1, 60, 2).view(2, 30)}
    alphas = {"a": torch.tensor(0.37, dtype=torch.float64), "b": torch.tensor([0.1, 0.2], dtype=torch.float64)}
    values["a"].requires_grad_()
    regularizer = BinRegularizer(2, True, unit="step")
    loss, info = regularizer.compute_total_loss(values, alphas)
    singles = {name: regularizer.compute_bin_loss(values[name], alphas[name]) for name in values}
    assert loss.item() == pytest.approx(sum(one.item() for one in singles.values()), rel=1e-15)
    assert loss.requires_grad
    for name, one in singles.items():
        entry = info[name]
        assert set(entry) == {"loss", "mean", "variance", "count"}
        assert entry["loss"].item() == one.item()
        assert (entry["mean"] + entry["variance"]).item() == pytest.approx(one.item(), rel=1e-13)
        assert not any(tensor.requires_grad for tensor in entry.values())
    assert info["a"]["count"].shape == (4,)
    assert info["b"]["count"].sum(-1).tolist() == [30, 30]


def test_total_loss_reaches_alpha_only_where_asked():
    values, alpha = {"a": torch.tensor([0.9, 0.2])}, torch.tensor(0.5, requires_grad=True)
    BinRegularizer(2, True).compute_total_loss(values, {"a": alpha})[0].backward()
    assert alpha.grad is None
    BinRegularizer(2, True).compute_total_loss(values, {"a": alpha}, backprop_to_alpha=True)[0].backward()
    assert alpha.grad.item() == pytest.approx(-2 * 1 * (0.9 - 0.5), rel=1e-6)  # 0.9 saturates into bin +1


def test_total_loss_of_nothing_and_of_a_name_without_alpha():
    regularizer = BinRegularizer(2, True)
    loss, info = regularizer.compute_total_loss({}, {})
    assert (loss.item(), info) == (0.0, {})
    with pytest.raises(BrsweepError, match="no alpha for b, c"):
        regularizer.compute_total_loss(dict.fromkeys("abc", torch.ones(2)), {"a": torch.tensor(1.0)})


@pytest.mark.parametrize(
    ("option", "allowed"),
    [
        ({"variance": "sample"}, "biased, unbiased"),
        ({"saturated": "drop"}, "pull, ignore"),
        ({"unit": "alpha"}, "value, step"),
        ({"reduction": "max"}, "sum, mean"),
    ],
)
def test_unknown_options_are_refused_with_those_that_exist(option, allowed):
    with pytest.raises(BrsweepError, match=f"choose one of {allowed}"):
        BinRegularizer(2, True, **option)


def test_bfloat16_values():
    torch.manual_seed(3)
    values = torch.randn(200).bfloat16().requires_grad_()
    loss = BinRegularizer(2, True).compute_bin_loss(values, torch.tensor(0.5))
    loss.backward()
    wide = values.detach().float().requires_grad_()
    expected = BinRegularizer(2, True).compute_bin_loss(wide, torch.tensor(0.5))
    expected.backward()
    assert loss.dtype == values.grad.dtype == torch.bfloat16
    assert torch.equal(loss, expected.bfloat16())
    assert torch.equal(values.grad, wide.grad.bfloat16())


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_step_size_at_the_floor_has_no_penalty_in_steps(per_channel):
    """Else it is (values / 2^-20)^2: of weights of 1 a trillion, whose first gradient ends the training."""
    values = torch.tensor([[0.3, -1.0], [0.3, -1.0]], requires_grad=True)
    alpha = torch.tensor([-1463.0, 0.5]) if per_channel else torch.tensor(-1463.0)
    regularizer = BinRegularizer(2, True, unit="step")
    loss = regularizer.compute_bin_loss(values, alpha)
    loss.backward()
    alive = regularizer.compute_bin_loss(values.detach()[1], torch.tensor(0.5)).item() / 2 if per_channel else 0.0
    assert loss.item() == pytest.approx(alive, rel=1e-6)
    assert not values.grad[0].any() and torch.isfinite(values.grad).all()


def test_a_step_size_below_the_floor_is_the_floor():
    values = torch.tensor([1.0, -1.0])
    for unit in ("value", "step"):
        regularizer = BinRegularizer(2, True, unit=unit)
        at_floor = regularizer.compute_bin_loss(values, torch.tensor(2.0**-20))
        assert torch.equal(regularizer.compute_bin_loss(values, torch.tensor(-3.0)), at_floor)
        assert torch.isfinite(at_floor)


def test_not_a_number_shows_in_the_penalty():
    loss = BinRegularizer(2, True).compute_bin_loss(torch.tensor([float("nan"), 0.5]), torch.tensor(0.5))
    assert torch.isnan(loss)


def test_the_rows_of_the_sums_are_what_the_penalty_takes_them_for():
    sums = BinRegularizer(2, True)._sums(torch.tensor([0.25, -0.5, 0.75]), torch.tensor(1.0), False, 0)
    # codes 0, 0 (tie to even), 1
    assert sums.tolist() == [[0, 0, 2, 1], [0, 0, -0.25, -0.25], [0, 0, 0.3125, 0.0625]]
    assert COUNT == 0
