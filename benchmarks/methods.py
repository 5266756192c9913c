"""What each method costs in a step, over LSQ: `python -m benchmarks.methods --rounds 15`.

Each is the quantized stage that its words on the command line make of ResNet-20 at W2A2, batch 128 of 3x32x32, float32,
parts and settings from conf/. All take a step in every round, in an order drawn anew; what counts is the ratio of two
medians (`benchmarks.timing`). A method that only changes how long or from where one trains, such as a ladder of bits,
has LSQ's step.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from hydra import compose, initialize_config_dir

from benchmarks import machine
from benchmarks.step import as_a_run
from benchmarks.timing import measure, ratio
from brsweep import kernels, targets
from brsweep.config.compose import CONF_DIR, VERSION_BASE, checked, register
from brsweep.quant import calibrate
from brsweep.stages.setup import Networks
from brsweep.training.freezing import WeightFreezing
from brsweep.training.optim import build_optimizer
from brsweep.training.step import Learner, Totals, train_step
from brsweep.training.transitions import TransitionRate, hold_step_sizes

LSQ = "LSQ"
METHODS: dict[str, Sequence[str]] = {
    LSQ: ("regularizer=none",),
    "BR on weights": ("regularizer=br", "reg.lambda_act=0"),
    "BR on both": ("regularizer=br",),
    "BR on both, plain": ("regularizer=br_paper",),
    "dampening": ("regularizer=dampening",),
    "KURE": ("regularizer=kure",),
    "oscillation-aware": ("regularizer=oscillation_aware",),
    "LSQ+": ("regularizer=none", "quant/quantizer=lsq_plus"),
    "EWGS": ("regularizer=none", "quant/quantizer=ewgs"),
    "PACT, DoReFa": ("regularizer=none", "quant/quantizer=pact"),
    "iterative freezing": ("regularizer=none", "freeze_weights.threshold=0.1"),
    "transition rate": ("regularizer=none", "transition_rate.factor=0.005"),
    "distillation": ("regularizer=none", "distill.weight=0.5"),
}
BATCH, SHAPE, CLASSES = 128, (3, 32, 32), 10
PAST_THE_START = 0.5
"""Of the stage: iterative freezing does nothing in its first quarter."""


def configured(words: Sequence[str]) -> Mapping[str, Any]:
    register()
    with initialize_config_dir(str(CONF_DIR), **VERSION_BASE):
        return checked(compose("config", overrides=[*words, "quant=w2a2", "logger=none", "device=cpu"]))


def stepper(words: Sequence[str], images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    """One training step of that method."""
    config = configured(words)
    networks = Networks(config, CLASSES, SHAPE[0], SHAPE[1:], images.device)
    model, conversion = networks.quantized_model()
    calibrate(model.train(), [images])
    follows = config["transition_rate"]["factor"] > 0
    if follows:
        hold_step_sizes(conversion.sites)
    node = {key: value for key, value in config["qat_optimizer"].items() if key != targets.TARGET}
    optimizer = build_optimizer(targets.locate("qat_optimizer", config["qat_optimizer"][targets.TARGET]), model, node)
    regularized = config["reg"]["lambda_weight"] or config["reg"]["lambda_act"]
    taught, freezes = config["distill"]["weight"] > 0, config["freeze_weights"]["threshold"] > 0
    freezing = WeightFreezing(model, conversion.sites, **config["freeze_weights"]) if freezes else None
    transitions = (
        TransitionRate(model, conversion.sites, optimizer, **config["transition_rate"]) if follows else None
    )
    learner = Learner(
        model, optimizer, conversion.sites,
        regularizer=targets.build("reg", config["reg"]) if regularized else None,
        teacher=networks.float_model().eval().requires_grad_(False) if taught else None,
        distill_weight=config["distill"]["weight"], temperature=config["distill"]["temperature"],
        gradient_clip=config["gradient_clip"], freezing=freezing, transitions=transitions,
    )  # fmt: skip
    totals = Totals(images.device)

    def step() -> None:
        lambdas = learner.regularizer.lambdas(PAST_THE_START) if learner.regularizer else {}
        train_step(learner, images, labels, lambdas, totals, 0)
        if freezing is not None:
            freezing.after_step(PAST_THE_START)

    return step


def table(rounds: int, methods: Mapping[str, Sequence[str]] = METHODS, batch: int = BATCH) -> list[str]:
    device = torch.device("cpu")
    as_a_run(device, "resnet20", batch)
    kernels.use("auto")
    images = torch.randn(batch, *SHAPE).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (batch,))
    seconds = measure({name: stepper(words, images, labels) for name, words in methods.items()}, rounds)
    about = machine.describe(device)
    lines = [f"{rounds} rounds; {about['device']}; {about['versions']}; {about['date']}.", ""]
    lines += ["| | as typed | ms | over LSQ |", "|---|---|---|---|"]
    for name, times in seconds.items():
        typed = " ".join(f"`{word}`" for word in methods[name])
        over = "{:.2f} ({:.2f} to {:.2f})".format(*ratio(times, seconds[LSQ]))
        lines.append(f"| {name} | {typed} | {statistics.median(times) * 1e3:.0f} | {over} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    print("\n".join(table(parser.parse_args().rounds)))


if __name__ == "__main__":
    main()
