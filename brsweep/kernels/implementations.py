"""The implementations of the op: which there are, which of them works here, and which one a tensor gets.

Each is a module with `fault()`, `takes(device_type, dtype)`, `forward` and `backward`, imported when it is first asked
for. A choice is `auto` or a name. `auto` is the device's own implementation where that takes the tensor's type, else
the reference.
"""

from __future__ import annotations

import functools
import warnings
from importlib import import_module
from types import ModuleType

import torch

from brsweep.errors import BrsweepError

MODULES = {"reference": "reference", "numba": "cpu", "triton": "cuda"}
OWN = {"cpu": "numba", "cuda": "triton"}
"""The implementation that is made for a type of device; others have the reference."""


@functools.cache
def fault(name: str) -> str | None:
    """Why an implementation cannot be had, on one line, or None: found out once, by trying it."""
    try:
        return _module(name).fault()
    except Exception as error:  # not installed, no compiler for this processor, no memory, versions that do not fit
        return f"{type(error).__name__}: {error}".splitlines()[0].removesuffix(": ")


def check(choice: str, device_type: str | None) -> None:
    """Raise `BrsweepError` unless the choice can be had; and on that type of device, where one is named."""
    if choice not in ("auto", *MODULES):
        raise BrsweepError(f"kernels={choice}: not available here; choose one of {', '.join(available())}")
    if choice != "auto":
        why = fault(choice)
        if why is not None:
            others = ", ".join(available())
            raise BrsweepError(f"kernels={choice}: not available here ({why}); choose one of {others}")
        if device_type is not None:
            implementation(choice, device_type, torch.float32)
    elif device_type in OWN and fault(OWN[device_type]) is not None:
        raise BrsweepError(
            f"kernels=auto: {OWN[device_type]} does not work here ({fault(OWN[device_type])}); mend that, or set "
            f"kernels=reference: slower, with other last bits, and so a run of another name"
        )


def available() -> tuple[str, ...]:
    """The choices that can be had on this machine."""
    return ("auto", *(name for name in MODULES if fault(name) is None))


@functools.cache
def fastest(device_type: str) -> str:
    """What `auto` is for float32 tensors. A warning says where the device's own implementation cannot be had."""
    own = OWN.get(device_type, "reference")
    why = fault(own)
    if why is None:
        return own
    if device_type != "cuda" or torch.cuda.is_available():
        warnings.warn(f"{own} does not work here, the slower reference is used: {why}", RuntimeWarning, stacklevel=3)
    return "reference"


@functools.cache
def implementation(choice: str, device_type: str, dtype: torch.dtype) -> ModuleType:
    """The module for such tensors. Raises `BrsweepError` where a choice by name does not take them."""
    found = _module(fastest(device_type) if choice == "auto" else choice)
    if found.takes(device_type, dtype):
        return found
    if choice != "auto":
        raise BrsweepError(f"kernels={choice}: takes no {dtype} on {device_type}; set kernels=auto")
    return _module("reference")


def forget() -> None:
    """Find out anew what works here."""
    for found_once in (fault, fastest, implementation):
        found_once.cache_clear()


def _module(name: str) -> ModuleType:
    return import_module(f"brsweep.kernels.{MODULES[name]}")
