"""How exact the penalty is where it is hardest: bins so sharp that all values lie within 1e-4 alpha of their levels."""

from __future__ import annotations

import torch

from brsweep.kernels import ALL_VALUES, fake_quantize
from brsweep.quant.grid import Grid
from brsweep.regularizers.bin import bin_penalty

VALUES = 1_000_000
WIDTH = 1e-4
"""The residuals' standard deviation, in step sizes."""


def penalty_error(bits: int, device: torch.device, signed: bool = False) -> float:
    """Relative error of the float32 penalty against float64 on the same float32 values.

    The reference takes each bin's mean and variance straight from eq. 5, in double precision.
    """
    draw, grid = torch.Generator().manual_seed(bits), Grid(bits, signed)
    alpha = torch.tensor(0.1234567)
    codes = torch.randint(grid.qn, grid.qp + 1, (VALUES,), generator=draw).double()
    noise = torch.randn(VALUES, generator=draw, dtype=torch.float64)
    values = ((codes + WIDTH * noise) * alpha.double()).float()
    exact = 0.0
    present, counts = codes.unique(return_counts=True)
    by_code = values[codes.argsort()].double().split(counts.tolist())
    for code, inside in zip(present, by_code, strict=True):
        exact += ((inside.mean() - code * alpha.double()) ** 2 + inside.var(correction=0)).item()
    on_device = values.to(device), alpha.to(device)
    _, sums = fake_quantize(*on_device, grid.qn, grid.qp, grad_scale=1.0, sums=ALL_VALUES)
    return abs(bin_penalty(sums).item() / exact - 1)
