"""The integer grid under a quantizer: the only place that turns bits and sign into bounds and levels.

    signed   (weights):      Qn = -2^(b-1),  Qp = 2^(b-1) - 1      2 bits: -2a, -a, 0, +a
    unsigned (after a ReLU): Qn = 0,         Qp = 2^b - 1          2 bits: 0, a, 2a, 3a

A *code* is an integer in [Qn, Qp]; a *level* is code x alpha; a *bin* is the set of values that share a code.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from brsweep.errors import BrsweepError

if TYPE_CHECKING:
    from torch import Tensor

FLOAT_BITS = 32
"""Not a grid: the number of bits that means "leave it in floating point"."""


@dataclass(frozen=True)
class Grid:
    """The codes that `bits` bits can hold. Any integer type will do (numpy's), a bool won't.

    Raises `BrsweepError` for bits outside 1..8.

    >>> Grid(2, signed=True).qn, Grid(2, signed=True).qp
    (-2, 1)
    >>> list(Grid(2, signed=False).codes)
    [0, 1, 2, 3]
    """

    bits: int
    signed: bool

    def __post_init__(self) -> None:
        try:
            bits = 0 if isinstance(self.bits, bool) else operator.index(self.bits)
        except TypeError:
            bits = 0
        if not 1 <= bits <= 8:
            raise BrsweepError(f"bits={self.bits!r}: a grid has 1 to 8 bits; {FLOAT_BITS} means float and has no grid")
        object.__setattr__(self, "bits", bits)

    @property
    def qn(self) -> int:
        """The lowest code, Qn (inclusive)."""
        return -(2 ** (self.bits - 1)) if self.signed else 0

    @property
    def qp(self) -> int:
        """The highest code, Qp (inclusive)."""
        return 2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits - 1

    @property
    def bins(self) -> int:
        """How many codes there are."""
        return 2**self.bits

    @property
    def codes(self) -> range:
        """Qn, ..., Qp in order: the bin at index i holds code Qn + i."""
        return range(self.qn, self.qp + 1)

    def levels(self, alpha: Tensor) -> Tensor:
        """Codes x alpha: shape `[*alpha.shape, bins]`, in alpha's unit."""
        import torch

        codes = torch.arange(self.qn, self.qp + 1, device=alpha.device, dtype=alpha.dtype)
        return alpha.unsqueeze(-1) * codes
