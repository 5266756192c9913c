"""Mean and spread over seeds, paired differences, and Holm's correction for the number of comparisons."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

SIGNIFICANCE = 0.05
BETTER, WORSE, UNDECIDED = "better", "worse", "undecided"


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n - 1) of n values; one value has no spread, `sd` is None."""

    n: int
    mean: float
    sd: float | None


@dataclass(frozen=True)
class Paired:
    """The mean of n paired differences with its two-sided 95 % t interval and p; all three None where n pairs cannot
    give them: one pair, or differences that are all equal, whose spread says nothing. `holm` is p corrected."""

    n: int
    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    holm: float | None = None

    @property
    def verdict(self) -> str:
        """better or worse where Holm's p is below SIGNIFICANCE, else undecided."""
        if self.holm is None or self.holm >= SIGNIFICANCE:
            return UNDECIDED
        return BETTER if self.mean > 0 else WORSE

    def statement(self) -> str:
        return f"{self.verdict} at n={self.n}"


def spread(values: Sequence[float | None]) -> Spread | None:
    """Of the values that are there; None where there is none.

    >>> spread([1.0, 3.0, None])
    Spread(n=2, mean=2.0, sd=1.4142135623730951)
    """
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Spread(len(known), statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None)


def paired(differences: Sequence[float]) -> Paired | None:
    """The paired t test of `differences` against 0; None where there is no pair."""
    of = spread(differences)
    if of is None or of.sd is None or of.sd <= 1e-12:
        return of and Paired(of.n, of.mean)
    from scipy.special import stdtr, stdtrit

    error = of.sd / math.sqrt(of.n)
    reach = float(stdtrit(of.n - 1, 1 - SIGNIFICANCE / 2)) * error
    p = 2 * float(stdtr(of.n - 1, -abs(of.mean) / error))
    return Paired(of.n, of.mean, of.mean - reach, of.mean + reach, p)


def corrected(comparisons: Sequence[Paired | None]) -> list[Paired | None]:
    """The same with Holm's p over all that have one: the i-th smallest of m is multiplied by m - i + 1, and none is
    smaller than the one before it (Holm, Scandinavian Journal of Statistics 6, 1979).

    >>> [c.holm for c in corrected([Paired(3, 1.0, p=0.01), Paired(3, 1.0, p=0.04), None, Paired(3, 1.0, p=0.03)]) if c]
    [0.03, 0.06, 0.06]
    """
    judged = list(comparisons)
    order = sorted((c.p, i) for i, c in enumerate(judged) if c is not None and c.p is not None)
    floor = 0.0
    for rank, (p, i) in enumerate(order):
        floor = max(floor, min(1.0, (len(order) - rank) * p))
        judged[i] = replace(judged[i], holm=floor)
    return judged
