"""A checked configuration with stages of each kind, and others beside it."""

from __future__ import annotations

import copy

CONFIG = {
    "model": {"_target_": "brsweep.models.tiny.tiny", "width": 8},
    "data": {"_target_": "brsweep.data.synthetic.Synthetic", "classes": 4, "val_fraction": 0.1, "batch_size": 64},
    "quant": {
        "weight_bits": 2, "act_bits": 2, "first_last_bits": 8, "clip_value": None,
        "quantizer": {"_target_": "brsweep.quant.lsq.LSQQuantizer"},
    },
    "reg": {
        "_target_": "brsweep.regularizers.br.BinRegularization", "lambda_weight": 1.0, "lambda_act": 0.5,
        "backprop_to_alpha": False, "alpha_grad_scale": "raw", "variance": "biased", "first_last": False,
        "scale": 1.0,
        "ramp": {"weight": "constant", "act": "cosine"}, "saturated": {"weight": "pull", "act": "ignore"},
        "unit": {"weight": "value", "act": "value"}, "reduction": {"weight": "sum", "act": "sum"},
    },
    "schedule": {
        "float_epochs": 4, "warmup_epochs": 2, "qat_epochs": 6, "float_lr_warmup_epochs": 0,
        "qat_lr_warmup_epochs": 0, "freeze_alpha": False, "ladder": [], "rung_epochs": 0,
    },
    "distill": {"weight": 0.0, "temperature": 4.0},
    "freeze_weights": {"threshold": 0.0, "threshold_end": 0.01, "momentum": 0.001},
    "transition_rate": {"factor": 0.0, "momentum": 0.99, "gain": 1.0},
    "float_optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1},
    "qat_optimizer": {"_target_": "torch.optim.SGD", "lr": 0.01},
    "logger": {"_target_": None}, "seed": 42, "device": "cpu", "threads": 0, "precision": "float32",
    "kernels": "auto", "calibration_batches": 4, "reestimate_bn_batches": 0, "pretrained": None,
    "sweep_name": "default", "output_dir": "runs", "store_dir": "runs/store", "force": False, "stale": "stop",
    "allow_targets": [],
}  # fmt: skip

FLOAT, WARMUP, BR = "float", "warmup", "br"
NONE, ALL = set(), {FLOAT, WARMUP, BR}


def changed(**values):
    """CONFIG with dotted fields, dots as double underscores, at other values."""
    config = copy.deepcopy(CONFIG)
    for path, value in values.items():
        *parents, leaf = path.split("__")
        node = config
        for key in parents:
            node = node[key]
        node[leaf] = value
    return config
