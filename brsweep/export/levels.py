"""What a quantized network is made of once it is trained: integer codes and step sizes.

    weight       level = code * step                                       code in [Qn, Qp]
    activation   level = step * round(clamp(value / step, lowest, highest))

A ReLU before an activation's quantizer, and its clip, are in `lowest` and `highest`: the unsigned grid begins at 0, and
no value beyond a clip has a higher code than the clip itself. Division is correctly rounded and ties go to even, as in
`brsweep.kernels`, so these codes are those of the trained network to the last one.

A quantizer whose values are no levels, or whose levels are no multiples of a step size, has no such form and is refused
by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from brsweep.errors import BrsweepError
from brsweep.export.load import Network
from brsweep.quant.grid import Grid
from brsweep.quant.quantizer import Quantizer
from brsweep.quant.sites import Site

PROBES = 4001


@dataclass(frozen=True)
class WeightLevels:
    """codes: int8 of the weight's shape. steps: float32, [] or one per channel along `axis`."""

    name: str
    grid: Grid
    codes: Tensor
    steps: Tensor
    axis: int


@dataclass(frozen=True)
class ActivationLevels:
    """step: float32, []. lowest, highest: the codes that there are."""

    name: str
    grid: Grid
    step: Tensor
    lowest: int
    highest: int

    @property
    def zero(self) -> int:
        """What is added to codes to store them as uint8; the values 0 to `most` stand for them then."""
        return -self.lowest

    @property
    def most(self) -> int:
        return self.highest - self.lowest


Levels = WeightLevels | ActivationLevels


@torch.no_grad()
def levels_of(network: Network) -> Mapping[tuple[str, str], Levels]:
    """(kind, site's name) -> its levels, on the CPU, in the order of execution. Raises `BrsweepError` naming a site
    that has none."""
    found: dict[tuple[str, str], Levels] = {}
    for site in network.conversion.sites:
        _check(site)
        make = _weight if site.kind == "weight" else _activation
        found[site.kind, site.name] = make(site, network.model)
    return found


def _check(site: Site) -> None:
    quantizer, kind = site.quantizer, type(site.quantizer).__name__
    if not isinstance(quantizer, Quantizer) or quantizer.alpha is None:
        raise BrsweepError(f"{site.name}: {kind} has no step size, so no integers stand for its values")
    if quantizer.offset is not None:
        raise BrsweepError(f"{site.name}: {kind} has an offset: its levels are no multiples of its step size")


def _weight(site: Site, model: nn.Module) -> WeightLevels:
    weight, quantizer = model.get_submodule(site.name).weight, site.quantizer
    codes = quantizer.codes(weight)
    _check_on_levels(site, weight, codes)
    steps = quantizer.step_size.detach().float().cpu()
    return WeightLevels(site.name, site.grid, codes.to(torch.int8).cpu().contiguous(), steps, quantizer.axis)


def _activation(site: Site, model: nn.Module) -> ActivationLevels:
    quantizer, grid = site.quantizer, site.grid
    step = quantizer.step_size.detach()
    if step.dim():
        raise BrsweepError(f"{site.name}: a step size per channel of an activation; one per tensor can be exported")
    values = torch.linspace(grid.qn - 1.5, grid.qp + 1.5, PROBES, device=step.device) * step
    _check_on_levels(site, values, quantizer.codes(values))
    place = dict(model.named_modules()).get(site.name)
    clip = getattr(place, "clip_value", None)
    highest = grid.qp if clip is None else int(quantizer.codes(torch.tensor([clip], device=step.device)))
    return ActivationLevels(site.name, grid, step.float().cpu(), grid.qn, highest)


def _check_on_levels(site: Site, values: Tensor, codes: Tensor) -> None:
    quantizer = site.quantizer
    levels = codes.to(values.dtype) * quantizer.along_axis(quantizer.step_size.detach(), values)
    if not torch.equal(quantizer(values), levels):
        kind = type(quantizer).__name__
        raise BrsweepError(f"{site.name}: {kind} gives values that are not its levels, so no integers stand for them")
