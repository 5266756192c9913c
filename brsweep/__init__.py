"""Quantization-aware training at low bit-widths with LSQ and Bin Regularization.

`brsweep.load(run)` gives back the network of a finished run; everything else is imported from its room.
"""

from typing import Any

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    if name == "load":
        from brsweep.export.load import load

        return load
    raise AttributeError(f"module 'brsweep' has no attribute {name!r}")
