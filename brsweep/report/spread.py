"""Mean and spread over seeds, paired differences, and Holm's correction for the number of comparisons."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

SIGNIFICANCE, POWER = 0.05, 0.8
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
    give them: one pair, or differences that are all equal, whose spread says nothing. `holm` is p corrected. `sees`:
    the difference that a t test of n such pairs finds with 80 % power. `correlation`: of the values that are paired."""

    n: int
    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    holm: float | None = None
    sees: float | None = None
    correlation: float | None = None

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
    from scipy.special import nctdtrinc, stdtr, stdtrit

    error = of.sd / math.sqrt(of.n)
    limit = float(stdtrit(of.n - 1, 1 - SIGNIFICANCE / 2))
    p = 2 * float(stdtr(of.n - 1, -abs(of.mean) / error))
    sees = float(nctdtrinc(of.n - 1, 1 - POWER, limit)) * error
    return Paired(of.n, of.mean, of.mean - limit * error, of.mean + limit * error, p, sees=sees)


def correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Pearson's, of three pairs or more; None where one side has no spread.

    >>> correlation([(1.0, 2.0), (2.0, 4.0), (3.0, 6.0)])
    1.0
    """
    sides = list(zip(*pairs, strict=True))
    if len(pairs) < 3 or any(max(side) - min(side) <= 1e-12 for side in sides):
        return None
    return statistics.correlation(*sides)


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
