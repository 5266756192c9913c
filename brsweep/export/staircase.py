"""Batch norm folded into integers, so that no code changes.

A layer of integer weights on integer inputs sums up an integer n. What follows, batch norm and the next quantizer, is
a staircase of it: monotone, with one step for each code.

    code(n) = round(clamp((p n + q) / alpha, lowest, highest))      p, q: step sizes, batch norm and bias, per channel

An integer runtime (ONNX Runtime's QLinearConv) has another staircase, with a whole number for the bias:

    code(n) = round(clamp((k n + B) / u, lowest, highest))          k, B whole numbers; u a positive one of any size

With k = 1 and u = alpha / p, B is q/p rounded, up to half a unit of n away, which at two bits changes some percent of
the codes. But the stored weights are int8, so low-bit codes can stand there multiplied by a whole number k, which makes
B finer by k (and turns the sign where p < 0), and u may be any number that puts every step between the same two
whole numbers n. `fold` looks for such k, B and u and says so where there are none.

Everything here is float64. A runtime that adds up products of step sizes in float32 instead, as one without integer
convolutions does, moves its sums by some roundings. So the unit lies in the middle of those that fit, and of several k
the first is taken whose middle has room, or else the one with the most.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

MARGIN = 2.0**-20
"""Of the sum at the last step, with the bias: 16 roundings of float32. What is far beyond it is cut off anyway."""
ROOM = 2.0**-11
"""Of the unit, between the smallest and the largest that fit: half of it is 4,096 roundings."""
TIE = 2.0**-40
"""Of the same: a sum so near to a step lies on it."""
LARGEST = 2.0**30
"""No sum may come near the range of int32."""


class Staircase(NamedTuple):
    """multiplier: k, of the sign of p. bias: B. unit: u, in units of k n. exact: every code is the trained one's."""

    multiplier: int
    bias: int
    unit: float
    exact: bool


def fold(
    p: float, q: float, alpha: float, codes: tuple[int, int], sums: tuple[int, int], largest: int, nearest: bool = False
) -> Staircase | None:
    """The whole-number staircase of one channel.

    codes: the lowest and the highest. sums: the same for n, all that inputs and weights can give. largest: |k| at most.
    nearest: where no staircase has all codes, the one with the largest k and the nearest B instead of None.
    """
    if p == 0:  # one code, whatever n: weights of 0 and a bias that is the code
        code = int(np.clip(np.rint(q / alpha), *codes))
        return Staircase(0, code, 1.0, True)
    sign = 1 if p > 0 else -1
    lowest, highest = sums if p > 0 else (-sums[1], -sums[0])
    scale = alpha / abs(p)
    halves = np.arange(codes[0] + 1, codes[1] + 1) - 0.5
    shift = q / abs(p)
    steps = halves * scale - shift
    tied = np.abs(steps - np.rint(steps)) <= TIE * (np.abs(halves) * scale + abs(shift))
    tied &= (steps > lowest - 1) & (steps < highest + 1)  # half a code: after a rounding it is the one or the other
    above = np.floor(steps) + 1  # the first whole n beyond each step
    below = np.where(above - 1 < lowest, -np.inf, np.minimum(above - 1, highest))
    above = np.where(above > highest, np.inf, np.maximum(above, lowest))
    reach = max(abs(lowest), abs(highest))
    best, most_room = None, 0.0
    for k in range(1, 1 if tied.any() else largest + 1):
        for bias in (np.floor(k * shift), np.ceil(k * shift)):
            margin = MARGIN * (k * scale * max(map(abs, codes)) + abs(bias))
            if k * reach + abs(bias) < LARGEST:
                unit, room = _unit(k * scale, halves, k * below + bias + margin, k * above + bias - margin)
                if room > most_room:
                    best, most_room = Staircase(sign * k, int(bias), unit, True), room
        if most_room >= ROOM:
            break
    if best is not None:
        return best
    bias = np.rint(largest * shift)
    if nearest and largest * reach + abs(bias) < LARGEST:
        return Staircase(sign * largest, int(bias), largest * scale, False)
    return None


def _unit(natural: float, halves: np.ndarray, below: np.ndarray, above: np.ndarray) -> tuple[float, float]:
    """The middle of the units with below <= halves * unit <= above at every step, and the room between the smallest
    and the largest, as a share of it; a room of 0 or less for none. Units far from `natural` are left out."""
    turned = halves < 0
    low, high = np.where(turned, above, below) / halves, np.where(turned, below, above) / halves
    least, most = max(low.max(initial=0.0), natural / 2), min(high.min(initial=np.inf), natural * 2)
    middle = (least + most) / 2
    return float(middle), float((most - least) / middle)
