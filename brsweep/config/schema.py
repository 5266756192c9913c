"""The configuration's shape: types, choices and ranges, checked before anything runs. The values are in conf/.

Parts that users can replace (model, data, optimizers, logger, and a regularizer of one's own) are open: they hold a
`_target_` and its arguments, which are checked against the target's signature.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from omegaconf import MISSING

from brsweep.errors import BrsweepError
from brsweep.quant.grid import FLOAT_BITS

RAMPS = ("constant", "linear", "cosine")
SATURATED = ("pull", "ignore")
UNITS = ("value", "step")


@dataclass
class PerKind:
    """One option for the weights and one for the activations."""

    weight: str = MISSING
    act: str = MISSING


@dataclass
class Quant:
    weight_bits: int = MISSING
    act_bits: int = MISSING
    first_last_bits: int | None = MISSING
    input_bits: int = MISSING
    clip_value: float | None = MISSING
    per_channel: bool = MISSING
    overrides: Any = MISSING
    count: str = MISSING
    quantizer: dict[str, Any] = MISSING

    def __post_init__(self) -> None:
        lsq = self.quantizer.get("_target_") == "brsweep.quant.lsq.LSQQuantizer"
        _bits("quant.weight_bits", self.weight_bits, lsq_weights=lsq)
        _bits("quant.act_bits", self.act_bits)
        if self.first_last_bits is not None:
            _bits("quant.first_last_bits", self.first_last_bits, lsq_weights=lsq)
        _bits("quant.input_bits", self.input_bits)
        if not isinstance(self.overrides, (dict, type(None))):
            raise BrsweepError(f"quant.overrides={self.overrides}: give patterns and bits, {{layer3.*: 4}}, or null")
        for pattern, override in (self.overrides or {}).items():
            kinds = override if isinstance(override, dict) else {"weight": override}
            for kind, bits in kinds.items():
                _choice(f"quant.overrides.{pattern}", kind, ("weight", "act"))
                _bits(f"quant.overrides.{pattern}", bits)
        if self.clip_value is not None and self.clip_value <= 0:
            raise BrsweepError(f"quant.clip_value={self.clip_value}: a clip is a positive number, or null for none")
        _choice("quant.count", self.count, ("sample", "tensor"))


@dataclass
class BinRegularization:
    _target_: str = MISSING
    lambda_weight: float = MISSING
    lambda_act: float = MISSING
    backprop_to_alpha: bool = MISSING
    alpha_grad_scale: str = MISSING
    variance: str = MISSING
    ramp: PerKind = MISSING
    saturated: PerKind = MISSING
    unit: PerKind = MISSING
    first_last: bool = MISSING

    def __post_init__(self) -> None:
        _at_least("reg.lambda_weight", self.lambda_weight, 0)
        _at_least("reg.lambda_act", self.lambda_act, 0)
        _choice("reg.alpha_grad_scale", self.alpha_grad_scale, ("raw", "lsq"))
        _choice("reg.variance", self.variance, ("biased", "unbiased"))
        for name, option, allowed in (
            ("ramp", self.ramp, RAMPS),
            ("saturated", self.saturated, SATURATED),
            ("unit", self.unit, UNITS),
        ):
            for kind in fields(option):
                _choice(f"reg.{name}.{kind.name}", getattr(option, kind.name), allowed)


@dataclass
class Schedule:
    float_epochs: int = MISSING
    warmup_epochs: int = MISSING
    qat_epochs: int = MISSING
    float_lr_warmup_epochs: int = MISSING
    qat_lr_warmup_epochs: int = MISSING
    freeze_alpha: bool = MISSING

    def __post_init__(self) -> None:
        for name in ("float_epochs", "warmup_epochs", "float_lr_warmup_epochs", "qat_lr_warmup_epochs"):
            _at_least(f"schedule.{name}", getattr(self, name), 0)
        _at_least("schedule.qat_epochs", self.qat_epochs, 1)
        if self.warmup_epochs >= self.qat_epochs:
            raise BrsweepError(
                f"schedule.warmup_epochs={self.warmup_epochs}: the warm-up is part of schedule.qat_epochs="
                f"{self.qat_epochs} and leaves no epoch for the last stage; take fewer, or more qat_epochs"
            )
        if self.freeze_alpha and not self.warmup_epochs:
            raise BrsweepError(
                "schedule.freeze_alpha=true: a joint schedule (warmup_epochs=0) never trains alpha before it would "
                "freeze; give it a warm-up (schedule=s1), or leave alpha free"
            )


@dataclass
class Config:
    model: dict[str, Any] = MISSING
    data: dict[str, Any] = MISSING
    quant: Quant = MISSING
    reg: Any = MISSING
    schedule: Schedule = MISSING
    float_optimizer: dict[str, Any] = MISSING
    qat_optimizer: dict[str, Any] = MISSING
    logger: dict[str, Any] = MISSING
    seed: int = MISSING
    device: str = MISSING
    threads: int = MISSING
    deterministic: bool = MISSING
    precision: str = MISSING
    channels_last: bool = MISSING
    kernels: str = MISSING
    compile: bool = MISSING
    gradient_clip: float | None = MISSING
    calibration_batches: int = MISSING
    reestimate_bn_batches: int = MISSING
    pretrained: str | None = MISSING
    pretrained_replace_head: bool = MISSING
    sweep_name: str = MISSING
    output_dir: str = MISSING
    store_dir: str = MISSING
    force: bool = MISSING
    stale: str = MISSING
    allow_targets: list[str] = MISSING

    def __post_init__(self) -> None:
        _choice("precision", self.precision, ("float32", "bf16"))
        _choice("stale", self.stale, ("stop", "keep", "retrain"))
        _at_least("threads", self.threads, 0)
        _at_least("calibration_batches", self.calibration_batches, 1)
        _at_least("reestimate_bn_batches", self.reestimate_bn_batches, 0)
        _at_least("seed", self.seed, 0)
        if self.gradient_clip is not None and self.gradient_clip <= 0:
            raise BrsweepError(f"gradient_clip={self.gradient_clip}: a positive norm, or null for none")
        _part("data.val_fraction", self.data.get("val_fraction"))
        for name, low in (("batch_size", 1), ("crop_padding", 0), ("split_seed", 0)):
            _whole(f"data.{name}", self.data.get(name), low)
        _choice("data.flip", self.data.get("flip"), (True, False))
        for which in ("float_optimizer", "qat_optimizer"):
            for rate in ("lr", "weight_decay", "alpha_lr", "alpha_weight_decay", "norm_weight_decay"):
                _at_least(f"{which}.{rate}", getattr(self, which).get(rate), 0)
        for path in (self.sweep_name,):
            if not path or path.startswith((".", "/")) or ".." in path.split("/"):
                raise BrsweepError(f"sweep_name={path}: a folder name inside output_dir; no leading dot or slash")


def _bits(name: str, bits: Any, lsq_weights: bool = False) -> None:
    if isinstance(bits, bool) or not isinstance(bits, int) or not (1 <= bits <= 8 or bits == FLOAT_BITS):
        raise BrsweepError(f"{name}={bits}: bits are 1 to 8, or {FLOAT_BITS} to stay float")
    if lsq_weights and bits == 1:
        raise BrsweepError(
            f"{name}=1: LSQ has no 1-bit weights, because a signed 1-bit grid has Qp = 0 and LSQ divides by sqrt(Qp); "
            f"take 2 bits or more"
        )


def _choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise BrsweepError(f"{name}={value}: choose one of {', '.join(allowed)}")


def _at_least(name: str, value: Any, low: float) -> None:
    if value == MISSING:
        raise BrsweepError(f"{name}: has no value; add {name}=... to the command line")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value < float("inf"):
        raise BrsweepError(f"{name}={value}: a number, {low} or more")


def _whole(name: str, value: Any, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise BrsweepError(f"{name}={value}: a whole number, {low} or more")


def _part(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise BrsweepError(f"{name}={value}: a share of the training images, 0 or more and below 1")
