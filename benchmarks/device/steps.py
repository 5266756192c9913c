"""Whole training steps in every form, and the op's two passes against the rate at which memory is copied."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from benchmarks.device.budget import Budget
from benchmarks.device.card import copy_rate, seconds, wait
from benchmarks.textbook import LoopRegularization, TextbookLSQ
from brsweep import kernels
from brsweep.kernels import ALL_VALUES, NO_SUMS, fake_quantize
from brsweep.models import resnet
from brsweep.quant import LSQQuantizer, calibrate, quantize_model
from brsweep.regularizers import BinRegularization
from brsweep.stages.device import set_threads, settle
from brsweep.training.graphs import EAGER_STEPS, Recorded
from brsweep.training.optim import build_optimizer
from brsweep.training.step import Learner, Totals, train_step

OPTIONS = {
    "lr": 1e-4, "weight_decay": 1e-4, "alpha_lr": 1e-4, "alpha_weight_decay": 0.0, "norm_weight_decay": 0.0,
    "momentum": 0.9,
}  # fmt: skip
EAGER, COMPILED, TEXTBOOK = "eager", "compiled", "textbook"
GRAPH, COMPILED_GRAPH = "graph", "compiled, graph"
RECORDED = {GRAPH: EAGER, COMPILED_GRAPH: COMPILED}
"""Forms whose passes are a CUDA graph, of which form."""
ROUNDS = 3
"""At least; as many as the time allows."""
TURN_S = 0.05
"""Of a form in a round: so many steps, one after the other, before the device is waited for, as in training."""
OP_VALUES, OP_VALUES_DRY = 2**26, 2**14


class Case(NamedTuple):
    """A network at a batch size and a precision, and the forms in which it is timed."""

    net: str
    batch: int
    precision: str
    forms: tuple[str, ...]
    bits: tuple[int, ...]
    size: int = 32


CASES = (
    Case("resnet20", 128, "float32", (EAGER, GRAPH), (2, 4, 8)),
    Case("resnet20", 128, "float32", (TEXTBOOK,), (2, 4)),
    Case("resnet20", 128, "bf16", (EAGER, GRAPH), (2, 8)),
    Case("resnet18", 128, "float32", (EAGER, GRAPH), (2, 4, 8)),
    Case("resnet20", 128, "float32", (COMPILED, COMPILED_GRAPH), (2,)),
    Case("resnet20", 512, "bf16", (GRAPH,), (2, 8)),
    Case("resnet18", 128, "bf16", (GRAPH,), (2, 8)),
    Case("resnet20", 512, "float32", (GRAPH,), (2, 8)),
    Case("resnet18", 128, "float32", (COMPILED, COMPILED_GRAPH), (2,)),
)
CASES_DRY = (
    Case("resnet20", 2, "float32", (EAGER, TEXTBOOK), (2,), 8),
    Case("resnet20", 2, "bf16", (EAGER,), (2,), 8),
)


def steps(budget: Budget) -> dict[str, Any]:
    """Case by case, as long as the time lasts; `no_time_for` names those that it did not."""
    device = torch.device(budget.device)
    settle(device, deterministic=True)
    set_threads(1 if budget.dry else 0, math.inf, device)
    kernels.use("auto")
    found: dict[str, Any] = {"kernels": kernels.chosen(device.type), "op": op(budget, device), "cases": []}
    cases = CASES_DRY if budget.dry else CASES
    left_out = []
    for i, case in enumerate(cases):
        if not budget.left:
            left_out.append(_name(case))
            continue
        try:
            share = 0.0 if budget.dry else budget.left / min(3, len(cases) - i)
            rows = timed(case, device, time.monotonic() + share)
        except Exception as error:  # a compiler that fails is a result
            rows = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        found["cases"].append({"case": _name(case), "rows": rows})
        torch.compiler.reset()
    return found | {"no_time_for": left_out}


def op(budget: Budget, device: torch.device) -> dict[str, dict[str, float]]:
    """Bytes per second of the two passes over one tensor, with what a pass has to read and write: 8 bytes a value
    forward, 12 backward; and over the rate of a copy."""
    count, rate = OP_VALUES_DRY if budget.dry else OP_VALUES, copy_rate(device)
    values = torch.randn(count, device=device).relu_().requires_grad_()
    grad = torch.randn(count, device=device)
    found = {}
    for bits in (2, 4, 8):
        for sums in (NO_SUMS, ALL_VALUES):
            alpha = torch.tensor(3 / 2**bits, device=device, requires_grad=True)

            def forward(bits: int = bits, sums: str = sums, alpha: torch.Tensor = alpha):
                return fake_quantize(values, alpha, 0, 2**bits - 1, grad_scale=1.0, sums=sums)

            quantized, bin_sums = forward()
            given = [quantized] if bin_sums is None else [quantized, bin_sums]
            grads = [grad] if bin_sums is None else [grad, torch.ones_like(bin_sums)]

            def backward(given=given, grads=grads, alpha: torch.Tensor = alpha):
                return torch.autograd.grad(given, (values, alpha), grads, retain_graph=True)

            passes = {"forward": (forward, 8), "backward": (backward, 12)}
            row = {name: each * count / seconds(call, device, 5) for name, (call, each) in passes.items()}
            row |= {f"{name}_over_copy": row[name] / rate for name in passes}
            found[f"{bits} bits{'' if sums == NO_SUMS else ' with sums'}"] = row
    return found


def learners(case: Case, device: torch.device, images: torch.Tensor) -> Iterator[tuple[str, str, Learner]]:
    """Name, form, learner: float, LSQ and BR(W+A) in each of the forms."""

    def placed() -> torch.nn.Module:
        torch.manual_seed(0)
        return getattr(resnet, case.net)(10).to(device, memory_format=torch.channels_last).train()

    def learner(model: torch.nn.Module, form: str, **parts: Any) -> Learner:
        compiled = RECORDED.get(form, form) == COMPILED
        optimizer = build_optimizer(torch.optim.SGD, model, OPTIONS)
        return Learner(model, optimizer, precision=case.precision, compile=compiled, **parts)

    def quantized(bits: int, form: str, regularized: bool) -> Learner:
        model, done = quantize_model(placed(), bits, bits, quantizer=TextbookLSQ if form == TEXTBOOK else LSQQuantizer)
        calibrate(model, [images])
        regularizer = None
        if regularized:
            regularizer = LoopRegularization(model, ("weight", "act")) if form == TEXTBOOK else BinRegularization()
        return learner(model, form, sites=done.sites, regularizer=regularizer)

    for form in case.forms:
        if form != TEXTBOOK:
            yield f"float {form}", form, learner(placed(), form)
        for bits in case.bits:
            if COMPILED not in form:
                yield f"LSQ {bits} bits {form}", form, quantized(bits, form, regularized=False)
            yield f"LSQ+BR(W+A) {bits} bits {form}", form, quantized(bits, form, regularized=True)


def timed(case: Case, device: torch.device, deadline: float) -> dict[str, dict[str, Any]]:
    """Name -> seconds of the first step, and of a median one; all forms in each round, until `deadline`. eager: why a
    form that should be a graph is none."""
    images = torch.randn(case.batch, 3, case.size, case.size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (case.batch,), device=device)
    found: dict[str, dict[str, Any]] = {}
    calls: dict[str, Callable[[int], None]] = {}
    each: dict[str, int] = {}
    for name, form, learner in learners(case, device, images):
        said: list[str] = []
        passes = Recorded(learner, said.append) if form in RECORDED else None
        totals = Totals(device)

        def call(
            count: int, learner: Learner = learner, passes: Recorded | None = passes, totals: Totals = totals
        ) -> None:
            for _ in range(count):
                train_step(learner, images, labels, {"weight": 1.0, "act": 1.0}, totals, 0, passes)
            wait(device)

        began = time.perf_counter()
        call(1)
        found[name], calls[name] = {"first_s": time.perf_counter() - began}, call
        call(EAGER_STEPS + 1 if passes else 1)
        began = time.perf_counter()
        call(1)
        each[name] = max(1, int(TURN_S / (time.perf_counter() - began)))
        found[name] |= {"eager": said[0]} if said else {}
    times: dict[str, list[float]] = {name: [] for name in calls}
    names, draw = list(calls), random.Random(0)
    while len(times[names[0]]) < ROUNDS or time.monotonic() < deadline:
        for name in draw.sample(names, len(names)):
            began = time.perf_counter()
            calls[name](each[name])
            times[name].append((time.perf_counter() - began) / each[name])
    for name in names:
        found[name] |= {"median_s": statistics.median(times[name]), "rounds": len(times[name])}
    return found


def _name(case: Case) -> str:
    return f"{case.net}, batch {case.batch}, {case.precision}: {', '.join(case.forms)}"


def lines(found: dict[str, Any]) -> list[str]:
    told = [f"kernels {found['kernels']}", "", "| the op | forward | of a copy | backward | of a copy |"]
    told += ["|---|---|---|---|---|"]
    for name, row in found["op"].items():
        cells = [f"{row[way] / 1e9:.0f} GB/s | {row[f'{way}_over_copy']:.2f}" for way in ("forward", "backward")]
        told.append(f"| {name} | {' | '.join(cells)} |")
    eager = {}  # the float step of the same network, batch and precision, for a case that has none of its own
    for case in found["cases"]:
        told += ["", case["case"], ""]
        rows = case["rows"]
        eager.setdefault(case["case"].partition(":")[0], rows.get(f"float {EAGER}"))
        if "error" in rows:
            told.append(f"FAILED: {rows['error']}")
            continue
        told += ["| step | ms | / float of its form | first step |", "|---|---|---|---|"]
        for name, row in rows.items():
            form = name.split(" bits ")[-1].removeprefix("float ")
            base = rows.get(f"float {form}") or eager.get(case["case"].partition(":")[0])
            over = f"{row['median_s'] / base['median_s']:.2f}" if base else ""
            told.append(f"| {name} | {row['median_s'] * 1e3:.2f} | {over} | {row['first_s']:.1f} s |")
        told += [f"{name}: {row['eager']}" for name, row in rows.items() if "eager" in row]
    return [*told, *(["", f"no time left for: {'; '.join(found['no_time_for'])}"] if found["no_time_for"] else [])]
