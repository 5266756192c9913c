"""Bin sums as a by-product of the forward pass: open `collect`, run the network, read one entry per site.

    with collect(sites(model), weights=SumRequest(), activations=SumRequest()) as seen:
        logits = model(images)
    seen["layer1.0.conv1"].sums          # differentiable; see brsweep.kernels

Outside it quantizers compute no sums and keep nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from brsweep.errors import BrsweepError
from brsweep.kernels import ALL_VALUES
from brsweep.quant.grid import Grid

DETACHED, RAW, LSQ_SCALED = "detached", "raw", "lsq"


class SumRequest(NamedTuple):
    """What a regularizer wants of a quantizer.

    sums: `kernels.ALL_VALUES`, or `kernels.INSIDE_VALUES` to leave out saturated values.
    alpha_grad: how gradients reach alpha through the sums: "detached" not at all, "raw" as they are, "lsq" multiplied
        by LSQ's g = 1 / sqrt(N * Qp), which puts them on the scale of the task's gradient.
    """

    sums: str = ALL_VALUES
    alpha_grad: str = DETACHED

    def alpha_factor(self, grad_scale: float) -> float:
        return {DETACHED: 0.0, RAW: 1.0, LSQ_SCALED: grad_scale}[self.alpha_grad]


@dataclass(frozen=True)
class Site:
    """A place where weights or activations are quantized: its name in the network and its quantizer."""

    name: str
    kind: str  # "weight" or "act"
    quantizer: nn.Module
    low: bool = True  # at the low bit-width, so not one of the network's ends

    @property
    def grid(self) -> Grid:
        return self.quantizer.grid


class Seen(NamedTuple):
    """One site's sums, [3, bins] or [channels, 3, bins], and the step size (a parameter) they belong to."""

    site: Site
    sums: Tensor
    alpha: Tensor

    @property
    def grid(self) -> Grid:
        return self.site.grid


class Tap:
    """Where one quantizer puts its sums while `collect` is open."""

    def __init__(self, site: Site, request: SumRequest, into: dict[str, Seen]) -> None:
        self.site, self.request, self.into = site, request, into

    def add(self, quantizer: nn.Module, sums: Tensor) -> None:
        if self.site.name in self.into:
            raise BrsweepError(
                f"{self.site.name}: ran twice in one forward pass, so one step size serves two distributions; give "
                f"each place its own module (quantize_model does so for networks that torch.fx can trace)"
            )
        self.into[self.site.name] = Seen(self.site, sums, quantizer.alpha)


@contextmanager
def collect(
    sites: Iterable[Site], *, weights: SumRequest | None = None, activations: SumRequest | None = None
) -> Iterator[Mapping[str, Seen]]:
    """Have each site's quantizer add its bin sums under the site's name; `None` for a kind collects none of it.

    One opened inside another takes its sites over until it closes.

    Raises `BrsweepError` when a site runs twice in one forward pass.
    """
    requests = {"weight": weights, "act": activations}
    seen: dict[str, Seen] = {}
    tapped = [site for site in sites if requests[site.kind] is not None]
    before = [site.quantizer.tap for site in tapped]
    for site in tapped:
        site.quantizer.tap = Tap(site, requests[site.kind], seen)
    try:
        yield seen
    finally:
        for site, tap in zip(tapped, before, strict=True):
            site.quantizer.tap = tap
