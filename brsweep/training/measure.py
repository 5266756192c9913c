"""What a quantized network looks like from inside: numbers per site at each epoch's end, histograms at a stage's ends.

Activations are those of a fixed probe batch of training images, unaugmented, in evaluation mode; weights are all of
them. Bin Regularization's parts are measured in the paper's plain form (biased, every value) whatever the run trains
with, so runs can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from brsweep.kernels import COUNT, SQUARES
from brsweep.quant.bins import bin_parts
from brsweep.quant.sites import Site, SumRequest
from brsweep.tracking.snapshots import MARGIN

NEAR = 0.01
"""A value is near its level within this many steps."""
LOOKS = 8
"""How often an epoch `CodeChanges` looks at the codes."""


class Probe:
    """Looks at `sites` of `model` with a fixed batch of images."""

    def __init__(self, model: nn.Module, sites: Sequence[Site], images: Tensor) -> None:
        self.model, self.sites, self.images = model, tuple(sites), images

    @torch.no_grad()
    def values(self) -> dict[str, Tensor]:
        """Site name -> the float values that its quantizer receives."""
        received: dict[str, Tensor] = {}
        was_training = self.model.training
        handles = []
        for site in self.sites:
            keep = partial(_keep, received, site.name)
            handles.append(site.quantizer.register_forward_pre_hook(keep))
        try:
            self.model.eval()(self.images)
        finally:
            for handle in handles:
                handle.remove()
            self.model.train(was_training)
        return {site.name: received[site.name].float() for site in self.sites}

    def codes(self) -> dict[str, Tensor]:
        """The weights' codes, int16."""
        weights = [site for site in self.sites if site.kind == "weight" and site.quantizer.alpha is not None]
        return {site.name: site.quantizer.codes(self.model.get_submodule(site.name).weight) for site in weights}

    def layers(
        self, changes: CodeChanges | None, lambdas: Mapping[str, float], weight_decay: float
    ) -> dict[str, list[Any]]:
        """One list per metric, in the order of "site"; None where a metric has no meaning for a site, as all that are
        about levels have for a quantizer without a step size.

        alpha (mean over channels); br_mean, br_variance: the parts of L_BR, summed over bins; occupancy: the share of
        values per bin; near: the share within NEAR steps of a level; clip_low, clip_high: the share beyond the range;
        changed, oscillating: the shares of weights that `changes` tells; pull_over_decay: BR's pull on the weights over
        weight decay's, 2 lambda sqrt(sum of S2/n^2) / (wd |w|).
        """
        rows = []
        moved = changes.shares() if changes else {}
        for name, values in self.values().items():
            site = next(s for s in self.sites if s.name == name)
            row = _numbers(values, site) if site.quantizer.alpha is not None else dict.fromkeys(NUMBERS)
            row["changed"], row["oscillating"] = moved.get(name, (None, None))
            row["pull_over_decay"] = None
            if site.kind == "weight" and weight_decay > 0 and lambdas.get("weight") and row["pull"] is not None:
                pull = row["pull"] * lambdas["weight"]
                row["pull_over_decay"] = pull / (weight_decay * values.double().norm())
            del row["pull"]
            rows.append({"site": name, "kind": site.kind, "bits": site.grid.bits, "low": site.low} | row)
        return {key: [_plain(row[key]) for row in rows] for key in rows[0]} if rows else {}

    def histograms(self) -> dict[str, dict[str, Any]]:
        """Site name -> counts over v / alpha (less the offset) in equal cells from "low" up to "high"; values outside
        are not counted but numbered in "below" and "above". A site without a step size has none."""
        result = {}
        for name, values in self.values().items():
            site = next(s for s in self.sites if s.name == name)
            if site.quantizer.alpha is None:
                continue
            low, high = site.grid.qn - MARGIN, site.grid.qp + MARGIN
            per_step = max(8, 128 // site.grid.bins)
            counts = _cell_counts(site.quantizer.scaled(values).flatten(), low, high, per_step)
            result[name] = {
                "counts": counts[1:-1],
                "low": low,
                "high": high,
                "below": int(counts[0]),
                "above": int(counts[-1]),
                "alpha": float(site.quantizer.alpha.detach().mean()),
                "kind": site.kind,
                "bits": site.grid.bits,
            }
        return result


class CodeChanges:
    """Which weights' codes move during an epoch, and which of them turn round: a move up and one down, or the reverse.

    Nagel et al. ("Overcoming Oscillations in Quantization-Aware Training", ICML 2022) call the second oscillation and
    look at every step; this looks LOOKS times an epoch, so a weight that changes faster may seem at rest.
    """

    def __init__(self, probe: Probe, steps: int) -> None:
        self.probe, self.every = probe, max(1, steps // LOOKS)
        self.first = self.last = probe.codes()
        self.heading = {name: torch.zeros_like(codes) for name, codes in self.last.items()}
        self.turned = {name: torch.zeros_like(codes, dtype=torch.bool) for name, codes in self.last.items()}

    def after_step(self, step: int) -> None:
        if (step + 1) % self.every == 0:
            self._look()

    def shares(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Site name -> the share whose code is another than at first, and the share that turned round."""
        self._look()
        return {
            name: ((self.last[name] != first).double().mean(), self.turned[name].double().mean())
            for name, first in self.first.items()
        }

    def _look(self) -> None:
        now = self.probe.codes()
        for name, codes in now.items():
            move, heading = (codes - self.last[name]).sign_(), self.heading[name]
            self.turned[name] |= move * heading < 0
            self.heading[name] = torch.where(move == 0, heading, move)
        self.last = now


def _keep(received: dict[str, Tensor], name: str, _: nn.Module, inputs: tuple[Tensor]) -> None:
    received[name] = inputs[0]


def penalty_totals(layers: Mapping[str, Sequence[Any]]) -> dict[str, float | None]:
    """L_BR of the weights and of the activations, summed over the sites at the low bit-width; None for a kind that has
    no such site with levels."""
    totals: dict[str, float | None] = {"weight": None, "act": None}
    columns = ("kind", "low", "br_mean", "br_variance")
    for kind, low, mean, variance in zip(*(layers.get(c, ()) for c in columns), strict=True):
        if low and mean is not None:
            totals[kind] = (totals[kind] or 0.0) + mean + variance
    return totals


NUMBERS = ("alpha", "br_mean", "br_variance", "occupancy", "near", "clip_low", "clip_high", "pull")


@torch.no_grad()
def _numbers(values: Tensor, site: Site) -> dict[str, Tensor]:
    """NUMBERS of one site."""
    grid, quantizer = site.grid, site.quantizer
    scaled = quantizer.scaled(values)
    codes = scaled.clamp(grid.qn, grid.qp).round()
    channels = quantizer.bin_sums(values, SumRequest()).reshape(-1, 3, grid.bins)
    mean, variance = (part.sum(-1).mean() for part in bin_parts(channels))
    return {
        "alpha": quantizer.alpha.mean(),
        "br_mean": mean,
        "br_variance": variance,
        "occupancy": channels[:, COUNT].sum(0) / max(values.numel(), 1),
        "near": ((scaled - codes).abs() < NEAR).double().mean(),
        "clip_low": (scaled < grid.qn).double().mean(),
        "clip_high": (scaled > grid.qp).double().mean(),
        "pull": 2 * (channels[:, SQUARES] / channels[:, COUNT].clamp(min=1) ** 2).sum().sqrt() / len(channels),
    }


def _cell_counts(scaled: Tensor, low: float, high: float, per_step: int) -> Tensor:
    """How many values lie below `low`, in each cell of 1 / per_step from there on, and at `high` or above: int64, on
    the CPU.

    per_step: a power of two, so that cells are told apart exactly. Counts of integers, since CUDA has no deterministic
    `torch.histc`. A value that is no number counts as below.
    """
    cells = int((high - low) * per_step)
    index = ((scaled * per_step).floor_() - low * per_step + 1).clamp_(0, cells + 1)
    return torch.bincount(index.to(torch.int64).clamp_(0, cells + 1), minlength=cells + 2).cpu()


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value
