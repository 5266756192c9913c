"""A run's configuration -> its stages, each with what it depends on.

    float -> [rungs of a ladder, from many bits to few ->] warm-up (LSQ alone) -> regularized (LSQ + BR)

Each stage sees the configuration less what can't reach it, the code of the parts that it uses, and its parent's
signature. Two runs share a stage exactly when the signatures agree: a sweep over lambda shares the float stage and the
warm-up, a sweep over bits the float stage. Plain data; no torch.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from brsweep.errors import BrsweepError
from brsweep.stages.signature import VERSION, digest, stage_code
from brsweep.targets import TARGET

FLOAT, WARMUP, REGULARIZED = "float", "warmup", "br"
BIN_REGULARIZATION = "brsweep.regularizers.br.BinRegularization"



class Way(NamedTuple):
    """A group of the configuration that changes how quantized stages train. switch: the field that is 0 where it is
    off. word: in the names of runs. options: its other fields, as they are unless set."""

    switch: str
    word: str
    options: Mapping[str, float]


WAYS_TO_TRAIN = {
    "distill": Way("weight", "distill", {"temperature": 4.0}),
    "freeze_weights": Way("threshold", "freezing", {"threshold_end": 0.01, "momentum": 0.001}),
    "transition_rate": Way("factor", "transitions", {"momentum": 0.99, "gain": 1.0}),
}
NOT_RESULTS = (
    "force", "stale", "sweep_name", "output_dir", "store_dir", "logger", "threads", "allow_targets", "cuda_graphs",
    "data.root", "data.cache_dir", "data.name", "pretrained",
)  # fmt: skip
"""Fields that can't change a result. (Threads change the order of sums, and so the last bits; a run's record says how
many it had. A recorded step has the bits of an eager one. A pretrained file counts by its content.)"""
REPORTING = ("reestimate_bn_batches",)
ELSEWHERE = ("device",)
"""What is part of a stage's place in the store instead, since the process that trains knows it alone."""
FLOAT_BLIND = (
    "quant", "reg", "qat_optimizer", "kernels", "calibration_batches",
    "schedule.warmup_epochs", "schedule.qat_epochs", "schedule.qat_lr_warmup_epochs", "schedule.freeze_alpha",
    "schedule.ladder", "schedule.rung_epochs", *WAYS_TO_TRAIN, *REPORTING, *ELSEWHERE,
)  # fmt: skip
QAT_BLIND = (
    "float_optimizer", "schedule.float_epochs", "schedule.float_lr_warmup_epochs", "schedule.ladder",
    "schedule.rung_epochs", *REPORTING, *ELSEWHERE,
)  # fmt: skip
WARMUP_BLIND = (*QAT_BLIND, "reg", "schedule.freeze_alpha", "freeze_weights")
RUNG_BLIND = (*WARMUP_BLIND, "schedule.warmup_epochs", "schedule.qat_epochs")


LATER = {"transition_rate": {"factor": 0.0, **WAYS_TO_TRAIN["transition_rate"].options}}
"""What configurations of earlier versions lack, as it would stand in them: off. It leaves no trace in a name."""


@dataclass(frozen=True)
class Stage:
    """What a stage is, as data; nothing that trains, stores or reports asks for its name.

    name: a label. It trains the epochs [first, last) of the `lr_epochs` that the learning rate's cosine spans, the
        first `lr_warmup_epochs` of which rise. spec: all that it depends on; `signature` is the hash of that.
    bits: of its weights and activations; None for a float network. A quantized stage that follows one of other bits
        quantizes that one's latent weights anew, and calibrates.
    regularized: the penalty is part of its loss. freezes_alphas: the step sizes stand still from its beginning on.
    freezes_weights: those that oscillate are held where they are.
    distilled: the float stage's network is its teacher.
    follows_transitions: its weights move by how many of their codes change, and their step sizes stand still.
    optimizer: which of the two, "float_optimizer" or "qat_optimizer".
    """

    name: str
    first: int
    last: int
    lr_epochs: int
    lr_warmup_epochs: int = 0
    spec: Mapping[str, Any] = field(default_factory=dict)
    bits: tuple[int, int] | None = None
    regularized: bool = False
    freezes_alphas: bool = False
    freezes_weights: bool = False
    distilled: bool = False
    follows_transitions: bool = False
    optimizer: str = "float_optimizer"

    @property
    def quantized(self) -> bool:
        return self.bits is not None

    @property
    def signature(self) -> str:
        return digest(self.spec)

    @property
    def epochs(self) -> int:
        return self.last - self.first


def canonical(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with every field that has no effect at its plainest value, so that equal runs look equal."""
    config = copy.deepcopy(dict(config))
    config["device"] = config["device"].partition(":")[0]  # which of several like ones
    reg, schedule, distill, freezing = (config[key] for key in ("reg", "schedule", "distill", "freeze_weights"))
    schedule["ladder"] = rungs(config)
    if not schedule["ladder"]:
        schedule["rung_epochs"] = 0
    if not distill["weight"]:
        distill["temperature"] = 1.0
    if not freezing["threshold"]:
        freezing["threshold_end"] = freezing["momentum"] = 0.0
    follows = "transition_rate" in ways_to_train(config)
    if not follows:
        config.pop("transition_rate", None)
    if reg.get("_target_") != BIN_REGULARIZATION:
        return config
    held = follows and not reg["lambda_act"] and not reg["first_last"]
    if schedule["freeze_alpha"] or held or not _is_regularized(config):
        reg["backprop_to_alpha"] = False
    if not reg["backprop_to_alpha"]:
        reg["alpha_grad_scale"] = "raw"
    for kind in ("weight", "act"):
        if not reg[f"lambda_{kind}"]:
            for option, plain in (("ramp", "constant"), ("saturated", "pull"), ("unit", "value"), ("reduction", "sum")):
                reg[option][kind] = plain
    if not _is_regularized(config):
        reg["variance"], reg["first_last"], reg["scale"] = "biased", False, 1.0
    return config


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a finished run of this version or an earlier one, with the groups that one lacked."""
    return {**copy.deepcopy(LATER), **config}


def identity(config: Mapping[str, Any], data_identity: str) -> str:
    """The hash of a run: of its configuration less what can't change its results."""
    return digest(_seen(config, data_identity, ()))


def plan(config: Mapping[str, Any], data_identity: str) -> list[Stage]:
    """The stages of a run, first to last; a warm-up of no epochs is left out."""
    stages: list[Stage] = []
    for stage, blind in _outline(config):
        seen = _seen(config, data_identity, blind)
        if stage.quantized:
            seen["quant"]["weight_bits"], seen["quant"]["act_bits"] = stage.bits
        else:
            seen["clip_value"] = config["quant"]["clip_value"]
        spec = {
            "version": VERSION,
            "stage": stage.name,
            "parent": stages[-1].signature if stages else None,
            "code": _code(config, stage),
            "config": seen,
        }
        stages.append(replace(stage, spec=spec))
    return stages


def outline(config: Mapping[str, Any]) -> list[Stage]:
    """The stages of a run without what they depend on: names, epochs, bits."""
    return [stage for stage, _ in _outline(config)]


def ways_to_train(config: Mapping[str, Any]) -> list[str]:
    """The groups of WAYS_TO_TRAIN that are on."""
    return [group for group, way in WAYS_TO_TRAIN.items() if (config.get(group) or {}).get(way.switch)]


def rungs(config: Mapping[str, Any]) -> list[int]:
    """The bits of the ladder's rungs that lie above the run's own, the highest first."""
    lowest = min(config["quant"]["weight_bits"], config["quant"]["act_bits"])
    return sorted({bits for bits in config["schedule"].get("ladder") or () if bits > lowest}, reverse=True)


def run_code(config: Mapping[str, Any]) -> str:
    """The digest of the code of all stages of a run: what its result was made by, its data and its options apart."""
    return digest([_code(config, stage) for stage, _ in _outline(config)])


def _outline(config: Mapping[str, Any]) -> list[tuple[Stage, tuple[str, ...]]]:
    """The stages, their specs still empty, each with the fields that can't reach it."""
    schedule, quant = config["schedule"], config["quant"]
    float_epochs = 0 if config["pretrained"] else schedule["float_epochs"]
    unused = ("float_optimizer", "schedule.float_epochs") if config["pretrained"] else ()
    first = Stage(FLOAT, 0, float_epochs, float_epochs, schedule["float_lr_warmup_epochs"])
    found = [(first, (*FLOAT_BLIND, *unused))]

    rising, rung_epochs = schedule["qat_lr_warmup_epochs"], schedule["rung_epochs"]
    ways = ways_to_train(config)
    quantized = {"optimizer": "qat_optimizer", "distilled": "distill" in ways}
    quantized["follows_transitions"] = "transition_rate" in ways
    for rung in rungs(config):
        bits = max(quant["weight_bits"], rung), max(quant["act_bits"], rung)
        stage = Stage(f"rung{rung}", 0, rung_epochs, rung_epochs, min(rising, rung_epochs), bits=bits, **quantized)
        found.append((stage, tuple(key for key in RUNG_BLIND if key != "schedule.rung_epochs")))

    warmup, epochs = schedule["warmup_epochs"], schedule["qat_epochs"]
    quantized["bits"] = quant["weight_bits"], quant["act_bits"]
    if warmup:
        found.append((Stage(WARMUP, 0, warmup, epochs, rising, **quantized), WARMUP_BLIND))
    last = {"regularized": _is_regularized(config), "freezes_alphas": schedule["freeze_alpha"]}
    last["freezes_weights"] = "freeze_weights" in ways
    found.append((Stage(REGULARIZED, warmup, epochs, epochs, rising, **quantized, **last), QAT_BLIND))
    return found


def _code(config: Mapping[str, Any], stage: Stage) -> dict[str, Any]:
    """The code of the parts that a stage uses, and of the core that it runs through."""
    nodes = {"model": config["model"], "data": config["data"]}
    if stage.epochs:
        nodes["optimizer"] = config[stage.optimizer]
    if stage.quantized:
        nodes["quantizer"] = config["quant"]["quantizer"]
    if stage.regularized:
        nodes["regularizer"] = config["reg"]
    parts = {role: node[TARGET] for role, node in nodes.items()}
    return stage_code("quantized" if stage.quantized else "float", parts, config["allow_targets"])


def _is_regularized(config: Mapping[str, Any]) -> bool:
    return bool(config["reg"]["lambda_weight"] or config["reg"]["lambda_act"])


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
