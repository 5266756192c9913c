"""Float network -> quantized network, by a policy, telling what it did.

Every convolution and linear layer gets a signed quantizer for its weight, every ReLU becomes an activation site with
an unsigned one. The 8-bit ends (`first_last_bits`) are the first and the last layer's weights and the last ReLU; the
image stays float unless `input_bits` says otherwise.

Each place where an activation is quantized needs its own step size, so a ReLU module used at several places becomes
one module per place, and functional ReLUs become modules: see `brsweep.quant.places`.
"""

from __future__ import annotations

import copy
import difflib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from brsweep.errors import BrsweepError
from brsweep.quant.grid import FLOAT_BITS, Grid
from brsweep.quant.layers import ClippedReLU, QuantConv2d, QuantizedClippedReLU, QuantizerFactory, QuantLinear
from brsweep.quant.lsq import LSQQuantizer
from brsweep.quant.places import Places, find_places, replace
from brsweep.quant.sites import Site

INPUT_SITE = "input"
KINDS = ("weight", "act")
Bits = int | Mapping[str, int]


@dataclass(frozen=True)
class Conversion:
    """What `quantize_model` did: the quantized sites in the order of execution, and what stayed float.

    left_float: layers and activations that were asked to stay float (32 bits).
    float_inputs: quantized layers, the first apart, whose input comes from no activation site at all.
    untraced: why the network could not be traced, where it could not; `float_inputs` is empty then.
    """

    sites: tuple[Site, ...]
    left_float: tuple[str, ...]
    float_inputs: tuple[str, ...]
    untraced: str = ""

    @property
    def warnings(self) -> list[str]:
        """One line for each thing that a reader of accuracies should know."""
        lines = []
        if self.float_inputs:
            lines.append(f"these quantized layers compute on float inputs: {', '.join(self.float_inputs)}")
        if self.untraced:
            lines.append(f"the network can't be traced ({self.untraced}), so inputs that stay float are not listed")
        return lines

    def lines(self) -> list[str]:
        """A table of the sites: name, what is quantized, bits."""
        width = max((len(site.name) for site in self.sites), default=0)
        rows = [f"{s.name:<{width}}  {s.kind:<6}  {s.grid.bits} bits" for s in self.sites]
        return rows + [f"{name:<{width}}  stays float" for name in self.left_float]


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
    quantizer: QuantizerFactory = LSQQuantizer,
) -> tuple[nn.Module, Conversion]:
    """A quantized copy of `model` and what was done; weights' step sizes are set, activations' want `calibrate`.

    weight_bits, act_bits: 1 to 8 (2 to 8 for weights under LSQ), or 32 to leave them float.
    first_last_bits: bits of the ends; None treats them like the rest.
    per_channel: one weight step size per output channel.
    overrides: name pattern (as in `fnmatch`) -> bits, or {"weight": bits, "act": bits}; a later pattern wins. Layers
        carry their module's name, activations their ReLU's.
    count: see `LSQQuantizer`; for activations.

    Raises `BrsweepError` for bits that no grid has, an option without effect, a layer used at two places, or a network
    that is quantized already. Warns of quantized layers whose input stays float.
    """
    if any(isinstance(module, (QuantConv2d, QuantLinear, QuantizedClippedReLU)) for module in model.modules()):
        raise BrsweepError("quantize_model: this network is quantized already; start from the float network")
    model, places = find_places(copy.deepcopy(model))
    policy = _Policy(places, weight_bits, act_bits, first_last_bits, overrides or {})
    like = next(model.parameters())
    sites, left_float = [], []
    for name in places.order:
        module, bits = model.get_submodule(name), policy.bits(name)
        clip = _tighter(clip_value, _own_clip(module))
        if bits == FLOAT_BITS:
            left_float.append(name)
            if name in places.activations and clip is not None:
                replace(model, name, ClippedReLU(clip))
            continue
        if name in places.layers:
            module = _quantized_layer(name, module, bits, per_channel, quantizer)
            if name == places.layers[0] and input_bits != FLOAT_BITS:
                module.input_quantizer = quantizer(bits=input_bits, signed=True, count=count).to(like)
                sites.append(Site(INPUT_SITE, "act", module.input_quantizer, low=False))
            sites.append(Site(name, "weight", module.weight_quantizer, low=name not in policy.ends))
        else:
            module = QuantizedClippedReLU(bits, clip, count=count, quantizer=quantizer).to(like)
            sites.append(Site(name, "act", module.quantizer, low=name not in policy.ends))
        replace(model, name, module)
    if input_bits != FLOAT_BITS and not any(site.name == INPUT_SITE for site in sites):
        raise BrsweepError(f"input_bits={input_bits}: the first layer stays float, so its input does; quantize it too")
    float_inputs = tuple(name for name in places.float_inputs() if name not in left_float)
    done = Conversion(tuple(sites), tuple(left_float), float_inputs, places.untraced)
    for line in done.warnings:
        warnings.warn(line, stacklevel=2)
    return model, done


def clip_relus(model: nn.Module, clip_value: float | None) -> nn.Module:
    """A copy of a float network whose ReLUs clip at `clip_value`, as those of the quantized network will."""
    model = copy.deepcopy(model)
    if clip_value is None:
        return model
    model, places = find_places(model)
    for name in places.activations:
        replace(model, name, ClippedReLU(_tighter(clip_value, _own_clip(model.get_submodule(name)))))
    return model


class _Policy:
    """Which bits each place gets."""

    def __init__(self, places: Places, weight_bits, act_bits, first_last_bits, overrides) -> None:
        self.places, self.weight_bits, self.act_bits = places, weight_bits, act_bits
        self.first_last_bits, self.overrides = first_last_bits, overrides
        ends = [*places.layers[:1], *places.layers[-1:], *places.activations[-1:]]
        self.ends = frozenset(ends if first_last_bits is not None else ())
        for pattern in overrides:
            if not any(fnmatchcase(name, pattern) for name in places.order):
                close = difflib.get_close_matches(pattern, places.order, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise BrsweepError(f"quant.overrides: no layer or ReLU matches {pattern!r}{hint}")
            unknown = set(overrides[pattern]) - set(KINDS) if isinstance(overrides[pattern], Mapping) else ()
            if unknown:
                raise BrsweepError(f"quant.overrides: {pattern} sets {sorted(unknown)}; choose from {', '.join(KINDS)}")

    def bits(self, name: str) -> int:
        kind = "weight" if name in self.places.layers else "act"
        bits = self.weight_bits if kind == "weight" else self.act_bits
        if name in self.ends and bits != FLOAT_BITS:
            bits = self.first_last_bits
        for pattern, override in self.overrides.items():
            if fnmatchcase(name, pattern):
                bits = override.get(kind, bits) if isinstance(override, Mapping) else override
        if bits != FLOAT_BITS:
            Grid(bits, signed=kind == "weight")
        return bits


def _quantized_layer(
    name: str, module: nn.Module, bits: int, per_channel: bool, quantizer: QuantizerFactory
) -> nn.Module:
    layer = QuantConv2d if isinstance(module, nn.Conv2d) else QuantLinear
    try:
        return layer.from_float(module, bits, per_channel, quantizer)
    except BrsweepError as error:
        raise BrsweepError(f"{name}: {error}") from None


def _own_clip(module: nn.Module) -> float | None:
    return 6.0 if isinstance(module, nn.ReLU6) else getattr(module, "clip_value", None)


def _tighter(one: float | None, other: float | None) -> float | None:
    clips = [c for c in (one, other) if c is not None]
    return min(clips) if clips else None
