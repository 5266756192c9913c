"""Which bits each place of a network gets, and why a weight stays float."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from fnmatch import fnmatchcase

from brsweep.errors import BrsweepError
from brsweep.quant.grid import FLOAT_BITS, Grid
from brsweep.quant.places import Places

KINDS = ("weight", "act")
ASKED = "32 bits were asked for"
Bits = int | Mapping[str, int]


class Policy:
    """Which bits each place gets."""

    def __init__(self, places: Places, weight_bits, act_bits, first_last_bits, overrides, own_inputs: bool) -> None:
        """own_inputs: a layer whose input comes from no ReLU has a site for it."""
        self.places, self.weight_bits, self.act_bits = places, weight_bits, act_bits
        self.first_last_bits, self.overrides = first_last_bits, overrides
        self.own_inputs = places.float_inputs if own_inputs else ()
        last_has_own = bool(set(places.ends[-1:]) & set(self.own_inputs))
        ends = (*places.ends, *(() if last_has_own else places.activations[-1:]))
        self.ends = frozenset(ends if first_last_bits is not None else ())
        self.left_float = {name: self._reason(name) for name in places.left_float}
        self.float_ends = tuple(name for name in places.ends if self.left_float.get(name, ASKED) != ASKED)
        if first_last_bits is None:
            self.float_ends = ()
        for pattern, override in overrides.items():
            self._check(pattern, override)

    def _reason(self, name: str) -> str:
        """Why a weight that can't be quantized stays float: because that was asked for, where it was."""
        bits = self._overridden(name, "weight", self.weight_bits)
        return ASKED if bits == FLOAT_BITS else self.places.left_float[name]

    def _check(self, pattern: str, override: Bits) -> None:
        names = [*self.places.order, *self.places.left_float]
        matching = [name for name in names if fnmatchcase(name, pattern)]
        if not matching:
            close = difflib.get_close_matches(pattern, names, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise BrsweepError(f"quant.overrides: no layer or ReLU matches {pattern!r}{hint}")
        unknown = set(override) - set(KINDS) if isinstance(override, Mapping) else ()
        if unknown:
            raise BrsweepError(f"quant.overrides: {pattern} sets {sorted(unknown)}; choose from {', '.join(KINDS)}")
        for kind in override if isinstance(override, Mapping) else ():
            with_kind = (*self.places.layers, *self.left_float) if kind == "weight" else self._with_values()
            if not set(matching) & set(with_kind):
                raise BrsweepError(f"quant.overrides: {pattern} sets {kind!r}, and {matching[0]} has none to quantize")
        if not set(matching) & set(self.places.order) and self.left_float[matching[0]] != ASKED:
            reason = self.places.left_float[matching[0]]
            raise BrsweepError(
                f"quant.overrides: {matching[0]} can't be quantized ({reason}); {FLOAT_BITS} leaves it so"
            )

    def _with_values(self) -> tuple[str, ...]:
        """Places whose "act" can be set."""
        return (*self.places.activations, *self.own_inputs)

    def bits(self, name: str) -> int:
        """Of a layer's weight, or of a ReLU's values."""
        return self._bits(name, "weight" if name in self.places.layers else "act")

    def _bits(self, name: str, kind: str) -> int:
        bits = self.weight_bits if kind == "weight" else self.act_bits
        if name in self.ends and bits != FLOAT_BITS:
            bits = self.first_last_bits
        bits = self._overridden(name, kind, bits)
        if bits != FLOAT_BITS:
            Grid(bits, signed=kind == "weight")
        return bits

    def input_bits(self, image_bits: int) -> dict[str, int]:
        """Layer -> bits of its own input: the image, where that is to be quantized, and what comes from no ReLU."""
        image = self._image_layer(image_bits)
        found = {name: self._bits(name, "act") for name in self.own_inputs if self.bits(name) != FLOAT_BITS}
        return found | ({} if image is None else {image: image_bits})

    def input_is_low(self, name: str) -> bool:
        """Whether a layer's own input is at the low bit-width: the image is not, nor what is an end."""
        return name not in self.ends and name not in self.places.ends[:1]

    def _image_layer(self, input_bits: int) -> str | None:
        if input_bits == FLOAT_BITS:
            return None
        first = self.places.ends[0]
        if first not in self.places.layers or self.bits(first) == FLOAT_BITS:
            raise BrsweepError(
                f"input_bits={input_bits}: the first layer stays float ({first}), so its input does; quantize it too"
            )
        return first

    def _overridden(self, name: str, kind: str, bits: int) -> int:
        for pattern, override in self.overrides.items():
            if fnmatchcase(name, pattern):
                bits = override.get(kind, bits) if isinstance(override, Mapping) else override
        return bits
