"""The range of a grid that leaves the least mean squared error: where a quantizer starts whose paper says so.

A search over ranges [low, high], both towards zero from the values' own; deterministic, without a gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from brsweep.kernels import ALPHA_FLOOR
from brsweep.quant.grid import Grid

MOST_VALUES = 2**16
"""Of a tensor, evenly spaced: the error of a range is a mean, which this many values give to half a percent."""
HIGHS, LOWS = 64, 16


@torch.no_grad()
def least_squares_range(values: Tensor, grid: Grid) -> tuple[float, float]:
    """(step size, offset) for values of any shape, level = code * step + offset; of the ranges tried the first best.

    Values that are all equal or all zero give ALPHA_FLOOR as the step size.
    """
    flat = values.detach().flatten().double()
    flat = flat[:: max(1, flat.numel() // MOST_VALUES)]
    lowest, highest = min(float(flat.min()), 0.0), max(float(flat.max()), 0.0)
    lows = [lowest * i / LOWS for i in range(LOWS + 1)] if lowest < 0 else [0.0]
    highs = [highest * i / HIGHS for i in range(1, HIGHS + 1)] if highest > 0 else [0.0]
    best, found = float("inf"), (ALPHA_FLOOR, 0.0)
    for low in lows:
        for high in highs:
            step = (high - low) / (grid.qp - grid.qn)
            if step < ALPHA_FLOOR:
                continue
            offset = low - grid.qn * step
            codes = ((flat - offset) / step).clamp(grid.qn, grid.qp).round()
            error = float((codes * step + offset - flat).square().mean())
            if error < best:
                best, found = error, (step, offset)
    return found
