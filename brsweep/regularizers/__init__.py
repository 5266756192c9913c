"""Penalties that pull latent values to the quantizer's levels."""

from importlib import import_module

_HOME = {
    "ActivationHookManager": "capture",
    "BinRegularization": "br",
    "BinRegularizer": "bin",
    "Regularizer": "regularizer",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(f"brsweep.regularizers.{_HOME[name]}"), name)
    raise AttributeError(f"module 'brsweep.regularizers' has no attribute {name!r}")
