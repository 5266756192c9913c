"""What a regularizer is: a penalty on what quantizers receive, for weights and for activations, each with its lambda.

    L = L_task + lambda_weight * penalty of the weights + lambda_act * penalty of the activations

    class Mine(Regularizer):
        def penalty(self, collected):             # of one site: its values, with their graph
            return (collected.values ** 4).mean()

A penalty that needs no more than the bins' sums asks for them in `request`: they are a by-product of quantization, and
cost next to nothing whatever the number of bins.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor

from brsweep.errors import BrsweepError
from brsweep.quant.sites import VALUES, Collected, Request, Site, check_collectable, collect

KINDS = ("weight", "act")


def ramp(kind: str, progress: float) -> float:
    """The share of lambda in force at `progress` in [0, 1] of the stage: 1, or rising from 0 to 1 (linear, cosine)."""
    if kind == "constant":
        return 1.0
    if kind == "linear":
        return progress
    if kind == "cosine":
        return 0.5 - 0.5 * math.cos(math.pi * progress)
    raise BrsweepError(f"reg.ramp={kind}: choose one of {', '.join(RAMPS)}")


RAMPS = ("constant", "linear", "cosine")


class Regularizer(ABC):
    """A penalty on the sites at the low bit-width, and on the network's ends only with `first_last`.

    To write: `penalty`; where bin sums are enough, `request`; where the sites' penalties are not simply added up,
    `penalties`.

    lambda_weight, lambda_act: >= 0; a kind at 0 costs nothing.
    ramp: how each kind's lambda rises over the stage, {"weight": ..., "act": ...}; see `ramp`.
    """

    def __init__(
        self,
        lambda_weight: float = 1.0,
        lambda_act: float = 1.0,
        ramp: Mapping[str, str] | None = None,
        first_last: bool = False,
    ) -> None:
        if not (0 <= lambda_weight < math.inf and 0 <= lambda_act < math.inf):
            raise BrsweepError(
                f"lambda_weight={lambda_weight}, lambda_act={lambda_act}: a lambda is 0 or more, and finite"
            )
        self.strength = {"weight": lambda_weight, "act": lambda_act}
        self.ramp, self.first_last = by_kind("ramp", ramp, "constant"), first_last
        self.lambdas(0.0)  # refuses an unknown ramp

    # --- to write -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def penalty(self, collected: Collected) -> Tensor:
        """The penalty of one site, before lambda: 0-d, >= 0, differentiable, without waiting for the device."""

    def request(self, kind: str) -> Request:
        """What is wanted of the sites of a kind ("weight" or "act"): their values, or a `SumRequest`."""
        return VALUES

    def penalties(self, collected: Mapping[str, Collected]) -> dict[str, Tensor]:
        """The penalty of the weights and of the activations, before lambda: the sum over the sites of each kind.

        0-d float64 tensors by kind; a kind that was not collected is absent.
        """
        totals: dict[str, list[Tensor]] = {}
        for entry in collected.values():
            totals.setdefault(entry.site.kind, []).append(self.penalty(entry).double())
        return {kind: torch.stack(parts).sum() for kind, parts in totals.items()}

    # --- what every regularizer has -----------------------------------------------------------------------------------

    @final
    def check(self, sites: Sequence[Site]) -> None:
        """Raise `BrsweepError` unless each kind with a lambda has a site to act on, which can give what is wanted."""
        for kind in self._kinds():
            wanted = [site for site in self._wanted(sites) if site.kind == kind]
            if not wanted:
                what = "weight" if kind == "weight" else "activation"
                ends = "" if self.first_last else " at the low bit-width (reg.first_last=true takes the ends too)"
                raise BrsweepError(
                    f"{type(self).__name__}: reg.lambda_{kind}={self.strength[kind]:g} acts on nothing: no {what} is "
                    f"quantized{ends}; set reg.lambda_{kind}=0, or quantize the {what}s"
                )
            for site in wanted:
                try:
                    check_collectable(site, self.request(kind))
                except BrsweepError as error:
                    raise BrsweepError(f"{type(self).__name__}: {error}; set reg.lambda_{kind}=0") from None

    @final
    @contextmanager
    def collect(self, sites: Sequence[Site]) -> Iterator[Mapping[str, Collected]]:
        """Have the quantizers give what is wanted, in one forward pass inside the `with`.

        Raises `BrsweepError` naming a site that gave nothing: its layer did not run.
        """
        wanted = [site for site in self._wanted(sites) if self.strength[site.kind]]
        requests = {kind: self.request(kind) if self.strength[kind] else None for kind in KINDS}
        with collect(wanted, weights=requests["weight"], activations=requests["act"]) as collected:
            yield collected
        if len(collected) < len(wanted):
            silent = next(site.name for site in wanted if site.name not in collected)
            raise BrsweepError(f"{silent}: did not run in the forward pass, so {type(self).__name__} can't see it")

    @final
    def lambdas(self, progress: float) -> dict[str, float]:
        """Each kind's lambda at `progress` in [0, 1] of the regularized stage."""
        return {kind: self.strength[kind] * ramp(self.ramp[kind], progress) for kind in KINDS}

    def _kinds(self) -> list[str]:
        return [kind for kind in KINDS if self.strength[kind]]

    def _wanted(self, sites: Sequence[Site]) -> list[Site]:
        return [site for site in sites if site.low or self.first_last]


def refuse_activations(regularizer: Regularizer) -> None:
    """For penalties that are defined on weights: raise `BrsweepError` where activations have a lambda."""
    if regularizer.strength["act"]:
        name = type(regularizer).__name__
        raise BrsweepError(
            f"reg.lambda_act={regularizer.strength['act']:g}: {name} is a penalty on weights; set reg.lambda_act=0"
        )


def by_kind(option: str, chosen: Mapping[str, str] | None, otherwise: str) -> dict[str, str]:
    """The option for each kind, `otherwise` where it is not chosen. Raises `BrsweepError` for another kind."""
    unknown = sorted(set(chosen or {}) - set(KINDS))
    if unknown:
        raise BrsweepError(f"reg.{option} sets {unknown}: choose from {', '.join(KINDS)}")
    return dict.fromkeys(KINDS, otherwise) | dict(chosen or {})
