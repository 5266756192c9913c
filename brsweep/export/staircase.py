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

Everything here is float64. The steps keep a margin to whole numbers, many times what float32 arithmetic in a runtime
can move them, so these codes are the same under each of its forms.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

MARGIN = 2.0**-20
"""Of the sum at the last step, with the bias: 16 roundings of float32. What is far beyond it is cut off anyway."""
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
    for k in range(1, 1 if tied.any() else largest + 1):
        for bias in sorted((np.floor(k * shift), np.ceil(k * shift)), key=lambda whole: abs(whole - k * shift)):
            margin = MARGIN * (k * scale * max(map(abs, codes)) + abs(bias))
            if k * reach + abs(bias) < LARGEST:
                unit = _unit(k * scale, halves, k * below + bias + margin, k * above + bias - margin)
                if unit is not None:
                    return Staircase(sign * k, int(bias), unit, True)
    bias = np.rint(largest * shift)
    if nearest and largest * reach + abs(bias) < LARGEST:
        return Staircase(sign * largest, int(bias), largest * scale, False)
    return None


def _unit(natural: float, halves: np.ndarray, below: np.ndarray, above: np.ndarray) -> float | None:
    """The unit nearest to `natural` with below <= halves * unit <= above at every step; None for none."""
    turned = halves < 0
    low, high = np.where(turned, above, below) / halves, np.where(turned, below, above) / halves
    least, most = max(low.max(initial=0.0), 0.0), high.min(initial=np.inf)
    if not least <= most or most <= 0:
        return None
    return float(np.clip(natural, least, most))
