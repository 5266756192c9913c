"""Sweeps with seed=auto on made-up accuracies: how often they err, what they find, and how many seeds they take.

`python -m benchmarks.seeds [--sweeps N]` prints the tables of docs/seeds.md, in minutes. A run's accuracy is its seed's
share and its own, both normal, so that the runs of one seed are correlated; each row is judged against one LSQ row.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
from scipy.special import nctdtr, stdtrit

from brsweep.sweep.seeds.sequential import BETTER, LEVEL, SMALLER, UNDECIDED, Design, Look, bounds, looks

SPREAD, CORRELATION = 0.2, 0.5
"""Of a run's accuracy over seeds, in points, and of the runs of one seed."""
DIFFERENCES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6)


def simulated(
    sweeps: int, differences: Sequence[float], design: Design, *, images: int | None = None, seed: int = 0
) -> Iterator[list[Look]]:
    """The last look at each row, sweep by sweep. differences: the rows' true ones, in points. images: on which the
    accuracies are counted; None for accuracies of any value."""
    chance = np.random.default_rng(seed)
    own = SPREAD * math.sqrt(1 - CORRELATION)
    for _ in range(sweeps):
        shared = 90 + SPREAD * math.sqrt(CORRELATION) * chance.standard_normal((design.most, 1))
        runs = shared + own * chance.standard_normal((design.most, 1 + len(differences))) + [0.0, *differences]
        accuracies = runs / 100 if images is None else np.round(runs / 100 * images) / images
        gaps = accuracies[:, 1:] - accuracies[:, :1]
        yield [looks(row.tolist(), design)[-1] for row in gaps.T]


def power_of_fixed(n: int, difference: float, comparisons: int) -> float:
    """The chance that a paired t test of n seeds, planned in advance, finds a difference in points."""
    limit = float(stdtrit(n - 1, 1 - LEVEL / comparisons / 2))
    centre = difference / (SPREAD * math.sqrt(2 * (1 - CORRELATION))) * math.sqrt(n)
    return float(1 - nctdtr(n - 1, centre, limit))


def seeds_of_fixed(difference: float, comparisons: int, power: float = 0.8) -> int:
    """The number of seeds with which a test that is planned in advance has the power."""
    return next(n for n in range(2, 1000) if power_of_fixed(n, difference, comparisons) >= power)


@cache
def confidence_sequence(level: float, least: int, most: int, width: float = 2.0) -> tuple[float, ...]:
    """The t values at which the anytime-valid t test rejects: a normal mixture over the difference, of variance
    `width` in units of the spread (Lai, 1976; Wang and Ramdas, 2023). Infinite where n values can't reject."""
    limits = []
    for n in range(least, most + 1):
        k = level ** (-2 / n) * (1 + n * width) ** (1 / n)
        limits.append(math.sqrt((n - 1) * (k - 1) / (1 - k / (1 + n * width))) if k < 1 + n * width else math.inf)
    return tuple(limits)


def rejects(limits: Sequence[float], sweeps: int, difference: float, least: int, most: int) -> tuple[float, float]:
    """The share of sweeps of one row whose |t| passes its limit at a look, and the mean number of seeds until then (or
    `most`)."""
    chance = np.random.default_rng(1)
    values = difference / (SPREAD * math.sqrt(2 * (1 - CORRELATION))) + chance.standard_normal((sweeps, most))
    n = np.arange(1, most + 1)
    mean = values.cumsum(1) / n
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.sqrt(((values**2).cumsum(1) - n * mean**2) / (n - 1))
        over = (np.abs(mean) * np.sqrt(n) > np.array([math.inf] * (least - 1) + list(limits)) * spread)[:, least - 1 :]
    return float(over.any(1).mean()), float(np.where(over.any(1), over.argmax(1) + least, most).mean())


def table(sweeps: int, comparisons: int) -> list[str]:
    """A line for each true difference: the verdicts, the seeds that it took, and those of a test planned in advance."""
    design = Design(first=42, least=3, most=15, smallest=0.003, comparisons=comparisons)
    lines = []
    for difference in DIFFERENCES:
        found = [row for rows in simulated(sweeps, [difference] * comparisons, design) for row in rows]
        share = {verdict: sum(look.verdict == verdict for look in found) / len(found)
                 for verdict in (BETTER, SMALLER, UNDECIDED)}  # fmt: skip
        fixed = f"{power_of_fixed(15, difference, comparisons):.0%}" if difference else ""
        needed = seeds_of_fixed(difference, comparisons) if difference else ""
        cells = [f"{difference:g}", *(f"{value:.0%}" for value in share.values())]
        cells += [f"{np.mean([look.n for look in found]):.1f}", fixed, needed]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


def errors(sweeps: int, comparisons: int, images: int | None) -> float:
    """The share of sweeps without any difference of which a row is called better or worse."""
    design = Design(first=42, least=3, most=15, smallest=0.003, comparisons=comparisons)
    wrong = [any(look.verdict not in (SMALLER, UNDECIDED) for look in rows)
             for rows in simulated(sweeps, [0.0] * comparisons, design, images=images)]  # fmt: skip
    return sum(wrong) / sweeps


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seeds", description=__doc__)
    parser.add_argument("--sweeps", type=int, default=2000, help="simulated for each line")
    sweeps = parser.parse_args(arguments).sweeps
    for comparisons in (2, 6):
        wrong = [f"{errors(sweeps, comparisons, images):.1%}" for images in (None, 1000, 144)]
        print(f"{comparisons} rows without a difference: {', '.join(wrong)} err (any values, 1,000 images, 144 images)")
        print("| difference | better | smaller | undecided | seeds | fixed n = 15 finds | fixed n for 80 % |")
        print("\n".join(table(sweeps, comparisons)), flush=True)
    print("| difference, one row | bounds: found, seeds | confidence sequence: found, seeds |")
    for difference in DIFFERENCES:
        pairs = [rejects(of(LEVEL, 3, 15), 20 * sweeps, difference, 3, 15) for of in (bounds, confidence_sequence)]
        print(f"| {difference:g} | " + " | ".join(f"{share:.1%}, {n:.1f}" for share, n in pairs) + " |")


if __name__ == "__main__":
    main()
