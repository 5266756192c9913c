"""Folding batch norm into integers: every sum that can occur gets the code that the float layer gives it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsweep.export.staircase import fold


def trained(n: np.ndarray, p: float, q: float, alpha: float, codes: tuple[int, int]) -> np.ndarray:
    """The codes by the definition, in float64."""
    return np.clip(np.rint((p * n + q) / alpha), *codes)


def runtime(n: np.ndarray, found, codes: tuple[int, int]) -> np.ndarray:
    """The codes as an integer runtime computes them: a whole sum, one float32 multiplication, half to even."""
    sums = (found.multiplier * n + found.bias).astype(np.int32)
    return np.clip(np.rint(sums.astype(np.float32) * np.float32(1 / found.unit)), *codes)


@settings(max_examples=150, deadline=None)
@given(
    bits=st.integers(1, 4),
    signed=st.booleans(),
    slope=st.floats(1e-4, 10.0),
    sign=st.sampled_from([-1, 1]),
    q=st.floats(-20, 20),
    alpha=st.floats(1e-3, 10.0),
    low=st.integers(-900, 0),
    high=st.integers(0, 900),
    largest=st.integers(1, 63),
)
def test_a_folded_channel_has_every_code_of_the_trained_one(bits, signed, slope, sign, q, alpha, low, high, largest):
    codes = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    p, n = sign * slope, np.arange(low, high + 1)
    found = fold(p, q, alpha, codes, (low, high), largest)
    if found is not None:
        assert found.exact and 1 <= abs(found.multiplier) <= largest and found.unit > 0
        assert np.array_equal(runtime(n, found, codes), trained(n, p, q, alpha, codes))


@pytest.mark.parametrize("bits, most, folds", [(2, 63, 1.0), (4, 15, 0.95)])
def test_low_bits_nearly_always_fold(bits, most, folds):
    """Channels as a network has them: 64 inputs of a 3x3 kernel, sums that spread over the codes. By rounding the bias
    alone, without a multiplier or another unit, most would not."""
    generator = np.random.default_rng(0)
    codes, folded, rounded = (0, 2**bits - 1), 0, 0
    for _ in range(200):
        weights = np.rint(generator.normal(0, 2 ** (bits - 1) / 2.5, 576)).clip(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        ends = tuple(int(weights[side].sum() * codes[1]) for side in (weights < 0, weights > 0))
        p = generator.choice([-1, 1]) / (np.sqrt((weights**2).sum()) * codes[1] / 3)
        q, alpha = generator.normal(0, 0.5), 2.5 / codes[1]
        found, n = fold(p, q, alpha, codes, ends, most), np.arange(ends[0], ends[1] + 1)
        if found is not None:
            folded += 1
            assert np.array_equal(runtime(n, found, codes), trained(n, p, q, alpha, codes))
        plain = np.clip(np.rint((n + np.rint(q / p)) * (p / alpha)), *codes)
        rounded += np.array_equal(plain, trained(n, p, q, alpha, codes))
    assert folded >= folds * 200 > 2 * rounded


def test_worked_values():
    """p = 1/2, alpha = 1: steps at n = 1, 3, 5 less 2q. With q = 0.1 they are 0.8, 2.8, 4.8, and the bias 0.2 is no
    whole number; with another unit none is needed."""
    found = fold(0.5, 0.1, 1.0, (0, 3), (-6, 9), 1)
    assert (found.multiplier, found.bias) == (1, 0)
    assert runtime(np.arange(-6, 10), found, (0, 3)).tolist() == [0] * 7 + [1, 1, 2, 2, 3, 3, 3, 3, 3]
    turned = fold(-0.5, 0.1, 1.0, (0, 3), (-9, 6), 1)
    assert turned.multiplier == -1 and runtime(np.arange(-9, 7), turned, (0, 3)).tolist()[::-1] == [
        0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 3, 3,
    ]  # fmt: skip


def test_a_sum_on_a_step_is_not_decided():
    """p n + q is half a code at n = 0: half-to-even here, either code after a rounding."""
    assert fold(1.0, 0.5, 1.0, (0, 3), (-6, 9), 63, nearest=False) is None
    assert fold(1.0, 0.5, 1.0, (0, 3), (-6, -2), 63) is not None  # no sum gets there


def test_a_channel_that_batch_norm_has_switched_off_keeps_its_one_code():
    for q, code in ((0.9, 1), (-3.0, 0), (99.0, 3)):
        found = fold(0.0, q, 1.0, (0, 3), (-50, 50), 63)
        assert runtime(np.arange(-50, 51), found, (0, 3)).tolist() == [code] * 101


def test_what_has_no_staircase_is_said_or_taken_as_near_as_it_can_be():
    """255 steps and no multiplier: no whole bias puts all of them right."""
    p, q, alpha, codes, sums = 0.01, 0.437, 0.0317, (0, 255), (-4000, 4000)
    assert fold(p, q, alpha, codes, sums, 1) is None
    found, n = fold(p, q, alpha, codes, sums, 1, nearest=True), np.arange(sums[0], sums[1] + 1)
    wrong = runtime(n, found, codes) != trained(n, p, q, alpha, codes)
    assert not found.exact and 0 < wrong.mean() < 0.1
    assert np.abs(runtime(n, found, codes) - trained(n, p, q, alpha, codes)).max() == 1
