"""Networks for tests of the export: quantized and calibrated without a training, as `brsweep.load` would give them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from brsweep.export.load import Network
from brsweep.export.pictures import Preprocess
from brsweep.quant import calibrate, quantize_model


def network(model: nn.Module, bits: int = 2, size: int = 8, channels: int = 3, classes: int = 4, **options) -> Network:
    """`model` quantized, its batch norms with statistics as a training leaves them, calibrated on noise."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine and module.track_running_stats:
            count = module.num_features
            module.weight.data = torch.randn(count, generator=generator) * 0.3 + 0.8  # a few are negative
            module.bias.data = torch.randn(count, generator=generator) * 0.3
            module.running_mean = torch.randn(count, generator=generator) * 0.2
            module.running_var = torch.rand(count, generator=generator) + 0.3
    about = {"size": [size, size], "channels": channels, "mean": [0.45] * channels, "std": [0.26] * channels}
    names = [f"class {i}" for i in range(classes)]
    preprocess = Preprocess(about, torch.device("cpu"), channels_last=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        quantized, conversion = quantize_model(model.eval(), bits, bits, **options)
    calibrate(quantized, [preprocess(images(64, size, channels))])
    config = {"precision": "float32", "model": {"_target_": "a.network"}, "data": {}}
    record = {"sweep": "sweep", "name": "run", "config": config, "images": about | {"classes": names}}
    return Network(quantized.eval(), tuple(names), preprocess, record, Path("run"), "best", False, conversion)


def images(count: int, size: int = 8, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, size, size, channels), dtype=np.uint8)
