"""Whether a row differs from the one that it is compared with, looked at after every seed: a group-sequential t test.

A test at 5 % that is looked at after each of many seeds errs in far more than 5 % of the sweeps. Here the level is
spent over the looks instead (Lan and DeMets, Biometrika 70, 1983): level * (n / most)^2 of it by n of at most `most`
seeds, the power family of Kim and DeMets (Biometrika 74, 1987); and the bound of each look is the t value that spends
what falls to it. The bounds are exact for t at any number of seeds, not those of normal values with a known spread
(Jennison and Turnbull, "Exact calculations for sequential t, chi-squared and F tests", Biometrika 78, 1991).

A bound gives an interval at each look, mean +- bound * s / sqrt(n). All intervals of a row hold its true difference at
the same time with probability 1 - level, so three rules can be read off them, and all three together err no more often:

    better     the interval lies above 0
    worse      it lies below 0
    smaller    it lies within +- `smallest`: whatever difference there is, is smaller than that

With several rows each gets level / rows (Bonferroni): what a row has been told then does not depend on the others.

How the bounds are found. Of n values with mean 0, u = sum / sqrt(sum of squares) is all that t depends on, and under no
difference u is a Markov chain: the next value is w * sqrt(sum of squares), where w * sqrt(n) follows Student's t with n
degrees of freedom whatever came before, and so u' = (u + w) / sqrt(1 + w^2), or u cos(a) + sin(a) with w = tan(a). The
distribution of u among the sweeps that have not stopped is carried from look to look on a grid.

Assumed: paired differences of the seeds are independent and normal with one mean and one spread. `least`, `most`,
`smallest` and the rows are chosen before the first look. Validation accuracies are counts over images, so differences
come in steps; where all of them are equal there is no spread to judge by, and the row goes on.

An anytime-valid confidence sequence (Lai, Annals of Statistics 4, 1976; Wang and Ramdas, 2023) would need no `most`; up
to 15 seeds it takes more of them and finds less, see docs/seeds.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from brsweep.errors import BrsweepError

LEVEL = 0.05
EXPONENT = 2
"""Of the spending: the larger, the less is spent on the first looks."""
CELLS, ANGLES = 400, 20_001
"""Of the grids: bounds are right to a thousandth, which changes no error rate that could be counted."""
MOST_SEEDS = 100
NO_SPREAD = 1e-12
BETTER, WORSE, SMALLER, UNDECIDED = "better", "worse", "smaller", "undecided"


@dataclass(frozen=True)
class Design:
    """What was chosen before the first look. first: the first seed. least, most: seeds of a row. smallest: a difference
    of accuracies, in [0, 1]. comparisons: rows that are judged."""

    first: int
    least: int
    most: int
    smallest: float
    comparisons: int

    @classmethod
    def read(cls, values: Any) -> Design | None:
        """As a manifest holds it; None where it holds none. Raises `BrsweepError` for what no launcher writes."""
        if values is None:
            return None
        whole = [field.name for field in fields(cls) if field.name != "smallest"]
        sound = isinstance(values, Mapping) and {field.name for field in fields(cls)} == set(values)
        sound = sound and all(type(values[name]) is int for name in whole)
        if sound and isinstance(values["smallest"], (int, float)) and not isinstance(values["smallest"], bool):
            design = cls(**values)
            in_range = 2 <= design.least <= design.most <= MOST_SEEDS and 0 <= design.smallest < 1
            if in_range and design.first >= 0 and 1 <= design.comparisons < 10**6:
                return design
        raise BrsweepError("what it says of the seeds is damaged; the same command writes it anew")


@dataclass(frozen=True)
class Look:
    """After n seeds: the mean difference, its interval (None where the differences have no spread), and the verdict."""

    n: int
    mean: float
    low: float | None
    high: float | None
    verdict: str


def looks(differences: Sequence[float], design: Design) -> list[Look]:
    """The looks at paired differences, in the order of the seeds, up to the one that decides; none before `least`.

    >>> [look.verdict for look in looks([0.020, 0.022, 0.021], Design(42, 3, 3, 0.003, 1))]
    ['better']
    """
    limits = bounds(LEVEL / design.comparisons, design.least, design.most)
    found = []
    for n in range(design.least, min(len(differences), design.most) + 1):
        mean = math.fsum(differences[:n]) / n
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in differences[:n]) / (n - 1))
        if deviation <= NO_SPREAD:
            found.append(Look(n, mean, None, None, UNDECIDED))
            continue
        reach = limits[n - design.least] * deviation / math.sqrt(n)
        low, high = mean - reach, mean + reach
        found.append(Look(n, mean, low, high, _verdict(low, high, design.smallest)))
        if found[-1].verdict != UNDECIDED:
            break
    return found


def rule_in_words(look: Look, design: Design) -> str:
    """The verdict with the rule that it comes from: `better at n=5: [+0.12, +0.60] points, above 0`."""
    interval = "no spread" if look.low is None else f"[{100 * look.low:+.2f}, {100 * look.high:+.2f}] points"
    smallest = f"{100 * design.smallest:g}"
    if look.verdict == UNDECIDED:
        rule = f"the most, {interval}" if look.n == design.most else f"{interval}, of at most {design.most}"
        return f"undecided at n={look.n}: {rule}"
    named = f"smaller than {smallest} points" if look.verdict == SMALLER else look.verdict
    where = {BETTER: "above 0", WORSE: "below 0", SMALLER: f"within ±{smallest}"}[look.verdict]
    return f"{named} at n={look.n}: {interval}, {where}"


def _verdict(low: float, high: float, smallest: float) -> str:
    if low > 0:
        return BETTER
    if high < 0:
        return WORSE
    return SMALLER if -smallest < low and high < smallest else UNDECIDED


def spent(level: float, n: int, most: int) -> float:
    """Of the level, what is spent by n seeds."""
    return level * (n / most) ** EXPONENT


@cache
def bounds(level: float, least: int, most: int) -> tuple[float, ...]:
    """The t value at each look, from `least` to `most`, that |t| exceeds for the first time there with the probability
    that is spent on that look, under no difference.

    >>> [round(bound, 2) for bound in bounds(0.05, 3, 3)]
    [4.3]
    """
    import numpy as np
    from scipy.optimize import brentq
    from scipy.special import stdtr, stdtrit

    first = -float(stdtrit(least - 1, spent(level, least, most) / 2))
    found = [first]
    edges, cells = _grid(least, first)
    mass = np.diff(stdtr(least - 1, edges / np.sqrt((1 - edges**2 / least) * least / (least - 1))))
    for n in range(least + 1, most + 1):
        share = spent(level, n, most) - spent(level, n - 1, most)
        turn = _turn(n - 1)
        end = float(brentq(_stopping, 0.0, math.sqrt(n), args=(cells, mass, turn, share)))
        found.append(end * math.sqrt((n - 1) / (n - end**2)))
        edges, following = _grid(n, found[-1])
        mass, cells = np.diff(_upto(edges, cells, turn), axis=0) @ mass, following
    return tuple(found)


def _grid(n: int, bound: float) -> tuple[Any, Any]:
    """Edges and middles of cells of u between the bounds +- `bound` of t, even in arcsin(u / sqrt(n)): that is fine at
    the ends, where t grows fast."""
    import numpy as np

    end = math.atan(bound / math.sqrt(n - 1))
    places = np.linspace(-end, end, 2 * CELLS + 1)
    values = math.sqrt(n) * np.sin(places)
    return values[::2], values[1::2]


def _stopping(end: float, cells: Any, mass: Any, turn: Callable[[Any], Any], share: float) -> float:
    """By how much the sweeps that the bound u = `end` stops are more than `share`."""
    import numpy as np

    below, inside = _upto(np.array([-end, end]), cells, turn)
    return float(mass.sum() - (inside - below) @ mass) - share


def _turn(n: int) -> Callable[[Any], Any]:
    """P(a <= angle) for the angle by which one more value turns u after n: sqrt(n) tan(a) is Student's t, n degrees."""
    import numpy as np
    from scipy.special import stdtr

    angles = np.linspace(-math.pi / 2, math.pi / 2, ANGLES)
    shares = stdtr(n, math.sqrt(n) * np.tan(angles))
    return lambda angle: np.interp(angle, angles, shares)


def _upto(ends: Any, starts: Any, turn: Callable[[Any], Any]) -> Any:
    """P(u after the next value <= end | u = start), [ends, starts]: u cos(a) + sin(a) is sqrt(1 + u^2)
    sin(a + arctan(u)), with a between -pi/2 and pi/2."""
    import numpy as np

    ahead = np.arctan(starts)
    rise = np.arcsin(np.clip(ends[:, None] / np.sqrt(1 + starts**2), -1, 1))
    return turn(rise - ahead) - turn(-math.pi - rise - ahead) + 1 - turn(math.pi - rise - ahead)
