"""Latency of exported networks under ONNX Runtime: float32 against integers, one thread and two, one image and many.

    python -m benchmarks.inference [--rounds 30] [--out inference.json]

The networks are quantized and calibrated on noise, not trained: latency depends on shapes and types alone. Rows:

    float32      the float network
    folded       QDQ as `brsweep.export` writes it: batch norm folded where no code changes, QLinearConv
    float norms  QDQ with nothing folded: float convolutions on integer weights
    narrow       weights in int2 or int4, the smallest file

Each round runs every row once, in another order, and a row stands as a ratio to float32 with its 95 % interval. The
machine should do nothing else. ONNX Runtime's CPU kernels compute in 8 bits at the narrowest: what 2 bits buy here is
the file, not time beyond that of 8 bits.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.machine import describe
from benchmarks.timing import measure, ratio
from brsweep.export.check import session
from brsweep.export.levels import levels_of
from brsweep.export.load import Network
from brsweep.export.pictures import Preprocess
from brsweep.export.qdq import Exported, Form, to_onnx
from brsweep.models.resnet import resnet18, resnet20
from brsweep.quant.calibration import calibrate
from brsweep.quant.convert import Conversion, quantize_model

NETS = {"ResNet-20": resnet20, "ResNet-18": resnet18}
BITS, BATCHES, THREADS = (2, 4), (1, 128), (1, 2)
SIZE, CHANNELS, CLASSES = 32, 3, 10
FLOAT = "float32"


def rows(net: Callable[..., nn.Module], bits: int) -> dict[str, Exported]:
    """Name -> network to be timed."""
    torch.manual_seed(0)
    floating = net(CLASSES).eval()
    quantized, conversion = quantize_model(floating, bits, bits)
    calibrate(quantized, [torch.randn(16, CHANNELS, SIZE, SIZE)])
    of, plain = _network(quantized, conversion), _network(floating, Conversion((), {}, (), (), 0, 0))
    levels = levels_of(of)
    return {
        FLOAT: to_onnx(plain, {}),
        "folded": to_onnx(of, levels),
        "float norms": to_onnx(of, levels, Form(fold="none")),
        "narrow": to_onnx(of, levels, Form(weights=f"int{bits}")),
    }


def _network(model: nn.Module, conversion: Conversion) -> Network:
    about = {"size": [SIZE, SIZE], "channels": CHANNELS, "mean": [0.5] * CHANNELS, "std": [0.25] * CHANNELS}
    record = {"sweep": "benchmarks", "name": "inference", "images": about, "config": {"precision": FLOAT}}
    classes = tuple(map(str, range(CLASSES)))
    preprocess = Preprocess(about, torch.device("cpu"), channels_last=False)
    return Network(model.eval(), classes, preprocess, record, Path("inference"), "best", False, conversion)


def timed(networks: dict[str, Exported], batch: int, threads: int, rounds: int) -> dict[str, Any]:
    """Row -> milliseconds per call (median), and its ratio to float32 with the 95 % interval."""
    images = np.random.default_rng(0).normal(size=(batch, CHANNELS, SIZE, SIZE)).astype(np.float32)
    runs = {name: session(network, threads=threads) for name, network in networks.items()}
    seconds = measure({name: partial(run.run, None, {"images": images}) for name, run in runs.items()}, rounds)
    return {
        name: {"ms": 1000 * statistics.median(mine), "ratio": ratio(mine, seconds[FLOAT])}
        for name, mine in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inference", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    options = parser.parse_args()
    found: dict[str, Any] = describe(torch.device("cpu")) | {"rounds": options.rounds, "rows": []}
    for net in options.nets:
        for bits in BITS:
            networks = rows(NETS[net], bits)
            sizes = {name: len(network.model.SerializeToString()) for name, network in networks.items()}
            for batch in BATCHES:
                for threads in THREADS:
                    times = timed(networks, batch, threads, options.rounds)
                    about = {"net": net, "bits": bits, "batch": batch, "threads": threads}
                    found["rows"].append(about | {"bytes": sizes, "times": times})
                    print(
                        f"{net} W{bits}A{bits}, batch {batch}, {threads} threads: "
                        + "; ".join(map(_line, times.items()))
                    )
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


def _line(row: tuple[str, dict[str, Any]]) -> str:
    name, time = row
    middle, low, high = time["ratio"]
    return f"{name} {time['ms']:.2f} ms, {middle:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    main()
