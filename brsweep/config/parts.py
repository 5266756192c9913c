"""What is known of a part's options before its target is looked at: what every part of a key has, what some have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from omegaconf import MISSING

from brsweep.config.checks import Check, maybe, number, whole, word, yes_no
from brsweep.config.fields import fitted
from brsweep.config.schema import LARGEST_SEED, MOST_IMAGES
from brsweep.errors import BrsweepError

PARTS = ("model", "data", "reg", "float_optimizer", "qat_optimizer", "logger", "quant.quantizer")

_OPTIMIZER = dict.fromkeys(("lr", "weight_decay", "alpha_lr", "alpha_weight_decay", "norm_weight_decay"), number(0))
REQUIRED: Mapping[str, Mapping[str, Check]] = {
    "data": {
        "val_fraction": number(0, below=1),
        "split_seed": whole(0, LARGEST_SEED),
        "crop_padding": whole(0, 2**16),
        "flip": yes_no,
        "batch_size": whole(1, MOST_IMAGES),
    },
    "reg": {"lambda_weight": number(0), "lambda_act": number(0)},
    "float_optimizer": _OPTIMIZER,
    "qat_optimizer": _OPTIMIZER,
}
"""What every part of a key has, whichever it is."""

KNOWN: Mapping[str, Mapping[str, Check]] = {
    "data": {"limit": maybe(whole(1, MOST_IMAGES)), "name": maybe(word)},
    "float_optimizer": {"momentum": number(0, below=1)},
    "qat_optimizer": {"momentum": number(0, below=1)},
    "logger": dict.fromkeys(("init_timeout_s", "finish_timeout_s", "flush_s"), number(0, below=1e6)),
}
"""What parts may have, and means the same in each that has it."""

GIVEN: Mapping[str, tuple[str, ...]] = {
    "model": ("num_classes", "in_channels", "image_size"),
    "quant.quantizer": ("bits", "signed", "per_channel", "channels", "axis", "count"),
    "float_optimizer": ("params",),
    "qat_optimizer": ("params",),
    "logger": ("folder", "run"),
}
"""What brsweep gives to a part itself, from the data, from `quant.*`, from the run."""


def check_part(path: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """The part with its common options as their checks give them. Raises `BrsweepError`."""
    node = dict(node)
    for name in GIVEN.get(path, ()):
        if name in node:
            raise BrsweepError(f"{path}.{name}: is given by brsweep itself; leave it out")
    required, known = REQUIRED.get(path, {}), KNOWN.get(path, {})
    for name, check in (required | known).items():
        if name in node or name in required:
            node[name] = fitted(f"{path}.{name}", node.get(name, MISSING), check)
    _check_numbers(path, node, number(0) if path.endswith("_optimizer") else number(-math.inf))
    return node


def _check_numbers(path: str, value: Any, check: Check) -> None:
    """No part has a use for a number that is not finite, and no optimizer for a negative one."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_numbers(f"{path}.{key}", inner, check)
    elif isinstance(value, list):
        for inner in value:
            _check_numbers(path, inner, check)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        fitted(path, value, check)
