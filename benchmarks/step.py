"""Time whole training steps against the float step: `python -m benchmarks.step --net resnet20 --bits 2,8 --rounds 15`.

Every variant takes a step in every round, in an order drawn anew, all in one process; what counts is the ratio of two
medians over the rounds. Its interval is the 95 % bootstrap over rounds. A single time says little on a shared machine.

    float                      the network before quantization
    LSQ, LSQ+BR(W), LSQ+BR(W+A)    brsweep as it trains: kernels=auto
    reference ...              the same with kernels=reference
    textbook ...               as usually written: eager operators, a loop over the bins with masks (`textbook.py`)

Images are random: a step's time does not depend on them. Memory is what autograd keeps for the backward.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch

from benchmarks.textbook import LoopRegularization, TextbookLSQ
from brsweep import kernels
from brsweep.data.table import ImageTable
from brsweep.models import resnet
from brsweep.quant import LSQQuantizer, calibrate, quantize_model
from brsweep.regularizers import BinRegularization
from brsweep.training.optim import build_optimizer
from brsweep.training.step import Learner, Totals, train_step

FLOAT, AUGMENTATION = "float", "augmentation"
KINDS = {"": (), "+BR(W)": ("weight",), "+BR(W+A)": ("weight", "act")}
OPTIONS = {"lr": 1e-4, "weight_decay": 1e-4, "alpha_lr": 1e-4, "alpha_weight_decay": 0.0, "norm_weight_decay": 0.0}
RESAMPLES = 2000


class Variant:
    """One network with its optimizer; `step` takes a training step and waits for it."""

    def __init__(self, learner: Learner, choice: str, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        self.learner, self.choice, self.batch = learner, choice, batch
        self.totals = Totals(batch[0].device)

    def step(self) -> None:
        kernels.use(self.choice)
        train_step(self.learner, *self.batch, {"weight": 1.0, "act": 1.0}, self.totals, 0)
        _wait(self.batch[0].device)

    def saved_bytes(self) -> int:
        """Bytes that one forward pass keeps for the backward; tensors that share memory count once."""
        seen: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            self.step()
        own = {parameter.untyped_storage().data_ptr() for parameter in self.learner.model.parameters()}
        return sum(size for pointer, size in seen.items() if pointer not in own)


def variants(net: str, bits: list[int], batch_size: int, device: torch.device) -> dict[str, Variant]:
    """Name -> variant; those that quantize carry their bits in the name."""
    images = torch.randn(batch_size, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    batch = images, torch.randint(10, (batch_size,), device=device)

    def learner(model: torch.nn.Module, **parts) -> Learner:
        return Learner(model, build_optimizer(torch.optim.SGD, model, OPTIONS | {"momentum": 0.9}), **parts)

    def placed() -> torch.nn.Module:
        torch.manual_seed(0)
        return getattr(resnet, net)(10).to(device, memory_format=torch.channels_last).train()

    def quantized(width: int, quantizer: type, regularizer: Callable) -> Learner:
        model, done = quantize_model(placed(), width, width, quantizer=quantizer)
        calibrate(model, [images])
        return learner(model, sites=done.sites, regularizer=regularizer(model))

    found = {FLOAT: Variant(learner(placed()), "auto", batch)}
    for width in bits:
        for suffix, kinds in KINDS.items():
            name = f"LSQ{suffix} {width} bits"
            ours = BinRegularization(float("weight" in kinds), float("act" in kinds)) if kinds else None
            for prefix, choice in (("", "auto"), ("reference ", "reference")):
                part = quantized(width, LSQQuantizer, lambda _, ours=ours: ours)
                found[prefix + name] = Variant(part, choice, batch)
            loop = quantized(
                width, TextbookLSQ, lambda model, kinds=kinds: LoopRegularization(model, kinds) if kinds else None
            )
            found[f"textbook {name}"] = Variant(loop, "auto", batch)
    return found


def measure(steps: dict[str, Callable[[], None]], rounds: int, seed: int = 0) -> dict[str, list[float]]:
    """Seconds of each step in each round, after one round that does not count."""
    names, order = list(steps), random.Random(seed)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        order.shuffle(names)
        for name in names:
            started = time.perf_counter()
            steps[name]()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio(above: list[float], below: list[float], seed: int = 0) -> tuple[float, float, float]:
    """Ratio of the medians and its 95 % interval: rounds drawn again, both sides from the same ones.

    >>> ratio([2.0, 2.0, 2.0], [1.0, 1.0, 1.0])
    (2.0, 2.0, 2.0)
    """
    draw, rounds = random.Random(seed), range(len(above))

    def of(chosen) -> float:
        return statistics.median(above[i] for i in chosen) / statistics.median(below[i] for i in chosen)

    drawn = sorted(of(draw.choices(rounds, k=len(rounds))) for _ in range(RESAMPLES))
    return of(rounds), drawn[int(0.025 * RESAMPLES)], drawn[int(0.975 * RESAMPLES)]


def augmentation(batch_size: int, device: torch.device) -> Callable[[], None]:
    """A step's batch of crops and flips, out of a table of 3x32x32 images in memory."""
    count = 100 * batch_size
    pixels = torch.randint(256, (count, 32, 32, 3), dtype=torch.uint8).numpy()
    labels = torch.randint(10, (count,)).numpy()
    table = ImageTable(
        pixels, labels, mean=(0.5,) * 3, std=(0.25,) * 3, crop_padding=4, flip=True, device=device, channels_last=True
    )
    batches = iter(())

    def step() -> None:
        nonlocal batches
        if next(batches, None) is None:
            batches = table.augmented(batch_size, 0)
            next(batches)
        _wait(device)

    return step


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def report(net: str, bits: list[int], batch_size: int, rounds: int, device: torch.device) -> dict:
    """Everything that the table shows, as plain data."""
    found = variants(net, bits, batch_size, device)
    steps = {name: variant.step for name, variant in found.items()} | {AUGMENTATION: augmentation(batch_size, device)}
    seconds = measure(steps, rounds)
    rows = {}
    for name, times in seconds.items():
        rows[name] = {"median_s": statistics.median(times), "over_float": ratio(times, seconds[FLOAT])}
        lsq = f"LSQ {name.split()[-2]} bits" if name.endswith("bits") else None
        if lsq:
            rows[name]["over_lsq"] = ratio(times, seconds[lsq])
        if name in found:
            rows[name]["saved_bytes"] = found[name].saved_bytes()
    return {
        "net": net, "batch_size": batch_size, "rounds": rounds, "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"CPU ({platform.machine()})",
        "kernels": kernels.chosen(device.type), "torch": torch.__version__, "date": date.today().isoformat(),
        "rows": rows,
    }  # fmt: skip


def table(result: dict) -> str:
    """The rows as a Markdown table."""
    lines = ["| step | ms | / float | / LSQ | saved for backward |", "|---|---|---|---|---|"]
    for name, row in result["rows"].items():
        ratios = [_shown(row.get(key)) for key in ("over_float", "over_lsq")]
        saved = f"{row['saved_bytes'] / 1e6:.0f} MB" if "saved_bytes" in row else ""
        lines.append(f"| {name} | {1e3 * row['median_s']:.1f} | {ratios[0]} | {ratios[1]} | {saved} |")
    return "\n".join(lines)


def _shown(interval: tuple[float, float, float] | None) -> str:
    return "" if interval is None else "{:.3g} ({:.3g} to {:.3g})".format(*interval)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", default="resnet20", choices=("resnet20", "resnet32", "resnet56", "resnet18"))
    parser.add_argument("--bits", default="2,3,4,8", help="comma-separated")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    typed = parser.parse_args()
    bits = [int(width) for width in typed.bits.split(",")]
    result = report(typed.net, bits, typed.batch_size, typed.rounds, torch.device(typed.device))
    shown = ("net", "batch_size", "rounds", "threads", "device", "kernels", "torch", "date")
    print(", ".join(f"{key} {result[key]}" for key in shown))
    print(table(result))
    if typed.json:
        typed.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
