"""What a whole training takes, from a few real epochs of it: `python -m benchmarks.epochs --net resnet20 --epochs 5`.

It runs `python -m brsweep.train` as a user would, in a process of its own, on made-up images of CIFAR's size: float
epochs, then as many of LSQ+BR(W+A), with evaluation, records and checkpoints. An epoch's time is the median over a
stage's epochs; what the process takes beside its epochs is added once. `--images` below 50,000 shortens the epochs,
which are then scaled up. A row of a Markdown table comes out.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import machine
from brsweep.tracking.jsonl import read_epochs

CIFAR = 50_000
HEAD = "| run | float epoch | LSQ+BR(W+A) epoch | start and end | 100 of each |\n|---|---|---|---|---|"


def train(net: str, quant: str, images: int, epochs: int, typed: list[str]) -> tuple[list[dict], float]:
    """The records of the epochs, and the seconds of the whole process. Raises SystemExit where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "brsweep.train", f"model={net}", f"quant={quant}", "logger=none"),
            *("data=synthetic", "data.classes=10", f"data.train_images={images}", f"data.test_images={images // 5}"),
            *("data.image_size=32", "data.crop_padding=4", "data.flip=true", "data.batch_size=128"),
            *(f"schedule.float_epochs={epochs}", f"schedule.qat_epochs={epochs}", "schedule.warmup_epochs=0"),
            *(f"output_dir={folder}", *typed),
        ]
        began = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        seconds = time.perf_counter() - began
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
        (metrics,) = Path(folder).glob("*/*/metrics.jsonl")
        return read_epochs(metrics), seconds


def row(name: str, records: list[dict], seconds: float, images: int) -> str:
    """Epochs of CIFAR's 50,000 images, a tenth of which only validate, and of 10,000 to test."""
    minutes = {}
    for stage in ("float", "br"):
        times = [record["time_s"] for record in records if record["stage"] == stage]
        minutes[stage] = statistics.median(times) / 60 * CIFAR / images
    beside = seconds - sum(record["time_s"] for record in records)
    hours = (100 * sum(minutes.values()) + beside / 60) / 60
    return f"| {name} | {minutes['float']:.2f} min | {minutes['br']:.2f} min | {beside:.0f} s | {hours:.1f} h |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", default="resnet20")
    parser.add_argument("--quant", default="w2a2")
    parser.add_argument("--images", type=int, default=CIFAR, help="of an epoch; a tenth of them validate")
    parser.add_argument("--epochs", type=int, default=5, help="of each stage")
    parser.add_argument("overrides", nargs="*", help="further settings of the run, such as precision=bf16")
    typed = parser.parse_args()
    records, seconds = train(typed.net, typed.quant, typed.images, typed.epochs, typed.overrides)
    told = machine.describe(torch.device("cpu"))
    print(f"{typed.epochs} epochs of {typed.images} images in each stage; ", end="")
    print(f"{told['device']}; {told['versions']}; {told['date']}\n")
    print(HEAD)
    print(row(" ".join([typed.net, typed.quant, *typed.overrides]), records, seconds, typed.images))


if __name__ == "__main__":
    main()
