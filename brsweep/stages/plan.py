"""A run's configuration -> its stages, each with what it depends on.

    float -> warm-up (LSQ alone) -> regularized (LSQ + BR)

Each stage sees the configuration less what can't reach it, and its parent's signature. Two runs share a stage exactly
when the signatures agree: a sweep over lambda shares the float stage and the warm-up, a sweep over bits the float
stage. Plain data; no torch.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from brsweep.errors import BrsweepError
from brsweep.stages.signature import VERSION, digest

FLOAT, WARMUP, REGULARIZED = "float", "warmup", "br"
BIN_REGULARIZATION = "brsweep.regularizers.br.BinRegularization"

NOT_RESULTS = (
    "force", "stale", "sweep_name", "output_dir", "store_dir", "logger", "threads", "allow_targets",
    "data.root", "data.cache_dir", "pretrained",
)  # fmt: skip
"""Fields that can't change a result. (Threads change the order of sums, and so the last bits; a run's record says how
many it had. A pretrained file counts by its content.)"""
REPORTING = ("reestimate_bn_batches",)
FLOAT_BLIND = (
    "quant", "reg", "qat_optimizer", "kernels", "calibration_batches",
    "schedule.warmup_epochs", "schedule.qat_epochs", "schedule.qat_lr_warmup_epochs", "schedule.freeze_alpha",
    *REPORTING,
)  # fmt: skip
QAT_BLIND = ("float_optimizer", "schedule.float_epochs", "schedule.float_lr_warmup_epochs", *REPORTING)
WARMUP_BLIND = (*QAT_BLIND, "reg", "schedule.freeze_alpha")


@dataclass(frozen=True)
class Stage:
    """`name`, the epochs [first, last) that it trains, what it depends on, and the hash of that."""

    name: str
    first: int
    last: int
    spec: Mapping[str, Any]

    @property
    def signature(self) -> str:
        return digest(self.spec)

    @property
    def epochs(self) -> int:
        return self.last - self.first


def canonical(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with every field that has no effect at its plainest value, so that equal runs look equal."""
    config = copy.deepcopy(dict(config))
    reg, schedule = config["reg"], config["schedule"]
    if reg.get("_target_") != BIN_REGULARIZATION:
        return config
    if schedule["freeze_alpha"] or (not reg["lambda_weight"] and not reg["lambda_act"]):
        reg["backprop_to_alpha"] = False
    if not reg["backprop_to_alpha"]:
        reg["alpha_grad_scale"] = "raw"
    for kind in ("weight", "act"):
        if not reg[f"lambda_{kind}"]:
            reg["ramp"][kind], reg["saturated"][kind], reg["unit"][kind] = "constant", "pull", "value"
    if not reg["lambda_weight"] and not reg["lambda_act"]:
        reg["variance"], reg["first_last"] = "biased", False
    return config


def identity(config: Mapping[str, Any], data_identity: str) -> str:
    """The hash of a run: of its configuration less what can't change its results."""
    return digest(_seen(config, data_identity, ()))


def plan(config: Mapping[str, Any], data_identity: str, code: str) -> list[Stage]:
    """The stages of a run, first to last; a warm-up of no epochs is left out."""
    schedule = config["schedule"]
    float_epochs = 0 if config["pretrained"] else schedule["float_epochs"]
    warmup, qat = schedule["warmup_epochs"], schedule["qat_epochs"]
    blind = FLOAT_BLIND + (("float_optimizer", "schedule.float_epochs") if config["pretrained"] else ())
    spec = _seen(config, data_identity, blind) | {"clip_value": config["quant"]["clip_value"]}
    stages = [Stage(FLOAT, 0, float_epochs, _spec(FLOAT, spec, code, None))]
    if warmup:
        spec = _seen(config, data_identity, WARMUP_BLIND)
        stages.append(Stage(WARMUP, 0, warmup, _spec(WARMUP, spec, code, stages[-1])))
    spec = _seen(config, data_identity, QAT_BLIND)
    stages.append(Stage(REGULARIZED, warmup, qat, _spec(REGULARIZED, spec, code, stages[-1])))
    return stages


def _spec(name: str, seen: dict[str, Any], code: str, parent: Stage | None) -> dict[str, Any]:
    above = parent.signature if parent else None
    return {"version": VERSION, "stage": name, "parent": above, "code": code, "config": seen}


def _seen(config: Mapping[str, Any], data_identity: str, blind: tuple[str, ...]) -> dict[str, Any]:
    seen = canonical(config)
    for path in (*NOT_RESULTS, *blind):
        *parents, leaf = path.split(".")
        node = seen
        for key in parents:
            node = node.get(key, {})
        node.pop(leaf, None)
    seen["data"] = seen["data"] | {"identity": data_identity}
    if config["pretrained"]:
        seen["pretrained"] = _content(Path(config["pretrained"]))
    return seen


def _content(path: Path) -> str:
    try:
        stat = path.stat()
        return _hash_of(path, stat.st_mtime_ns, stat.st_size)
    except OSError as error:
        raise BrsweepError(f"pretrained={path}: can't be read ({error.strerror}); give a checkpoint file") from None


@cache
def _hash_of(path: Path, changed_ns: int, size: int) -> str:
    """Read once, though every stage of every run of a sweep asks for it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
