"""A run's data, as its configuration names it: the source that `data` holds, or the part of it that is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from brsweep import targets

OPTIONS = ("val_fraction", "split_seed", "crop_padding", "flip", "batch_size", "limit", "name")
"""What of `data` is no argument of the source's."""
QUICK_BATCHES = 4


def source_node(config: Mapping[str, Any]) -> dict[str, Any]:
    """The source's `_target_` and its arguments."""
    return {key: value for key, value in config["data"].items() if key not in OPTIONS}


def data_source(config: Mapping[str, Any]) -> Any:
    """The source; with `data.limit` or `quick`, what is left of it by them. Raises `BrsweepError`."""
    from brsweep.data.limit import Handful, Limited

    source = targets.build("data", source_node(config))
    if config["data"].get("limit") is not None:
        source = Limited(source, config["data"]["limit"])
    if config.get("quick"):
        source = Handful(source, QUICK_BATCHES * config["data"]["batch_size"])
    return source
