"""Float network -> quantized network, by a policy, telling what it did.

Every convolution, transposed convolution and linear layer gets a signed quantizer for its weight, every ReLU becomes an
activation site with an unsigned one. Each other weight stays float and is named, with the reason: layers of classes
that compute in a way of their own, parametrized weights, attention, recurrent layers, embeddings, bare parameters. The
8-bit ends (`first_last_bits`) are the weights of the network's first and last layer, and the last ReLU; where one of
those layers stays float no other takes its place. The image stays float unless `input_bits` says otherwise.

A layer whose input comes from no ReLU (behind a linear bottleneck, a sum, GELU, SiLU, attention) gets a site for that
input: a signed grid, since such values have both signs, or an unsigned one where the quantizer has an offset. Where it
is the network's last layer, that site is the end, in the place of the last ReLU. `inputs="relu_only"` leaves them out.

Each place where an activation is quantized needs its own step size, so a ReLU module used at several places becomes
one module per place, and functional ReLUs become modules: see `brsweep.quant.places`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from brsweep.errors import BrsweepError
from brsweep.quant.copying import copy_network
from brsweep.quant.grid import FLOAT_BITS
from brsweep.quant.layers import ClippedReLU, QuantizedClippedReLU, QuantizerFactory, quantize_layer
from brsweep.quant.lsq import LSQQuantizer
from brsweep.quant.places import Places, find_places, replace
from brsweep.quant.policy import ASKED, Bits, Policy
from brsweep.quant.sites import Site

INPUT = "input"
"""The site of a layer's own input is called `<layer>.input`."""
AUTO, RELU_ONLY = INPUTS = ("auto", "relu_only")


@dataclass(frozen=True)
class Conversion:
    """What `quantize_model` did: the quantized sites in the order of execution, and what stayed float.

    left_float: name -> reason, for each weight of two or more dimensions and each activation that stays float.
    float_inputs: quantized layers, the first apart, whose input comes from no activation site, and that have none.
    float_ends: the network's first or last weight layer where it can't be quantized; no other takes its bits.
    weights, low_weights: how many weights the network has, and how many of them are at the low bit-width.
    untraced: why the network could not be traced, where it could not; `float_inputs` is empty then.
    unchecked: its ReLUs, then, that work in place: whether their inputs are read again is not known.
    """

    sites: tuple[Site, ...]
    left_float: Mapping[str, str]
    float_inputs: tuple[str, ...]
    float_ends: tuple[str, ...]
    weights: int
    low_weights: int
    untraced: str = ""
    unchecked: tuple[str, ...] = ()

    @property
    def float_input_count(self) -> int | None:
        """How many quantized layers compute on float inputs, the first apart; None where no trace tells."""
        return None if self.untraced else len(self.float_inputs)

    @property
    def warnings(self) -> list[str]:
        """One line for each thing that a reader of accuracies should know."""
        lines = []
        reasons: dict[str, list[str]] = {}
        for name, reason in self.left_float.items():
            if reason != ASKED:
                reasons.setdefault(reason, []).append(name)
        if self.low_weights * 2 < self.weights and (reasons or any(site.kind == "weight" for site in self.sites)):
            share = f"{self.low_weights:,} of {self.weights:,} ({self.low_weights / self.weights:.1%})"
            lines.append(f"fewer than half of the network's weights are at the low bit-width: {share}")
        if reasons:
            listed = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in reasons.items())
            lines.append(f"these weights stay float: {listed}")
        if self.float_ends:
            ends = " and ".join(self.float_ends)
            lines.append(f"first_last_bits: {ends} can't be quantized, and no other layer takes the place of an end")
        if self.float_inputs:
            lines.append(f"these quantized layers compute on float inputs: {', '.join(self.float_inputs)}")
        if self.untraced:
            lines.append(
                f"the network can't be traced ({self.untraced}), so neither inputs that stay float nor ReLUs that are "
                f"no modules are listed"
            )
        if self.unchecked:
            lines.append(
                f"these ReLUs work in place; if what they work on is read again, it is not rectified as in the float "
                f"network, and without a trace nothing shows that: {', '.join(self.unchecked)}"
            )
        return lines

    def lines(self) -> list[str]:
        """A table of the sites: name, what is quantized, bits; and of what stays float, with the reason."""
        width = max((len(name) for name in (*(site.name for site in self.sites), *self.left_float)), default=0)
        rows = [f"{s.name:<{width}}  {s.kind:<6}  {s.grid.bits} bits" for s in self.sites]
        return rows + [f"{name:<{width}}  stays float: {reason}" for name, reason in self.left_float.items()]


def quantize_model(
    model: nn.Module,
    weight_bits: int,
    act_bits: int,
    *,
    clip_value: float | None = None,
    first_last_bits: int | None = 8,
    input_bits: int = FLOAT_BITS,
    per_channel: bool = False,
    overrides: Mapping[str, Bits] | None = None,
    count: str = "sample",
    inputs: str = AUTO,
    quantizer: QuantizerFactory = LSQQuantizer,
) -> tuple[nn.Module, Conversion]:
    """A quantized copy of `model` and what was done; weights' step sizes are set, activations' want `calibrate`.

    weight_bits, act_bits: 1 to 8 (2 to 8 for weights under LSQ), or 32 to leave them float.
    first_last_bits: bits of the ends; None treats them like the rest.
    per_channel: one weight step size per output channel.
    overrides: name pattern (as in `fnmatch`) -> bits, or {"weight": bits, "act": bits}; a later pattern wins. Layers
        carry their module's name, activations their ReLU's; a layer's own input has its layer's name, as "act".
    count: see `LSQQuantizer`; for activations.
    inputs: "auto" gives a layer whose input comes from no ReLU a site for it; "relu_only" leaves such inputs float.

    Raises `BrsweepError` for bits that no grid has, an option without effect, and a network that is quantized already,
    has nothing to quantize, or would change (see `find_places`, `copy_network`). Warns of `Conversion.warnings`.
    """
    _refuse_quantized(model)
    if inputs not in INPUTS:
        raise BrsweepError(f"inputs={inputs!r}: choose one of {', '.join(INPUTS)}")
    model, places = find_places(copy_network(model))
    _refuse_nothing(model, places)
    policy = Policy(places, weight_bits, act_bits, first_last_bits, overrides or {}, own_inputs=inputs == AUTO)
    own_inputs = policy.input_bits(input_bits)
    weights = {id(p): p.numel() for p in model.parameters() if p.dim() > 1}
    like = next(p for p in model.parameters() if p.dim() > 1)
    sites, left_float, low = [], dict(policy.left_float), set()
    for name in places.order:
        module, bits, is_low = model.get_submodule(name), policy.bits(name), name not in policy.ends
        clip = _tighter(clip_value, _own_clip(module))
        if bits == FLOAT_BITS:
            left_float[name] = ASKED
            if name in places.activations and clip is not None:
                replace(model, name, ClippedReLU(clip))
        elif name in places.layers:
            _quantize(name, module, bits, per_channel, quantizer)
            if own_inputs.get(name) == FLOAT_BITS:
                left_float[f"{name}.{INPUT}"] = ASKED
            elif name in own_inputs:
                module.input_quantizer = _of_both_signs(own_inputs[name], count, quantizer).to(like)
                sites.append(Site(f"{name}.{INPUT}", "act", module.input_quantizer, policy.input_is_low(name)))
            sites.append(Site(name, "weight", module.weight_quantizer, low=is_low))
            low |= {id(module.weight)} if is_low else set()
        else:
            replace(model, name, QuantizedClippedReLU(bits, clip, count=count, quantizer=quantizer).to(like))
            sites.append(Site(name, "act", model.get_submodule(name).quantizer, low=is_low))
    float_inputs = tuple(name for name in places.float_inputs if name not in left_float and name not in own_inputs)
    counts = (sum(weights.values()), sum(weights[key] for key in low))
    told = (policy.float_ends, *counts, places.untraced, places.unchecked)
    done = Conversion(tuple(sites), left_float, float_inputs, *told)
    for line in done.warnings:
        warnings.warn(line, stacklevel=2)
    return model, done


def clip_relus(model: nn.Module, clip_value: float | None) -> nn.Module:
    """A copy of a float network whose ReLUs clip at `clip_value`, as those of the quantized network will."""
    model = copy_network(model)
    if clip_value is None:
        return model
    model, places = find_places(model)
    for name in places.activations:
        replace(model, name, ClippedReLU(_tighter(clip_value, _own_clip(model.get_submodule(name)))))
    return model


def _refuse_quantized(model: nn.Module) -> None:
    if any(hasattr(m, "weight_quantizer") or isinstance(m, QuantizedClippedReLU) for m in model.modules()):
        raise BrsweepError("quantize_model: this network is quantized already; start from the float network")


def _refuse_nothing(model: nn.Module, places: Places) -> None:
    weights = any(p.dim() > 1 for p in model.parameters())
    if not weights or not places.order:
        missing = "layer or ReLU that can be quantized" if weights else "weights"
        raise BrsweepError(f"quantize_model: this network ({type(model).__name__}) has no {missing}")


def _quantize(name: str, module: nn.Module, bits: int, per_channel: bool, quantizer: QuantizerFactory) -> None:
    try:
        quantize_layer(module, bits, per_channel, quantizer)
    except BrsweepError as error:
        raise BrsweepError(f"{name}: {error}") from None


def _of_both_signs(bits: int, count: str, quantizer: QuantizerFactory) -> nn.Module:
    """A quantizer for values that may be negative: with an offset an unsigned grid reaches them, else a signed one."""
    made = quantizer(bits=bits, signed=False, count=count)
    return made if getattr(made, "offset", None) is not None else quantizer(bits=bits, signed=True, count=count)


def _own_clip(module: nn.Module) -> float | None:
    return 6.0 if isinstance(module, nn.ReLU6) else getattr(module, "clip_value", None)


def _tighter(one: float | None, other: float | None) -> float | None:
    clips = [c for c in (one, other) if c is not None]
    return min(clips) if clips else None
