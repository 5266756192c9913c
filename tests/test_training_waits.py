"""No wait for the device and no move between devices while an epoch's steps go on.

Meta tensors play the device: they have no values, so that whatever would read one back raises, and torch takes the
paths that it takes for a GPU. Moves show in the operators, by a dispatch mode.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from test_kernels_steps import OPTIONS, batches, learner
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from brsweep import kernels
from brsweep.data.synthetic import Synthetic
from brsweep.data.tables import Tables, build_tables
from brsweep.quant import calibrate
from brsweep.training import loop
from brsweep.training.evaluate import evaluate
from brsweep.training.loop import Span
from brsweep.training.measure import CodeChanges, Probe
from brsweep.training.optim import build_optimizer, set_lr
from brsweep.training.step import EpochTotals, Learner, Totals
from brsweep.training.transitions import TransitionRate

META = torch.device("meta")
READS = {"_local_scalar_dense", "nonzero", "item", "equal", "is_nonzero", "masked_select", "unique", "_unique2"}
"""Operators whose result, or its shape, hangs on values."""
BATCH = 16


class Watch(TorchDispatchMode):
    """Collects the operators that move between devices or read values back, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, torch.Tensor)]
        self.count += 1
        if len({t.device for t in tensors}) > 1 or (name in READS and any(t.device == META for t in tensors)):
            self.seen.append(name)
        return result


class Bar:
    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def advance(self) -> None:
        self.watch.seen.append("step")


class OnMeta(NamedTuple):
    learner: Learner
    tables: Tables
    probe: Probe


def on_meta(
    images: int, optimizer: type[torch.optim.Optimizer] = torch.optim.SGD, bits: int = 2, follows: bool = False
) -> OnMeta:
    """A calibrated network in its last stage, data and probe. follows: its weights move by their transition rate."""
    kernels.use("reference")
    parts = learner(bits=bits)
    model = parts.model.to(META)
    options = OPTIONS | ({"momentum": 0.9} if optimizer is torch.optim.SGD else {})
    source = Synthetic(classes=4, train_images=images, test_images=8, image_size=16, channels=3, noise=40.0, seed=0)
    places = {"device": META, "channels_last": True}
    tables = build_tables(source, val_fraction=0.0, split_seed=0, crop_padding=1, flip=True, **places)
    built = build_optimizer(optimizer, model, options)
    trained = Learner(model, built, parts.sites, parts.regularizer, "float32", 1.0)
    if follows:
        trained = replace(trained, transitions=TransitionRate(model, parts.sites, built, 0.005, 0.99, 1.0))
    return OnMeta(trained, tables, Probe(model, parts.sites, next(iter(tables.train.plain(8)))[0]))


def epoch(made: OnMeta, monkeypatch) -> list[str]:
    """What the watch saw of an epoch, with a "step" after each."""
    watch = Watch()
    monkeypatch.setattr(Totals, "read", lambda self: EpochTotals(0.0, 0.0, 0.0, 0.0, 0.0, -1))  # the place that waits

    @contextmanager
    def bar(*_):
        yield Bar(watch)

    with watch:
        changes = CodeChanges(made.probe, made.tables.train.steps(BATCH))
        loop._train_epoch(made.learner, made.tables, Span("br", 0, 1, 1), 0, 7, BATCH, bar, changes)
    assert watch.count > 1000
    return watch.seen


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize(("bits", "follows"), [(2, False), (8, False), (2, True)])
def test_an_epoch_moves_its_order_once_and_never_waits(optimizer, bits, follows, monkeypatch):
    """Order, crops and flips go to the device before the first step, whatever the number of steps."""
    steps = 5
    seen = epoch(on_meta(steps * BATCH, optimizer, bits, follows), monkeypatch)
    first = seen.index("step")
    assert seen[first:] == ["step"] * steps
    assert set(seen[:first]) == {"_to_copy"} and first <= 4


@pytest.mark.parametrize("place", ["the step", "the order of a batch"])
def test_the_watch_sees_a_wait_and_a_move(place, monkeypatch):
    made = on_meta(3 * BATCH)
    if place == "the step":
        monkeypatch.setattr(loop, "set_lr", lambda *given: set_lr(*given) or torch.ones(2, device=META).to("cpu"))
        with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
            epoch(made, monkeypatch)
    else:
        monkeypatch.setattr(loop, "set_lr", lambda *given: set_lr(*given) or torch.ones(2).to(META))
        seen = epoch(made, monkeypatch)
        assert seen[seen.index("step") :] == ["step", "_to_copy", "step", "_to_copy", "step"]


class Reads(TorchDispatchMode):
    """How often a value is read back, on any device."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket.__name__ in READS
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("what", ["evaluation", "calibration"])
def test_reads_do_not_grow_with_the_batches(what):
    kernels.use("reference")
    counts = []
    for number in (1, 4):
        trained, found = learner(), list(batches(number))
        if what == "calibration":
            for site in trained.sites:
                if site.kind == "act":
                    site.quantizer.alpha.data.fill_(torch.nan)
                    site.quantizer._has_alpha = False
        with Reads() as reads:
            if what == "evaluation":
                evaluate(trained, found, 10)
            else:
                calibrate(trained.model, [images for images, _ in found])
        counts.append(reads.count)
    assert counts[0] == counts[1] > 0
