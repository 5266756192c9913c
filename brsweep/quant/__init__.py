"""Quantizers, quantized layers, and the conversion of a float network.

The names below are the public ones; they are imported on first use, so that planning a sweep needs no torch.
"""

from importlib import import_module

_HOME = {
    "Grid": "grid",
    "FLOAT_BITS": "grid",
    "LSQQuantizer": "lsq",
    "Quantizer": "quantizer",
    "ClippedReLU": "layers",
    "QuantizedClippedReLU": "layers",
    "QuantConv2d": "layers",
    "QuantLinear": "layers",
    "QuantConv1d": "layers",
    "QuantConv3d": "layers",
    "QuantConvTranspose1d": "layers",
    "QuantConvTranspose2d": "layers",
    "QuantConvTranspose3d": "layers",
    "Conversion": "convert",
    "quantize_model": "convert",
    "clip_relus": "convert",
    "calibrate": "calibration",
    "Site": "sites",
    "SumRequest": "sites",
    "VALUES": "sites",
    "collect": "sites",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(f"brsweep.quant.{_HOME[name]}"), name)
    raise AttributeError(f"module 'brsweep.quant' has no attribute {name!r}")
