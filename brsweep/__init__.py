"""Quantization-aware training at low bit-widths with LSQ and Bin Regularization.

`brsweep.load(run)` gives back the network of a finished run, `brsweep.results(sweep)` a sweep's runs and epochs as
pandas frames; everything else is imported from its room.
"""

from typing import Any

__all__ = ["load", "results"]


def __getattr__(name: str) -> Any:
    if name == "load":
        from brsweep.export.load import load

        return load
    if name == "results":
        from brsweep.report.frames import results

        return results
    raise AttributeError(f"module 'brsweep' has no attribute {name!r}")
