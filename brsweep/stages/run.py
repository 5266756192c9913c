"""Train a run's stages: begin after the deepest one that the store holds, publish each as it ends.

    float      float network, float optimizer
    rung4      where a ladder asks for it: at more bits first, LSQ alone
    warmup     quantized and calibrated from what came before, LSQ alone
    br         weights, step sizes, batch norm and optimizer carried over; step sizes frozen where asked; LSQ + BR

Each epoch ends with a checkpoint, then its record goes out: a process that is killed goes on, bit for bit on a CPU in
deterministic mode, from the last epoch it saved. The last stage belongs to one run alone, so it trains in the run's
own folder and the store does not keep it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from brsweep.errors import BrsweepError
from brsweep.stages.collapse import CollapseWatch, floor_line, strength_line, unsettled_line
from brsweep.stages.plan import Stage
from brsweep.stages.setup import Setup
from brsweep.stages.store import STATE, Store
from brsweep.training.checkpoint import load, save
from brsweep.training.evaluate import evaluate
from brsweep.training.loop import Progress, Span, fit
from brsweep.training.measure import Probe
from brsweep.training.optim import freeze_alphas
from brsweep.training.step import Learner
from brsweep.training.transitions import hold_step_sizes, other_optimizer_line

CHECKPOINT, BEST = "checkpoint.pt", "best.pt"


class Reporter(Protocol):
    """Where a run's stages say what happens."""

    def say(self, line: str) -> None: ...
    def warn(self, line: str) -> None: ...
    def banner(self, line: str) -> None: ...
    def bar(self, description: str, total: int) -> Any: ...
    def catch_up(self, history: Sequence[Mapping], layers: Sequence[Mapping]) -> None:
        """The records so far, all of them: those of earlier stages, of a stage from the store, of before a restart."""

    def epoch(self, record: Mapping[str, Any], layers: Mapping[str, Any] | None) -> None: ...
    def snapshot(self, name: str, content: Mapping[str, Any]) -> None: ...


@dataclass
class InTraining:
    """A stage that is about to train or to go on: its learner and everything that its checkpoint holds."""

    stage: Stage
    learner: Learner
    probe: Probe | None
    state: dict[str, Any]
    folder: Path


def run_stages(
    setup: Setup, stages: Sequence[Stage], store: Store, checkpoints: Path, run_name: str, reporter: Reporter
) -> tuple[dict[str, Any], Learner]:
    """Train what is missing; return the last stage's state and its learner.

    checkpoints: the run's own folder for the last stage. run_name: who trains, kept with each entry of the store.
    """
    state = train_shared(setup, stages[:-1], store, run_name, reporter)
    training = _prepare(setup, stages[-1], state, checkpoints, reporter)
    return _train(training, setup, run_name, reporter, judged=True), training.learner


def train_shared(
    setup: Setup, stages: Sequence[Stage], store: Store, trained_by: str, reporter: Reporter
) -> dict[str, Any]:
    """Train and publish those of `stages`, a run's first ones, that the store lacks; return the last one's state."""
    state, begin = _deepest(stages, store, reporter)
    elsewhere = [stage.name for stage in stages[begin:] if store.elsewhere(stage.signature)]
    if elsewhere:
        names = " and ".join(elsewhere)
        reporter.say(f"{names}: the store has it from another type of device; it is trained here on {store.device}")
    for stage in stages[begin:]:
        with store.lock(stage.signature, lambda s=stage: reporter.say(f"{s.name}: another run trains it; waiting")):
            path = store.find(stage.signature)
            if path is None:
                partial = store.partial(stage.signature)
                state = _train(_prepare(setup, stage, state, partial, reporter), setup, trained_by, reporter)
                save(partial / STATE, state)
                (partial / CHECKPOINT).unlink(missing_ok=True)
                store.publish(stage.signature, {"stage": stage.name, "trained_by": trained_by, "spec": stage.spec})
            else:
                state = load(path)
                _catch_up(state, reporter)
    return state


def _deepest(stages: Sequence[Stage], store: Store, reporter: Reporter) -> tuple[dict[str, Any] | None, int]:
    for i in reversed(range(len(stages))):
        path = store.find(stages[i].signature)
        if path is not None:
            state = load(path)
            shared = ", ".join(f"{s.name} ({s.epochs} epochs)" for s in stages[: i + 1])
            trained_by = store.entry(stages[i].signature)["trained_by"]
            reporter.say(f"reused from the store: {shared}; trained by {trained_by}")
            _catch_up(state, reporter)
            return state, i + 1
    return None, 0


def _prepare(setup: Setup, stage: Stage, parent: dict[str, Any] | None, folder: Path, reporter: Reporter) -> InTraining:
    """The stage at its beginning, or where its checkpoint left it."""
    if stage.quantized:
        learner, probe = _begin_qat(setup, stage, parent, reporter)
    else:
        learner, probe = setup.learner(setup.networks.float_model(say=reporter.say), stage.optimizer), None
    state = {"history": [], "layers": [], "snapshots": {}, "float": None, "best": None, "collapse": None}
    state |= {key: parent[key] for key in ("history", "layers", "snapshots", "float")} if parent else {}
    state |= {"signature": stage.signature, "stage": stage.name, "bits": stage.bits, "done": stage.first}
    state |= {"teacher": learner.teacher.state_dict()} if learner.teacher else {}
    state["device"] = setup.device.type
    saved = _checkpoint(folder, stage, setup.device.type, reporter)
    if saved is not None:
        learner.model.load_state_dict(saved["model"])
        learner.optimizer.load_state_dict(saved["optimizer"])
        for name, companion in learner.companions.items():
            companion.load_state_dict(saved[name])
        state = saved
        reporter.say(f"{stage.name}: goes on after epoch {saved['done']} of {stage.last}")
    elif probe is not None:
        state["snapshots"] = state["snapshots"] | {f"{stage.name}-start": {"sites": probe.histograms()}}
    _catch_up(state, reporter)
    return InTraining(stage, learner, probe, state, folder)


def _begin_qat(setup: Setup, stage: Stage, parent: dict[str, Any], reporter: Reporter) -> tuple[Learner, Probe]:
    goes_on = parent["bits"] == stage.bits
    if goes_on:
        model, conversion = setup.networks.quantized_model(stage.bits)
        model.load_state_dict(parent["model"])
    else:
        model, conversion = setup.networks.quantized_model(stage.bits, parent["model"])
        setup.calibrate(model)
        for line in conversion.warnings:
            reporter.warn(line)
    regularizer = setup.regularizer() if stage.regularized else None
    teacher = setup.teacher(parent.get("teacher", parent["model"])) if stage.distilled else None
    freezing = setup.freezing(model, conversion.sites) if stage.freezes_weights else None
    if stage.follows_transitions:
        held = hold_step_sizes(conversion.sites)
        reporter.banner(f"weights move by their transition rate: the step sizes of {held} layers' weights stand still")
    learner = setup.learner(
        model,
        stage.optimizer,
        sites=conversion.sites,
        regularizer=regularizer,
        teacher=teacher,
        freezing=freezing,
    )
    if stage.follows_transitions:
        learner = replace(learner, transitions=setup.transitions(model, conversion.sites, learner.optimizer))
        line = other_optimizer_line(learner.optimizer)
        if line is not None:
            reporter.warn(line)
    if goes_on:
        learner.optimizer.load_state_dict(parent["optimizer"])
        if learner.transitions is not None:
            learner.transitions.load_state_dict(parent["transitions"])
    if stage.freezes_alphas:
        frozen = freeze_alphas(model, learner.optimizer)
        reporter.banner(f"alpha frozen from here on: {len(frozen)} step sizes keep every bit")
    return learner, setup.probe(model, conversion)


def _train(
    training: InTraining, setup: Setup, run_name: str, reporter: Reporter, judged: bool = False
) -> dict[str, Any]:
    """Train to the stage's end; its state, which is also its last checkpoint.

    judged: a run's last stage, whose best epoch is kept and in which a collapse is named.
    """
    stage, learner, state = training.stage, training.learner, training.state
    progress = Progress(state["done"], list(state["history"]), list(state["layers"]))
    config = setup.config
    span = Span(stage.name, stage.first, stage.last, stage.lr_epochs, stage.lr_warmup_epochs)
    watch = CollapseWatch(state, reporter, config["reg"]) if judged else None

    at_floor: set[str] = set()

    def after_epoch(record: dict[str, Any]) -> None:
        record["trained_by"] = run_name
        fallen = floor_line(progress.layers[-1], at_floor) if training.probe else None
        if fallen is not None:
            reporter.warn(f"{stage.name}: {fallen}")
        if watch is not None:
            _keep_best(state, record, learner, training.folder)
            if learner.regularizer is not None and record["epoch"] == stage.first + 1:
                reporter.say(strength_line(record, learner.regularizer.strength))
            watch.look(record)
            if learner.transitions is not None and record["epoch"] == stage.last:
                line = unsettled_line(record, config["transition_rate"], learner.transitions.first_target)
                if line is not None:
                    reporter.warn(f"{stage.name}: {line}")
        _snapshot(training, progress)
        save(training.folder / CHECKPOINT, state)
        reporter.epoch(record, progress.layers[-1] if training.probe else None)

    fit(
        learner, setup.tables, span, progress, seed=config["seed"], batch_size=config["data"]["batch_size"],
        probe=training.probe, weight_decay=config[stage.optimizer]["weight_decay"], bar=reporter.bar,
        after_epoch=after_epoch, say=lambda line: reporter.warn(f"{stage.name}: {line}"),
    )  # fmt: skip
    _snapshot(training, progress)
    return _finish(training, setup, reporter)


def _finish(training: InTraining, setup: Setup, reporter: Reporter) -> dict[str, Any]:
    state, learner, stage = training.state, training.learner, training.stage
    tables = {"val": setup.tables.val, "test": setup.tables.test}
    ends = {
        key: None if table is None else evaluate(learner, table.plain(), len(setup.tables.classes))
        for key, table in tables.items()
    }
    sites = training.probe.histograms() if training.probe else {}
    end = {"sites": sites, "confusion": ends["test"].confusion}
    state["snapshots"] = state["snapshots"] | {f"{stage.name}-end": end}
    if not stage.quantized:
        state["float"] = {key: None if e is None else e.accuracy for key, e in ends.items()}
    for key, content in state["snapshots"].items():
        if key.startswith(f"{stage.name}-"):
            reporter.snapshot(key, content)
    return state


def _snapshot(training: InTraining, progress: Progress) -> None:
    """Bring the state up to date: what a checkpoint holds."""
    training.state.update(
        {name: companion.state_dict() for name, companion in training.learner.companions.items()},
        model=training.learner.model.state_dict(),
        optimizer=training.learner.optimizer.state_dict(),
        done=progress.done,
        history=list(progress.history),
        layers=list(progress.layers),
    )


def _keep_best(state: dict[str, Any], record: Mapping[str, Any], learner: Learner, folder: Path) -> None:
    """The best epoch of the last stage by validation accuracy; without a validation split, the last one.

    Its weights are written before the checkpoint that names it, so a process killed in between trains the epoch again
    and writes the same weights.
    """
    value, best = record["val_accuracy"], state["best"]
    if best is None or value is None or value > best["val_accuracy"]:
        state["best"] = {key: record[key] for key in ("epoch", "val_accuracy", "test_accuracy")}
        save(folder / BEST, {"model": learner.model.state_dict()})


def _checkpoint(folder: Path, stage: Stage, device: str, reporter: Reporter) -> dict[str, Any] | None:
    """The checkpoint of the stage in `folder`; None, with a warning, where it or best.pt is damaged.

    Raises `BrsweepError` for one of another type of device: half a stage of each would be neither's result.
    """
    if not (folder / CHECKPOINT).exists():
        return None
    try:
        saved = load(folder / CHECKPOINT)
        if not isinstance(saved, dict) or saved.get("signature") != stage.signature:
            return None
        if saved["best"] is not None:
            load(folder / BEST)
    except BrsweepError as error:
        reporter.warn(f"{error}; {stage.name} begins anew")
        return None
    if saved["device"] != device:
        raise BrsweepError(
            f"{folder / CHECKPOINT}: {stage.name} is trained on {saved['device']} up to epoch {saved['done']} of "
            f"{stage.last}, and this process has {device}; go on there, or begin anew here with force=true"
        )
    return saved


def _catch_up(state: Mapping[str, Any], reporter: Reporter) -> None:
    for key, content in state["snapshots"].items():
        reporter.snapshot(key, content)
    reporter.catch_up(state["history"], state["layers"])
