"""The t test that is looked at after every seed: closed forms, what the looks decide, and how often they err."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.seeds import confidence_sequence, power_of_fixed, rejects, seeds_of_fixed, simulated
from brsweep.errors import BrsweepError
from brsweep.sweep.seeds.sequential import (
    BETTER,
    LEVEL,
    SMALLER,
    UNDECIDED,
    WORSE,
    Design,
    bounds,
    looks,
    rule_in_words,
    spent,
)

DESIGN = Design(first=42, least=3, most=15, smallest=0.003, comparisons=1)


def verdicts(differences: list[float], design: Design = DESIGN) -> list[str]:
    return [look.verdict for look in looks(differences, design)]


@pytest.mark.parametrize("n", [2, 3, 15])
@pytest.mark.parametrize("level", [0.05, 0.05 / 14])
def test_one_look_is_the_t_test(n, level):
    assert bounds(level, n, n) == pytest.approx([stats.t.ppf(1 - level / 2, n - 1)], rel=1e-9)


def test_the_first_look_has_its_share_of_the_level():
    first = bounds(0.05, 3, 15)[0]
    assert 2 * stats.t.sf(first, 2) == pytest.approx(0.05 * (3 / 15) ** 2, rel=1e-9)


def test_all_of_the_level_is_spent_by_the_last_look():
    assert spent(0.05, 15, 15) == 0.05 and spent(0.05, 3, 6) == 0.05 / 4
    limits = bounds(0.05, 3, 15)
    assert len(limits) == 13 and list(limits) == sorted(limits, reverse=True)
    assert limits[-1] > stats.t.ppf(0.975, 14), "the earlier looks cost the last one something"


@pytest.mark.parametrize(("level", "least", "most"), [(0.05, 3, 15), (0.05 / 6, 2, 6), (0.2, 3, 5)])
def test_each_look_stops_as_many_as_were_to_be(level, least, most):
    """By counting, on values drawn as they are assumed; within five standard errors of so many draws."""
    count = 400_000
    values = np.random.default_rng(0).standard_normal((count, most))
    going = np.full(count, True)
    before = 0.0
    for n, limit in zip(range(least, most + 1), bounds(level, least, most), strict=True):
        t = values[:, :n].mean(1) / values[:, :n].std(1, ddof=1) * math.sqrt(n)
        stopped = going & (np.abs(t) > limit)
        share = spent(level, n, most) - before
        assert stopped.mean() == pytest.approx(share, abs=5 * math.sqrt(share / count))
        going &= ~stopped
        before = spent(level, n, most)


def test_an_interval_by_hand():
    differences = [0.001, 0.002, 0.006]
    (look,) = looks(differences, DESIGN)
    reach = bounds(0.05, 3, 15)[0] * statistics.stdev(differences) / math.sqrt(3)
    assert (look.n, look.mean) == (3, pytest.approx(0.003))
    assert (look.low, look.high) == pytest.approx((0.003 - reach, 0.003 + reach))


def test_what_the_looks_decide():
    steady = [0.0100, 0.0101, 0.0099, 0.0100]
    assert verdicts(steady) == [BETTER] and verdicts([-d for d in steady]) == [WORSE]
    assert verdicts([d - 0.01 for d in steady]) == [SMALLER]
    noisy = [0.01, -0.02, 0.015, -0.01, 0.02, -0.015]
    assert verdicts(noisy) == [UNDECIDED] * 4
    assert verdicts(noisy[:2]) == [], "before the least number of seeds nobody looks"


def test_the_path_ends_at_the_look_that_decides():
    first = looks([0.004, 0.006, 0.005, 0.0051, 0.0049, 0.005, -0.1, 0.1], DESIGN)
    assert [look.verdict for look in first[:-1]] == [UNDECIDED] * (len(first) - 1)
    assert first[-1].verdict == BETTER and first[-1].n < 7, "what comes after it changes nothing"


def test_differences_that_are_all_equal_decide_nothing():
    """Accuracies are counts; three equal differences are common among few images, and s = 0 would be certainty."""
    for equal in ([0.0] * 4, [0.0069] * 4):
        found = looks(equal, DESIGN)
        assert [(look.low, look.high, look.verdict) for look in found] == [(None, None, UNDECIDED)] * 2


def test_no_more_than_the_most_seeds_are_looked_at():
    design = Design(42, 3, 4, 0.0, 1)
    assert [look.n for look in looks([0.01, -0.02, 0.015, -0.01, 0.02], design)] == [3, 4]


def test_with_more_rows_a_row_needs_more():
    differences = [0.010, 0.0109, 0.0113, 0.010]
    assert verdicts(differences) == [BETTER]
    assert verdicts(differences, Design(42, 3, 15, 0.003, 14)) == [UNDECIDED, BETTER]


values = st.lists(st.integers(-40, 40), min_size=3, max_size=15)


@given(values)
def test_turned_about_the_verdicts_turn_about(steps):
    turned = {BETTER: WORSE, WORSE: BETTER}
    ahead, behind = (verdicts([sign * step / 1000 for step in steps]) for sign in (1, -1))
    assert behind == [turned.get(verdict, verdict) for verdict in ahead]


@given(values, st.sampled_from([0.25, 4.0]))
def test_in_other_units_the_verdicts_are_the_same(steps, scale):
    """Powers of two change no digit of the arithmetic."""
    scaled = Design(42, 3, 15, 0.003 * scale, 1)
    assert verdicts([scale * step / 1000 for step in steps], scaled) == verdicts([step / 1000 for step in steps])


def test_the_rules_in_words():
    def said(differences: list[float], design: Design = DESIGN) -> str:
        return rule_in_words(looks(differences, design)[-1], design)

    assert said([0.0100, 0.0101, 0.0099]) == "better at n=3: [+0.87, +1.13] points, above 0"
    assert said([-0.0100, -0.0101, -0.0099]) == "worse at n=3: [-1.13, -0.87] points, below 0"
    assert said([0.0, 0.0001, -0.0001]) == "smaller than 0.3 points at n=3: [-0.13, +0.13] points, within ±0.3"
    assert said([0.01, -0.02, 0.03]) == "undecided at n=3: [-31.77, +33.11] points, of at most 15"
    assert said([0.0, 0.0, 0.0], Design(42, 3, 3, 0.003, 1)) == "undecided at n=3: the most, no spread"


def test_a_design_is_read_as_it_was_written_and_nothing_else():
    from dataclasses import asdict

    assert Design.read(asdict(DESIGN)) == DESIGN and Design.read(None) is None
    for wrong in ({"most": 10**9}, {"least": 1}, {"least": 16}, {"smallest": "0"}, {"smallest": float("nan")},
                  {"comparisons": 0}, {"first": -1}, {"more": 1}, {"first": True}):  # fmt: skip
        with pytest.raises(BrsweepError, match="what it says of the seeds is damaged"):
            Design.read(asdict(DESIGN) | wrong)
    with pytest.raises(BrsweepError):
        Design.read([3, 15])


def test_the_seeds_of_a_test_planned_in_advance():
    """The figures of the docs' reasoning: at a spread of 0.2 points, half of it shared, +0.3 points wants 6 seeds."""
    assert (seeds_of_fixed(0.3, 1), seeds_of_fixed(0.3, 6)) == (6, 9)
    differences = 0.3 + 0.2 * np.random.default_rng(0).standard_normal((20_000, 6))
    found = (stats.ttest_1samp(differences, 0, axis=1).pvalue < 0.05).mean()
    assert found == pytest.approx(power_of_fixed(6, 0.3, 1), abs=5 * math.sqrt(0.25 / 20_000))


def test_the_bounds_find_more_than_the_anytime_valid_ones():
    """Which is why they were taken; each errs in at most 5 % (five standard errors of 20,000 sweeps are 0.8 %)."""
    for difference, gain in ((0.2, 0.05), (0.3, 0.01)):
        ours, theirs = (rejects(of(LEVEL, 3, 15), 20_000, difference, 3, 15) for of in (bounds, confidence_sequence))
        assert ours[0] > theirs[0] + gain and ours[1] < theirs[1] - 0.4
    assert rejects(bounds(LEVEL, 3, 15), 20_000, 0.0, 3, 15)[0] == pytest.approx(0.05, abs=0.008)
    assert rejects(confidence_sequence(LEVEL, 3, 15), 20_000, 0.0, 3, 15)[0] < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("images", [None, 1000, 144])
@pytest.mark.parametrize("comparisons", [1, 2, 6])
def test_without_a_difference_at_most_one_sweep_in_twenty_calls_a_row_better_or_worse(comparisons, images):
    """2,000 sweeps: 5 % are 100, whose standard error is 10; three of them are let through, which a method that errs in
    8 % would pass once in 40 times, and one that looks 13 times at 5 % (about 20 %) never."""
    design = Design(42, 3, 15, 0.0, comparisons)
    wrong = sum(
        any(look.verdict in (BETTER, WORSE) for look in rows)
        for rows in simulated(2000, [0.0] * comparisons, design, images=images)
    )
    assert wrong <= 130


@pytest.mark.slow
def test_a_difference_of_the_smallest_size_is_called_smaller_in_at_most_one_sweep_in_twenty():
    """Both ends of the rule: a true difference that is just not smaller, on either side. The tolerance as above."""
    design = Design(42, 3, 15, 0.003, 2)
    rows = list(simulated(2000, [0.3, -0.3], design))
    assert sum(any(look.verdict == SMALLER for look in row) for row in rows) <= 130
    assert sum(row[0].verdict == WORSE or row[1].verdict == BETTER for row in rows) <= 130
