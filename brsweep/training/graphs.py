"""The passes of a training step as a CUDA graph: recorded once in a stage, replayed by one call a step.

A GPU is through with a small network's operators sooner than Python launches the next ones. A graph has all of them in
one launch: forward, losses and backward, as `gradients` runs them, with the same kernels and so the same bits. What
clips, updates and counts stays outside, so learning rates change freely; lambdas come in as numbers on the device.

A recording repeats the operators that ran while it was made. What Python does in between does not happen again: a part
that counts its calls, or draws from Python's generator, would stand still without a word. So the first steps are eager;
one of them is watched for waits for the device, which can't be recorded; the recording has to give the eager pass's
gradients before it is used, and again at the first step of each epoch. Where the first of these fails the stage trains
eagerly, and says why in one line; where a later one fails it stops.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from brsweep.errors import BrsweepError
from brsweep.training.step import Learner, Passes, gradients

EAGER_STEPS = 3
"""Before the recording: what is compiled, chosen or allocated at a first call is there by then."""
NEARLY = 0.05
"""Of the gradient's norm: how far a replay may be from the eager pass where equal runs need not have equal bits."""
WAIT = "called a synchronizing CUDA operation"
"""What torch warns of in its sync debug mode."""


class Recorded:
    """Takes the place of `gradients` in `train_step`; `begin_epoch` is called at each epoch's start.

    learner: of one stage, for images of one shape; others go through eagerly. say: is given a line where the stage
    stays eager. Raises `BrsweepError` where a recording that was right is so no longer.
    """

    def __init__(self, learner: Learner, say: Callable[[str], None]) -> None:
        self.learner, self.say = learner, say
        self.recording: Recording | None = None
        self._eager_left, self._given_up, self._check = EAGER_STEPS, False, True

    def begin_epoch(self) -> None:
        self._check = True

    def __call__(self, learner: Learner, images: Tensor, labels: Tensor, lambdas: Mapping[str, float]) -> Passes:
        given = images, labels, lambdas
        if self._given_up or (self.recording is not None and not self.recording.fits(*given)):
            return gradients(learner, *given)
        if self._eager_left:
            self._eager_left -= 1
            return gradients(learner, *given) if self._eager_left else self._watched(given)
        if self.recording is None:
            return self._first(given)
        if not self._check:
            return self.recording.replay(*given)
        self._check = False
        difference, passes = compared(learner, self.recording, given)
        if difference:
            raise BrsweepError(
                f"cuda_graphs: {difference} the recorded step's, as they were before: a part goes by something that "
                f"only Python knows, such as a count of its calls; set cuda_graphs=false, and force=true to begin anew"
            )
        return passes

    def _watched(self, given: tuple[Any, ...]) -> Passes:
        with watch_waits() as waits:
            passes = gradients(self.learner, *given)
        if waits:
            self._give_up("a step waits for the device")
        return passes

    def _first(self, given: tuple[Any, ...]) -> Passes:
        before = State(self.learner)
        try:
            recording = Recording(self.learner, *given)
            difference, passes = compared(self.learner, recording, given)
        except Exception as error:  # whatever a part does that cannot be recorded; too little memory for both
            self._give_up(" ".join(str(error).split())[:200])
        else:
            if difference:
                self._give_up(f"{difference} a recorded step's")
            else:
                self.recording, self._check = recording, False
            return passes
        recording = None  # its memory, gradients with it, is what the eager pass may lack
        self.learner.optimizer.zero_grad(set_to_none=True)
        before.put_back()
        return gradients(self.learner, *given)

    def _give_up(self, why: str) -> None:
        self._given_up = True
        self.say(f"no CUDA graph: {why}; its steps are launched one operator at a time (cuda_graphs=false says so)")


class Recording:
    """A graph, what it reads and what it writes."""

    def __init__(self, learner: Learner, images: Tensor, labels: Tensor, lambdas: Mapping[str, float]) -> None:
        self.images, self.labels = images.clone(), labels.clone()
        self.lambdas = {kind: images.new_zeros((), dtype=torch.float64) for kind in lambdas}
        learner.optimizer.zero_grad(set_to_none=True)
        self._replay, self.passes = captured(lambda: gradients(learner, self.images, self.labels, self.lambdas))
        self.grads = [(p, p.grad) for p in learner.model.parameters() if p.grad is not None]

    def fits(self, images: Tensor, labels: Tensor, lambdas: Mapping[str, float]) -> bool:
        return images.shape == self.images.shape and images.dtype == self.images.dtype

    def replay(self, images: Tensor, labels: Tensor, lambdas: Mapping[str, float]) -> Passes:
        """Overwrites what the replay before has returned, and the gradients."""
        self.images.copy_(images)
        self.labels.copy_(labels)
        for kind, value in lambdas.items():
            self.lambdas[kind].fill_(value)
        self._replay()
        for parameter, grad in self.grads:
            parameter.grad = grad
        return self.passes


def captured(run: Callable[[], Passes]) -> tuple[Callable[[], None], Passes]:
    """Record `run` without running it: what replays it, and what it returned, which each replay fills anew."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        passes = run()
    return graph.replay, passes


@contextmanager
def watch_waits():
    """Inside, an operator that waits for the device is noted in the list that comes out."""
    waits: list[str] = []
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode(before)
            waits += [str(entry.message) for entry in seen if WAIT in str(entry.message)]


class State:
    """What a forward pass changes: buffers, and where the device's generator stands."""

    def __init__(self, learner: Learner) -> None:
        self.model = learner.model
        self.buffers, self.drawn = [b.clone() for b in learner.model.buffers()], torch.cuda.get_rng_state()

    @torch.no_grad()
    def put_back(self) -> None:
        for buffer, value in zip(self.model.buffers(), self.buffers, strict=True):
            buffer.copy_(value)
        torch.cuda.set_rng_state(self.drawn)


def compared(learner: Learner, recording: Recording, given: tuple[Any, ...]) -> tuple[str, Passes]:
    """Replay, put back what a pass changes, and go eagerly: in which the two differ, "" for nothing, and the eager
    passes, whose gradients are those that are left. Waits for the device."""
    before = State(learner)
    replayed = [recording.replay(*given).loss.clone(), *(grad.clone() for _, grad in recording.grads)]
    left = State(learner).buffers
    before.put_back()
    passes = gradients(learner, *given)
    wanted = [passes.loss, *(p.grad for p, _ in recording.grads)]
    trained = sum(p.grad is not None for p in learner.model.parameters())
    if trained != len(recording.grads) or any(grad is None for grad in wanted):
        return "other parameters have gradients than in", passes
    if not equal(wanted, replayed):
        return "gradients are not", passes
    return "" if equal(list(learner.model.buffers()), left) else "buffers are not", passes


def equal(wanted: list[Tensor], got: list[Tensor]) -> bool:
    """To the bit in deterministic mode, else to NEARLY; a NaN is as good as another."""
    flat = [torch.cat([t.detach().flatten().double() for t in tensors]) for tensors in (wanted, got)]
    if torch.are_deterministic_algorithms_enabled():
        return bool(((flat[0] == flat[1]) | (flat[0].isnan() & flat[1].isnan())).all())
    return not bool((flat[0] - flat[1]).norm() > NEARLY * flat[0].norm())
