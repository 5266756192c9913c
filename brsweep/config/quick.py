"""quick=true: a run of all stages that ends in moments, for a first try of a new part.

Each stage has one epoch, on a few batches of the data (see `brsweep.stages.source`). What is left of the configuration
says so, and the identity of the data too: no such stage or result is ever taken for another's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CALIBRATION_BATCHES = 1


def shortened(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with one epoch for each stage that it has."""
    schedule = dict(config["schedule"])
    for key in ("float_epochs", "warmup_epochs", "rung_epochs"):
        schedule[key] = min(1, schedule[key])
    schedule["qat_epochs"] = schedule["warmup_epochs"] + 1
    schedule |= {"float_lr_warmup_epochs": 0, "qat_lr_warmup_epochs": 0}
    return dict(config) | {"schedule": schedule, "calibration_batches": CALIBRATION_BATCHES}
