"""What a regularizer sees of a forward pass: open `collect`, run the network, read one entry per site.

    with collect(sites, weights=SumRequest(), activations=SumRequest()) as collected:
        logits = model(images)
    collected["layer1.0.conv1"].sums          # differentiable; see brsweep.kernels

Bin sums are a by-product of the quantizer's own pass where it gives them, and are computed beside it elsewhere. Whole
values come with `VALUES` in the place of a request. Outside `collect` quantizers compute no sums and keep nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from brsweep.errors import BrsweepError
from brsweep.kernels import ALL_VALUES
from brsweep.quant.grid import Grid
from brsweep.quant.quantizer import Quantizer

DETACHED, RAW, LSQ_SCALED = "detached", "raw", "lsq"
VALUES = "values"
"""A request for the values that a quantizer receives, with their graph."""


class SumRequest(NamedTuple):
    """A request for a quantizer's bin sums.

    sums: `kernels.ALL_VALUES`, or `kernels.INSIDE_VALUES` to leave out saturated values.
    alpha_grad: how gradients reach alpha through the sums: "detached" not at all, "raw" as they are, "lsq" multiplied
        by LSQ's g = 1 / sqrt(N * Qp), which puts them on the scale of the task's gradient.
    """

    sums: str = ALL_VALUES
    alpha_grad: str = DETACHED

    def alpha_factor(self, grad_scale: float) -> float:
        return {DETACHED: 0.0, RAW: 1.0, LSQ_SCALED: grad_scale}[self.alpha_grad]


Request = SumRequest | str
"""A `SumRequest`, or `VALUES`."""


@dataclass(frozen=True)
class Site:
    """A place where weights or activations are quantized: its name in the network and its quantizer."""

    name: str
    kind: str  # "weight" or "act"
    quantizer: Quantizer
    low: bool = True  # at the low bit-width, so not one of the network's ends

    @property
    def grid(self) -> Grid:
        return self.quantizer.grid


class Collected(NamedTuple):
    """What one site gave in a forward pass, as it was asked.

    sums: [3, bins] or [channels, 3, bins], float64; None where values were asked for.
    values: what the quantizer received, with its graph; None where sums were asked for.
    """

    site: Site
    sums: Tensor | None = None
    values: Tensor | None = None

    @property
    def grid(self) -> Grid:
        return self.site.grid

    @property
    def alpha(self) -> Tensor:
        """The step size, a parameter. Raises `BrsweepError` where the quantizer has none."""
        self.site.quantizer.check_levels()
        return self.site.quantizer.alpha


class SiteCollector:
    """Where one quantizer puts what was asked of it while `collect` is open.

    sum_request: None where the values themselves are wanted.
    """

    def __init__(self, site: Site, request: Request, into: dict[str, Collected]) -> None:
        self.site, self.into = site, into
        self.sum_request = None if request == VALUES else request

    def add(self, quantizer: Quantizer, sums: Tensor | None = None, values: Tensor | None = None) -> None:
        if self.site.name in self.into:
            raise BrsweepError(
                f"{self.site.name}: ran twice in one forward pass, so one step size serves two distributions; give "
                f"each place its own module (quantize_model does so for networks that torch.fx can trace)"
            )
        self.into[self.site.name] = Collected(self.site, sums, values)

    def add_beside(self, quantizer: Quantizer, values: Tensor) -> None:
        """What was asked for, from the values that the quantizer received."""
        if self.sum_request is None:
            self.add(quantizer, values=values)
        else:
            self.add(quantizer, quantizer.bin_sums(values, self.sum_request))


@contextmanager
def collect(
    sites: Iterable[Site], *, weights: Request | None = None, activations: Request | None = None
) -> Iterator[Mapping[str, Collected]]:
    """Have each site's quantizer add what is requested under the site's name; `None` for a kind asks none of it.

    One opened inside another takes its sites over until it closes.

    Raises `BrsweepError` for a site whose quantizer is no `Quantizer`, for sums of one without a step size, and when a
    site runs twice in one forward pass.
    """
    requests = {"weight": weights, "act": activations}
    asked = [(site, requests[site.kind]) for site in sites if requests[site.kind] is not None]
    for site, request in asked:
        check_collectable(site, request)
    into: dict[str, Collected] = {}
    before = [site.quantizer.collector for site, _ in asked]
    for site, request in asked:
        site.quantizer.collector = SiteCollector(site, request, into)
    try:
        yield into
    finally:
        for (site, _), collector in zip(asked, before, strict=True):
            site.quantizer.collector = collector


def check_collectable(site: Site, request: Request) -> None:
    """Raise `BrsweepError`, naming the site, unless its quantizer can give what is requested."""
    quantizer, name = site.quantizer, type(site.quantizer).__name__
    if not isinstance(quantizer, Quantizer):
        raise BrsweepError(f"{site.name}: {name} is no brsweep.quant.Quantizer, so nothing can be collected from it")
    if request != VALUES and quantizer.alpha is None:
        raise BrsweepError(f"{site.name}: {name} has no step size, so its values have no bins and no levels")
