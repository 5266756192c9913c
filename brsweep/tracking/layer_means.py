"""The per-site arrays of layers.jsonl as a few scalars per epoch, so that a dashboard needs no panel per layer.

Each is over the sites at the low bit-width, weights and activations apart, and is left out where no site has it:

    alpha_*             geometric mean of the step sizes
    near_*              mean share of values within 1 % of a step of a level
    clipped_*           mean share beyond the range, both sides
    empty_bins_*        how many bins hold no value
    changed_weight      mean share of weights whose code changed in this epoch
    oscillating_weight  mean share of weights whose code moved and turned round in this epoch
    pull_over_decay_weight   geometric mean of BR's pull over weight decay's
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from brsweep.tracking.tracker import Record

Layers = Mapping[str, Any]
"""One line of layers.jsonl: "stage", "epoch", and one list per metric in the order of "site"."""


def with_layer_means(records: Sequence[Record], layers: Sequence[Layers]) -> list[dict[str, Any]]:
    """Each epoch's record with the means of its line in layers.jsonl, where it has one."""
    of_epoch = {(line["stage"], line["epoch"]): line for line in layers}
    return [{**record, **layer_means(of_epoch.get((record["stage"], record["epoch"])))} for record in records]


def layer_means(layers: Layers | None) -> dict[str, float]:
    """The scalars of one epoch; none for a float epoch."""
    if not layers:
        return {}
    names = [key for key, column in layers.items() if isinstance(column, Sequence) and not isinstance(column, str)]
    sites = [dict(zip(names, row, strict=True)) for row in zip(*(layers[key] for key in names), strict=True)]
    result = {}
    for kind in ("weight", "act"):
        low = [site for site in sites if site["low"] and site["kind"] == kind]
        for name, (value, summary) in SUMMARIES.items():
            values = [v for v in map(value, low) if v is not None and math.isfinite(v)]
            if values:
                result[f"{name}_{kind}"] = summary(values)
    return result


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(_mean([math.log(v) for v in values])) if min(values) > 0 else 0.0


def _clipped(site: Mapping[str, Any]) -> float | None:
    ends = site.get("clip_low"), site.get("clip_high")
    return None if None in ends else sum(ends)


def _empty_bins(site: Mapping[str, Any]) -> int | None:
    return None if site["occupancy"] is None else site["occupancy"].count(0)


SUMMARIES: dict[str, tuple[Callable[[Mapping[str, Any]], float | None], Callable[[Sequence[float]], float]]] = {
    "alpha": (lambda site: site["alpha"], _geometric_mean),
    "near": (lambda site: site.get("near"), _mean),
    "clipped": (_clipped, _mean),
    "empty_bins": (_empty_bins, sum),
    "changed": (lambda site: site.get("changed"), _mean),
    "oscillating": (lambda site: site.get("oscillating"), _mean),
    "pull_over_decay": (lambda site: site.get("pull_over_decay"), _geometric_mean),
}
