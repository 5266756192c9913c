"""Time whole training steps against the float step: `python -m benchmarks.step --net resnet20 --bits 2,8 --rounds 15`.

Every variant takes a step in every round, in an order drawn anew, all in one process; what counts is the ratio of two
medians over the rounds. Its interval is the 95 % bootstrap over rounds. A single time says little on a shared machine.

    float                      the network before quantization
    LSQ, LSQ+BR(W), LSQ+BR(W+A)    brsweep as it trains: kernels=auto
    reference ...              the same with kernels=reference
    compiled ...               by torch.compile (`--compile`), the quantizer opaque to it
    textbook ...               as usually written: eager operators, a loop over the bins with masks (`textbook.py`)
    Brevitas, torchao LSQ      their quantizers in the same network, where installed (`rivals.py`)

The process is set as the default run sets its own: deterministic, freed memory kept, threads by the work of a step.
Images are random: a step's time does not depend on them. Memory is what autograd keeps for the backward. `--own` leaves
all but float and brsweep's own steps out, so that many rounds take minutes. `--markdown` writes the tables between the
marks that a page has for this network, `--figure` draws the ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import machine, rivals, show
from benchmarks.precision import penalty_error
from benchmarks.textbook import LoopRegularization, TextbookLSQ
from benchmarks.timing import measure, ratio, seconds_of
from brsweep import kernels
from brsweep.data.tables import ImageTable
from brsweep.models import resnet
from brsweep.quant import LSQQuantizer, calibrate, quantize_model
from brsweep.regularizers import BinRegularization
from brsweep.stages.device import layer_work, set_threads, settle
from brsweep.training.optim import build_optimizer
from brsweep.training.step import Learner, Totals, train_step

FLOAT, AUGMENTATION = "float", "augmentation"
CHOICES = (("", "auto"), ("reference ", "reference"))
KINDS = {"": (), "+BR(W)": ("weight",), "+BR(W+A)": ("weight", "act")}
OPTIONS = {"lr": 1e-4, "weight_decay": 1e-4, "alpha_lr": 1e-4, "alpha_weight_decay": 0.0, "norm_weight_decay": 0.0}


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


def variants(
    net: str, bits: list[int], batch_size: int, device: torch.device, compiled: bool = False, own: bool = False
) -> dict[str, Variant]:
    """Name -> variant; those that quantize carry their bits in the name. compiled: float and LSQ+BR(W+A) that way too.

    own: float and brsweep's own steps alone.
    """
    images = torch.randn(batch_size, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    batch = images, torch.randint(10, (batch_size,), device=device)

    def learner(model: torch.nn.Module, **parts) -> Learner:
        return Learner(model, build_optimizer(torch.optim.SGD, model, OPTIONS | {"momentum": 0.9}), **parts)

    def placed() -> torch.nn.Module:
        torch.manual_seed(0)
        return getattr(resnet, net)(10).to(device, memory_format=torch.channels_last).train()

    def quantized(width: int, quantizer: type, regularizer: Callable, **parts) -> Learner:
        model, done = quantize_model(placed(), width, width, quantizer=quantizer)
        calibrate(model, [images])
        return learner(model, sites=done.sites, regularizer=regularizer(model), **parts)

    found = {FLOAT: Variant(learner(placed()), "auto", batch)}
    if compiled:
        found[f"compiled {FLOAT}"] = Variant(learner(placed(), compile=True), "auto", batch)
    for width in bits:
        for suffix, kinds in KINDS.items():
            name = f"LSQ{suffix} {width} bits"
            ours = BinRegularization(float("weight" in kinds), float("act" in kinds)) if kinds else None
            for prefix, choice in CHOICES[: 1 if own else 2]:
                part = quantized(width, LSQQuantizer, lambda _, ours=ours: ours)
                found[prefix + name] = Variant(part, choice, batch)
            if own:
                continue
            loop = quantized(
                width, TextbookLSQ, lambda model, kinds=kinds: LoopRegularization(model, kinds) if kinds else None
            )
            found[f"textbook {name}"] = Variant(loop, "auto", batch)
        for rival in () if own else rivals.installed():
            part = quantized(width, rivals.RIVALS[rival], lambda _: None)
            found[f"{rival} LSQ {width} bits"] = Variant(part, "auto", batch)
        if compiled:
            part = quantized(width, LSQQuantizer, lambda _: BinRegularization(), compile=True)
            found[f"compiled LSQ+BR(W+A) {width} bits"] = Variant(part, "auto", batch)
    return found


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


def as_a_run(device: torch.device, net: str, batch_size: int) -> None:
    """Set this process as the default run sets its own: deterministic, and threads by the work of a step."""
    settle(device, deterministic=True)
    set_threads(0, layer_work(getattr(resnet, net)(10), (3, 32, 32), batch_size), device)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def report(
    net: str, bits: list[int], batch_size: int, rounds: int, device: torch.device, compiled: bool, own: bool
) -> dict:
    """Everything that the table shows, as plain data."""
    found = variants(net, bits, batch_size, device, compiled, own)
    first_s = {name: seconds_of(found[name].step) for name in found if name.startswith("compiled")}
    steps = {name: variant.step for name, variant in found.items()} | {AUGMENTATION: augmentation(batch_size, device)}
    seconds = measure(steps, rounds)
    kernels.use("auto")
    rows = {}
    for name, times in seconds.items():
        rows[name] = {"median_s": statistics.median(times), "over_float": ratio(times, seconds[FLOAT])}
        rows[name]["images_per_s"] = batch_size / rows[name]["median_s"]
        if name.endswith("bits"):
            width = name.split()[-2]
            rows[name]["over_lsq"] = ratio(times, seconds[f"LSQ {width} bits"])
            rows[name]["over_fewest_bits"] = ratio(times, seconds[name.replace(f"{width} bits", f"{bits[0]} bits")])
        if name in first_s:
            rows[name]["compile_s"] = first_s[name]
        elif name in found:
            rows[name]["saved_bytes"] = found[name].saved_bytes()
    return {
        "net": net, "bits": bits, "batch_size": batch_size, "rounds": rounds, "threads": torch.get_num_threads(),
        "kernels": kernels.chosen(device.type), **machine.describe(device), "rows": rows,
        "penalty_error": max(penalty_error(width, device) for width in bits),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", default="resnet20", choices=("resnet20", "resnet32", "resnet56", "resnet18"))
    parser.add_argument("--bits", default="2,3,4,8", help="comma-separated")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="also by torch.compile: minutes")
    parser.add_argument("--own", action="store_true", help="float and brsweep's own steps alone")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--figure", type=Path, help="draw the ratios to the float step to this PNG")
    parser.add_argument("--markdown", type=Path, help="write the tables into this page, between its marks")
    parser.add_argument("--from-json", type=Path, help="show what an earlier run wrote, and time nothing")
    typed = parser.parse_args()
    if typed.from_json:
        result = json.loads(typed.from_json.read_text())
    else:
        bits = sorted(int(width) for width in typed.bits.split(","))
        device = torch.device(typed.device)
        as_a_run(device, typed.net, typed.batch_size)
        result = report(typed.net, bits, typed.batch_size, typed.rounds, device, typed.compile, typed.own)
    page = show.page(result)
    print(page)
    if typed.json:
        typed.json.write_text(json.dumps(result, indent=1) + "\n")
    if typed.markdown:
        show.fill(typed.markdown, f"benchmarks.step {result['net']}" + " own" * typed.own, page)
    if typed.figure:
        show.figure(result, typed.figure)


if __name__ == "__main__":
    main()
