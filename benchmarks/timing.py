"""Times of several steps that share a machine with others, compared by ratios."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

RESAMPLES = 2000


def measure(steps: dict[str, Callable[[], None]], rounds: int, seed: int = 0) -> dict[str, list[float]]:
    """Seconds of each step in each round, after one round that does not count."""
    names, order = list(steps), random.Random(seed)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        order.shuffle(names)
        for name in names:
            passed = seconds_of(steps[name])
            if turn:
                seconds[name].append(passed)
    return seconds


def seconds_of(step: Callable[[], None]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def ratio(above: list[float], below: list[float], seed: int = 0) -> tuple[float, float, float]:
    """Ratio of the medians and its 95 % interval: rounds drawn again, both sides from the same ones.

    >>> ratio([2.0, 2.0, 2.0], [1.0, 1.0, 1.0])
    (2.0, 2.0, 2.0)
    """
    draw, rounds = random.Random(seed), range(len(above))

    def of(chosen) -> float:
        return statistics.median(above[i] for i in chosen) / statistics.median(below[i] for i in chosen)

    drawn = sorted(of(draw.choices(rounds, k=len(rounds))) for _ in range(RESAMPLES))
    return of(rounds), drawn[int(0.025 * RESAMPLES)], drawn[int(0.975 * RESAMPLES)]
