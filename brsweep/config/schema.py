"""The configuration's shape: each field's check, and the rules between fields. The values are in conf/.

Parts that users can replace (model, data, optimizers, logger, quantizer, and a regularizer of one's own) are open:
they hold a `_target_` and its arguments, which are checked against the target's signature before it is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brsweep.config.checks import (
    LARGEST_SEED,
    bits,
    bits_by_pattern,
    choice,
    device,
    each,
    file,
    folder,
    folder_inside,
    maybe,
    number,
    package,
    part,
    seed,
    text,
    whole,
    yes_no,
)
from brsweep.config.fields import by
from brsweep.errors import BrsweepError
from brsweep.sweep.seeds.sequential import MOST_SEEDS

MOST_THREADS = 1024
MOST_EPOCHS = 1_000_000
MOST_IMAGES = 2**24


@dataclass
class Ramp:
    """One option for the weights and one for the activations, as `Saturated`, `Unit` and `Reduction`."""

    weight: Any = by(choice("constant", "linear", "cosine"))
    act: Any = by(choice("constant", "linear", "cosine"))


@dataclass
class Saturated:
    weight: Any = by(choice("pull", "ignore"))
    act: Any = by(choice("pull", "ignore"))


@dataclass
class Unit:
    weight: Any = by(choice("value", "step"))
    act: Any = by(choice("value", "step"))


@dataclass
class Reduction:
    weight: Any = by(choice("sum", "mean"))
    act: Any = by(choice("sum", "mean"))


@dataclass
class Quant:
    weight_bits: Any = by(bits)
    act_bits: Any = by(bits)
    first_last_bits: Any = by(maybe(bits))
    input_bits: Any = by(bits)
    clip_value: Any = by(maybe(number(0, above=True)))
    per_channel: Any = by(yes_no)
    overrides: Any = by(bits_by_pattern)
    count: Any = by(choice("sample", "tensor"))
    inputs: Any = by(choice("auto", "relu_only"))
    quantizer: Any = by(part)


@dataclass
class BinRegularization:
    _target_: Any = by(text)
    lambda_weight: Any = by(number(0))
    lambda_act: Any = by(number(0))
    backprop_to_alpha: Any = by(yes_no)
    alpha_grad_scale: Any = by(choice("raw", "lsq"))
    variance: Any = by(choice("biased", "unbiased"))
    ramp: Ramp = by(Ramp)
    saturated: Saturated = by(Saturated)
    unit: Unit = by(Unit)
    reduction: Reduction = by(Reduction)
    first_last: Any = by(yes_no)
    scale: Any = by(number(0, above=True))


@dataclass
class Schedule:
    float_epochs: Any = by(whole(0, MOST_EPOCHS))
    warmup_epochs: Any = by(whole(0, MOST_EPOCHS))
    qat_epochs: Any = by(whole(1, MOST_EPOCHS))
    float_lr_warmup_epochs: Any = by(whole(0, MOST_EPOCHS))
    qat_lr_warmup_epochs: Any = by(whole(0, MOST_EPOCHS))
    freeze_alpha: Any = by(yes_no)
    ladder: Any = by(each(bits))
    rung_epochs: Any = by(whole(0, MOST_EPOCHS))


@dataclass
class Distill:
    weight: Any = by(number(0, most=1.0))
    temperature: Any = by(number(0.1, most=1000))


@dataclass
class FreezeWeights:
    threshold: Any = by(number(0, below=1))
    threshold_end: Any = by(number(0, below=1))
    momentum: Any = by(number(0, most=1.0, above=True))


@dataclass
class TransitionRate:
    factor: Any = by(number(0, below=1))
    momentum: Any = by(number(0, below=1))
    gain: Any = by(number(0, above=True))


@dataclass
class Seeds:
    """Of seed=auto. smallest: in points of validation accuracy."""

    first: Any = by(whole(0, LARGEST_SEED - MOST_SEEDS))
    least: Any = by(whole(2, MOST_SEEDS))
    most: Any = by(whole(2, MOST_SEEDS))
    smallest: Any = by(number(0, below=100))


@dataclass
class Sweep:
    """What a launcher goes by; no run knows of it."""

    seeds: Seeds = by(Seeds)


@dataclass
class Config:
    model: Any = by(part)
    data: Any = by(part)
    quant: Quant = by(Quant)
    reg: Any = by(part)
    schedule: Schedule = by(Schedule)
    distill: Distill = by(Distill)
    freeze_weights: FreezeWeights = by(FreezeWeights)
    transition_rate: TransitionRate = by(TransitionRate)
    float_optimizer: Any = by(part)
    qat_optimizer: Any = by(part)
    logger: Any = by(part)
    seed: Any = by(seed)
    quick: Any = by(yes_no)
    device: Any = by(device)
    threads: Any = by(whole(0, MOST_THREADS))
    deterministic: Any = by(yes_no)
    precision: Any = by(choice("float32", "bf16"))
    channels_last: Any = by(yes_no)
    kernels: Any = by(text)
    compile: Any = by(yes_no)
    cuda_graphs: Any = by(yes_no)
    gradient_clip: Any = by(maybe(number(0, above=True)))
    calibration_batches: Any = by(whole(1, MOST_IMAGES))
    reestimate_bn_batches: Any = by(whole(0, MOST_IMAGES))
    pretrained: Any = by(maybe(file))
    pretrained_replace_head: Any = by(yes_no)
    sweep_name: Any = by(folder_inside)
    output_dir: Any = by(folder)
    store_dir: Any = by(folder)
    force: Any = by(yes_no)
    stale: Any = by(choice("stop", "keep", "retrain"))
    allow_targets: Any = by(each(package))
    sweep: Sweep = by(Sweep)


def check_rules(config: Mapping[str, Any]) -> None:
    """What fields have to do with each other. Raises `BrsweepError`."""
    quant, schedule = config["quant"], config["schedule"]
    if quant["quantizer"].get("_target_") == "brsweep.quant.lsq.LSQQuantizer":
        for name in ("weight_bits", "first_last_bits"):
            if quant[name] == 1:
                raise BrsweepError(
                    f"quant.{name}=1: LSQ has no 1-bit weights, because a signed 1-bit grid has Qp = 0 and LSQ "
                    f"divides by sqrt(Qp); take 2 bits or more"
                )
    if schedule["warmup_epochs"] >= schedule["qat_epochs"]:
        raise BrsweepError(
            f"schedule.warmup_epochs={schedule['warmup_epochs']}: the warm-up is part of schedule.qat_epochs="
            f"{schedule['qat_epochs']} and leaves no epoch for the last stage; take fewer, or more qat_epochs"
        )
    if schedule["ladder"] and not schedule["rung_epochs"]:
        raise BrsweepError(
            "schedule.ladder: its rungs have no epochs to train; give schedule.rung_epochs, or take schedule=ladder"
        )
    if config["distill"]["weight"] and not schedule["float_epochs"] and not config["pretrained"]:
        raise BrsweepError(
            "schedule.float_epochs=0: distill.weight takes the run's own float network for its teacher, and that one "
            "would be untrained; train it, give pretrained=FILE, or take distill.weight=0"
        )
    freezing = config["freeze_weights"]
    if 0 < freezing["threshold"] < freezing["threshold_end"]:
        raise BrsweepError(
            f"freeze_weights.threshold_end={freezing['threshold_end']}: the threshold falls, and it begins at "
            f"{freezing['threshold']}; take less"
        )
    if schedule["freeze_alpha"] and not schedule["warmup_epochs"]:
        raise BrsweepError(
            "schedule.freeze_alpha=true: a joint schedule (warmup_epochs=0) never trains alpha before it would "
            "freeze; give it a warm-up (schedule=s1), or leave alpha free"
        )
    for kind in ("float", "qat"):
        rise, epochs = schedule[f"{kind}_lr_warmup_epochs"], schedule[f"{kind}_epochs"]
        trains = kind == "qat" or (epochs and config["pretrained"] is None)
        if trains and rise > epochs:
            raise BrsweepError(
                f"schedule.{kind}_lr_warmup_epochs={rise}: the learning rate would still rise when "
                f"schedule.{kind}_epochs={epochs} end; take fewer"
            )
    seeds = config["sweep"]["seeds"]
    if seeds["least"] > seeds["most"]:
        raise BrsweepError(f"sweep.seeds.least={seeds['least']}: is more than sweep.seeds.most={seeds['most']}")
    _check_folders(config)


def _check_folders(config: Mapping[str, Any]) -> None:
    """Finished stages and runs apart: a sweep in the store, or a store around it, would be cleaned up with it."""
    store, output = (Path(config[key]).absolute() for key in ("store_dir", "output_dir"))
    sweep = output / config["sweep_name"]
    if sweep.is_relative_to(store):
        key = "sweep_name" if not output.is_relative_to(store) else "store_dir"
        raise BrsweepError(
            f"{key}={config[key]}: the sweep's folder {sweep} would lie in the store {store}; choose another"
        )
