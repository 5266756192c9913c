"""Recorded steps: the bits of eager ones, on the device; everything around the recording, with operators as the graph.

Without a CUDA device a tape of torch's operators stands in: noted while the passes run, they run again on the same
tensors, without what Python did in between, as a CUDA graph's do.
"""

from __future__ import annotations

import copy
import weakref
from typing import NamedTuple

import pytest
import torch
from test_kernels_steps import OPTIONS, batches, learner
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from brsweep import kernels
from brsweep.errors import BrsweepError
from brsweep.regularizers import BinRegularization
from brsweep.training import graphs
from brsweep.training.graphs import EAGER_STEPS, Recorded
from brsweep.training.optim import build_optimizer
from brsweep.training.step import Learner, Totals, gradients, train_step

STEPS_AN_EPOCH = 6


@pytest.fixture(autouse=True)
def settings():
    torch.set_num_threads(1)
    kernels.use("reference")
    torch.use_deterministic_algorithms(True)


class Tape(TorchDispatchMode):
    """Every operator that runs inside, forward and backward, with the tensors that it read and wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[tuple] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.ran.append((function, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        for function, args, kwargs, written in self.ran:
            for target, value in zip(tree_leaves(written), tree_leaves(function(*args, **kwargs)), strict=True):
                if isinstance(target, torch.Tensor) and target.data_ptr() != value.data_ptr():
                    target.copy_(value)


@pytest.fixture
def stand_in(monkeypatch):
    """The operators of a pass as the graph, and a CPU's generator in place of a device's."""

    def captured(run):
        state, drawn = copy.deepcopy(stand_in.model.state_dict()), torch.get_rng_state()
        with Tape() as tape:
            passes = run()
        stand_in.model.load_state_dict(state)
        torch.set_rng_state(drawn)
        stand_in.recordings += 1
        return tape.replay, passes

    class stand_in:
        model: nn.Module
        recordings = 0
        waits: tuple[str, ...] = ()

    class Watch:
        def __enter__(self):
            return list(stand_in.waits)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(graphs, "captured", captured)
    monkeypatch.setattr(graphs, "watch_waits", Watch)
    monkeypatch.setattr(torch.cuda, "get_rng_state", torch.get_rng_state)
    monkeypatch.setattr(torch.cuda, "set_rng_state", torch.set_rng_state)
    return stand_in


class Trained(NamedTuple):
    state: dict[str, torch.Tensor]
    totals: tuple
    said: list[str]


def train(made: Learner, recorded: bool, steps: int, device: str = "cpu") -> Trained:
    """Epochs of STEPS_AN_EPOCH with lambdas and learning rates that change at each step."""
    made.model.to(device)
    said: list[str] = []
    passes = Recorded(made, said.append) if recorded else None
    totals = Totals(torch.device(device))
    torch.manual_seed(3)
    for step, (images, labels) in enumerate(batches(steps)):
        if passes is not None and step % STEPS_AN_EPOCH == 0:
            passes.begin_epoch()
        for group in made.optimizer.param_groups:
            group["lr"] = group["initial_lr"] / (1 + step)
        lambdas = {"weight": 0.1 * step, "act": 0.3 * step}
        train_step(made, images.to(device), labels.to(device), lambdas, totals, step, passes)
    return Trained({k: v.cpu() for k, v in made.model.state_dict().items()}, tuple(totals.read()), said)


def same(one: Trained, other: Trained) -> bool:
    equal = all(torch.equal(one.state[name], value) for name, value in other.state.items())
    return equal and one.totals == other.totals


class Dropped(nn.Module):
    """A network with dropout: numbers of the device's generator."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(8, 10)

    def forward(self, images):
        return self.head(self.body(images).mean((2, 3)))


def dropping() -> Learner:
    torch.manual_seed(0)
    model = Dropped().train()
    return Learner(model, build_optimizer(torch.optim.SGD, model, OPTIONS | {"momentum": 0.9}))


def taught() -> Learner:
    torch.manual_seed(1)
    teacher = Dropped().eval().requires_grad_(False)
    return learner(teacher=teacher, distill_weight=0.5, temperature=2.0)


MADE = {
    "br": lambda: learner(gradient_clip=1.0),
    "br, 8 bits, to alpha": lambda: learner(bits=8, reg={"backprop_to_alpha": True}),
    "dropout": dropping,
    "a teacher": taught,
}


@pytest.mark.parametrize("name", MADE)
def test_recorded_steps_have_the_bits_of_eager_ones(name, stand_in):
    eager = train(MADE[name](), recorded=False, steps=15)
    made = MADE[name]()
    stand_in.model = made.model
    recorded = train(made, recorded=True, steps=15)
    assert stand_in.recordings == 1 and recorded.said == [] and same(eager, recorded)


@pytest.mark.cuda
@pytest.mark.system
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("name", MADE)
def test_on_the_device_recorded_steps_have_the_bits_of_eager_ones(name, precision, monkeypatch):
    kernels.use("auto")
    recordings, record = [], graphs.captured
    monkeypatch.setattr(graphs, "captured", lambda run: recordings.append(1) or record(run))
    trained = []
    for recorded in (False, True):
        made = MADE[name]()
        object.__setattr__(made, "precision", precision)
        if made.teacher is not None:
            made.teacher.cuda()
        trained.append(train(made, recorded, steps=15, device="cuda"))
    assert trained[1].said == [] and len(recordings) == 1 and same(*trained)


@pytest.mark.cuda
@pytest.mark.system
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_on_the_device_a_step_that_waits_stays_eager():
    kernels.use("auto")
    trained = train(learner(reg_class=Waiting), recorded=True, steps=8, device="cuda")
    assert len(trained.said) == 1 and trained.said[0].startswith("no CUDA graph: a step waits for the device")
    assert same(trained, train(learner(reg_class=Waiting), recorded=False, steps=8, device="cuda"))


class Waiting(BinRegularization):
    """Reads a value back."""

    def penalties(self, collected):
        totals = super().penalties(collected)
        return {kind: total * (1.0 if float(total.detach()) >= 0 else 2.0) for kind, total in totals.items()}


class Counting(BinRegularization):
    """Its penalty goes by how often it was called, from `after` calls on."""

    after, calls = 0, 0

    def penalties(self, collected):
        self.calls += 1
        return {kind: total * max(1, self.calls - self.after) for kind, total in super().penalties(collected).items()}


def counting(after: int) -> Learner:
    made = learner(reg_class=Counting)
    made.regularizer.after = after
    return made


def test_a_part_that_counts_its_calls_stays_eager(stand_in):
    made = counting(0)
    stand_in.model = made.model
    trained = train(made, recorded=True, steps=8)
    assert len(trained.said) == 1 and trained.said[0].startswith("no CUDA graph: gradients are not a recorded step's;")


def test_a_part_that_begins_to_count_later_stops_the_stage(stand_in):
    """Not at once, since nothing is compared within an epoch, but before another one has passed."""
    made = counting(EAGER_STEPS + 2)
    stand_in.model = made.model
    with pytest.raises(BrsweepError, match=r"^cuda_graphs: gradients are not the recorded step's.*cuda_graphs=false"):
        train(made, recorded=True, steps=13)


def test_a_buffer_that_goes_its_own_way_is_seen(stand_in):
    made = dropping()
    made.model.register_buffer("seen", torch.zeros(()))
    calls = []

    def hook(model, *_):
        calls.append(1)
        model.seen.add_(len(calls))

    made.model.register_forward_hook(hook)
    stand_in.model = made.model
    trained = train(made, recorded=True, steps=8)
    assert len(trained.said) == 1 and "no CUDA graph: buffers are not a recorded step's" in trained.said[0]


class TwoHeads(Dropped):
    """Its second head from the call after the recording on."""

    def __init__(self) -> None:
        super().__init__()
        self.other, self.calls = nn.Linear(8, 10), 0

    def forward(self, images):
        self.calls += 1
        head = self.head if self.calls <= EAGER_STEPS + 1 else self.other
        return head(self.body(images).mean((2, 3)))


def test_other_parameters_with_gradients_are_seen(stand_in):
    torch.manual_seed(0)
    model = stand_in.model = TwoHeads().train()
    made = Learner(model, build_optimizer(torch.optim.SGD, model, OPTIONS | {"momentum": 0.9}))
    trained = train(made, recorded=True, steps=8)
    assert len(trained.said) == 1
    assert trained.said[0].startswith("no CUDA graph: other parameters have gradients than in a recorded step's")


def test_what_waits_is_not_recorded(stand_in):
    stand_in.waits = ("called a synchronizing CUDA operation",)
    made = learner()
    stand_in.model = made.model
    trained = train(made, recorded=True, steps=8)
    assert stand_in.recordings == 0 and same(trained, train(learner(), recorded=False, steps=8))
    assert trained.said == [
        "no CUDA graph: a step waits for the device; its steps are launched one operator at a time (cuda_graphs=false "
        "says so)"
    ]


def test_what_cannot_be_recorded_trains_eagerly(stand_in, monkeypatch):
    def fails(_):
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr(graphs, "captured", fails)
    trained = train(learner(), recorded=True, steps=8)
    assert same(trained, train(learner(), recorded=False, steps=8))
    assert len(trained.said) == 1
    assert trained.said[0].startswith("no CUDA graph: operation not permitted when stream is capturing; its steps")


def test_too_little_memory_for_both_passes_leaves_the_eager_one(stand_in, monkeypatch):
    """The recording takes a step's memory beside the eager pass's; what the pass that failed has changed is undone."""
    made = dropping()
    stand_in.model = made.model
    calls, held = [], []

    class Seen(graphs.Recording):
        def __init__(self, *given):
            super().__init__(*given)
            held.append(weakref.ref(self))

    monkeypatch.setattr(graphs, "Recording", Seen)

    def gradients_once_short(*given):
        calls.append(1)
        if len(calls) == EAGER_STEPS + 3:
            assert held[0]() is None and all(p.grad is None for p in made.model.parameters())  # all of it is free again
        passes = gradients(*given)
        if len(calls) == EAGER_STEPS + 2:  # the recording is the call before
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return passes

    monkeypatch.setattr(graphs, "gradients", gradients_once_short)
    trained = train(made, recorded=True, steps=8)
    assert stand_in.recordings == 1 and same(trained, train(dropping(), recorded=False, steps=8))
    assert len(trained.said) == 1 and trained.said[0].startswith("no CUDA graph: CUDA out of memory. Tried")


def test_images_of_another_shape_go_through_eagerly(stand_in):
    made = learner()
    stand_in.model = made.model
    passes = Recorded(made, pytest.fail)
    given = [*batches(EAGER_STEPS + 3)]
    for images, labels in given[:-1]:
        passes(made, images, labels, {"weight": 1.0, "act": 1.0})
    images, labels = given[-1][0][:5], given[-1][1][:5]
    got = passes(made, images, labels, {"weight": 1.0, "act": 1.0})
    assert got.logits.shape == (5, 10) and passes.recording is not None
    assert not torch.equal(got.loss, passes.recording.passes.loss)


def test_without_deterministic_mode_a_replay_may_differ_a_little():
    one = [torch.tensor(2.0), torch.tensor([3.0, 4.0])]
    near, far = [t * 1.01 for t in one], [t * 1.2 for t in one]
    assert not graphs.equal(one, near) and graphs.equal(one, [t.clone() for t in one])
    nan = [torch.tensor(torch.nan), one[1]]
    assert graphs.equal(nan, nan) and not graphs.equal(nan, one)
    torch.use_deterministic_algorithms(False)
    assert graphs.equal(one, near) and not graphs.equal(one, far)


def test_gradients_leave_no_graph_behind():
    """What a pass returns would else hold the nodes of the pass before, on the stream of an eager step."""
    made = learner()
    passes = gradients(made, *next(batches(1)), {"weight": 1.0, "act": 1.0})
    assert not any(t.requires_grad for t in tree_leaves(passes) if isinstance(t, torch.Tensor))
