"""What is recorded of an epoch, for tests of what is made of it: its record, and what its layers measure."""

from __future__ import annotations

import math

RECORD = {
    "stage": "br",
    "epoch": 31,
    "epochs": 100,
    "lr": 0.004987,
    "train_accuracy": 0.9234,
    "val_accuracy": 0.912,
    "test_accuracy": 0.9045,
    "penalty_weight": 0.012345,
    "penalty_act": 0.023456,
    "time_s": 1.23,
    "shared": False,
}
LINE = (
    "Epoch 31/100 [BR] (LR=0.004987): Train Acc=92.34%, Val Acc=91.20%, Test Acc=90.45%, "
    "BR_W=0.012345, BR_A=0.023456, 1.2 s"
)
"""What the console says of RECORD."""

LAYERS = {
    "stage": "br", "epoch": 5,
    "site": ["conv1", "a", "b", "relu_a", "relu_b"],
    "kind": ["weight", "weight", "weight", "act", "act"],
    "bits": [8, 2, 2, 2, 2],
    "low": [False, True, True, True, True],
    "alpha": [9.0, 0.5, 2.0, 0.25, 0.0],
    "occupancy": [[0.0] * 256, [0.0, 0.25, 0.75, 0.0], [0.25] * 4, [1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]],
    "near": [9.0, 0.25, 0.75, 0.5, None],
    "clip_low": [9.0, 0.125, 0.0, 0.0, 0.0],
    "clip_high": [9.0, 0.125, 0.25, 0.5, 0.25],
    "changed": [9.0, 0.5, 0.0, None, None],
    "oscillating": [9.0, 0.125, 0.0, None, None],
    "pull_over_decay": [None, 0.5, math.nan, None, None],
}  # fmt: skip
"""Of a later epoch of a small net: one site that is not low, two weights, two activations."""
