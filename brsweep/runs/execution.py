"""One run in its folder: answer from a finished one, go on with a broken one, or begin."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

from brsweep import targets
from brsweep.errors import BrsweepError
from brsweep.runs.folder import CONSOLE, RunFolder
from brsweep.runs.reporter import OnEpoch, RunReporter
from brsweep.runs.result import run_result, summary
from brsweep.runs.run import Run, finished_elsewhere, finished_result, is_stale, shared_folder, sweeps_in
from brsweep.runs.words import final_values, settings_lines, tags, threads
from brsweep.stages.store import Store
from brsweep.tracking.console import Console
from brsweep.tracking.tracker import FAILED, FINISHED, INTERRUPTED, Guarded, RunInfo


class Pruned(BrsweepError):
    """Raised by `watch` to end a run early. That is no failure: the run keeps its checkpoint and can go on."""


def execute(config: Mapping[str, Any], watch: OnEpoch | None = None) -> dict[str, Any]:
    """Do the run that `config` describes and return its result; a finished run's stored result answers at once.

    watch: told of each epoch's record of the last stage, those of before a restart first. It may raise `Pruned`.
    Raises `BrsweepError` for what the user can mend; checkpoints and records up to then are kept.
    """
    run = Run.of(config)
    stored = finished_result(run)
    if stored is not None:
        run.folder.tidy()
        print(f"finished already: {run.folder.path} (force=true trains it again)")
        print(summary(stored))
        return stored
    other = finished_elsewhere(run, sweeps_in(Path(config["output_dir"])))
    if other is not None:
        return take(run, other)
    from brsweep.stages.preflight import check_parts

    check_parts(config, source=run.source)
    with run.folder.locked():
        stored = finished_result(run)  # again: another process may have finished it just before it let go
        if stored is not None:
            return stored
        if config["force"] or is_stale(run):
            run.folder.clear()
        run.folder.begin(config, [stage.signature for stage in run.stages[:-1]])
        with _recorded(run.folder) as console:
            return _train(run, console, watch)


def take(run: Run, other: RunFolder) -> dict[str, Any]:
    """Copy the same run, finished in another sweep, into this one's folder; its result."""
    with run.folder.locked():
        result = run.folder.take(other, run.config["sweep_name"])
    print(f"finished in another sweep: {other.path}, taken over as {run.folder.path}")
    print(summary(result))
    return result


def execute_shared(config: Mapping[str, Any], upto: str) -> None:
    """Train the stages of the run that `config` describes up to the one with the signature `upto`, into the store.

    Its records go to <sweep>/stages/<stage>-<signature>/; the runs that share the stage replay them.
    """
    from brsweep.stages.preflight import check_parts
    from brsweep.stages.run import train_shared
    from brsweep.stages.setup import Setup

    run = Run.of(config)
    signatures = [stage.signature for stage in run.stages]
    if upto not in signatures[:-1]:
        raise BrsweepError(f"{run.full_name}: has no shared stage {upto}; the data or the code changed: launch again")
    stages = run.stages[: signatures.index(upto) + 1]
    check_parts(config, source=run.source)
    name = shared_folder(stages[-1])
    folder = RunFolder(run.folder.path.parent / name)
    with folder.locked(), _recorded(folder) as console:
        console.say(f"shared stages {', '.join(f'{stage.name} {stage.epochs}' for stage in stages)}: {folder.path}")
        setup = Setup.of(config, run.source)
        console.say(f"{setup.device}, {threads(config, setup)}")
        trained_by = f"{config['sweep_name']}/{name}"
        reporter = RunReporter(folder, trained_by, console, None)
        try:
            train_shared(setup, stages, _store(setup), trained_by, reporter)
        finally:
            reporter.close()


@contextmanager
def _recorded(folder: RunFolder) -> Iterator[Console]:
    """The console of a training in `folder`, which keeps the cause where the training fails."""
    folder.forget_failure()
    console = Console(folder.path / CONSOLE)
    try:
        yield console
    except Pruned as error:
        console.warn(f"pruned: {error}")
        raise
    except BrsweepError as error:
        console.warn(f"stopped: {error}")
        folder.write_failure(str(error), CONSOLE)
        raise
    except Exception as error:
        from brsweep.stages.device import explained

        line = explained(error)
        if line is None:
            first = (str(error).strip().splitlines() or [""])[0]
            folder.write_failure(f"{type(error).__name__}: {first}", CONSOLE)
            raise
        console.warn(f"stopped: {line}")
        folder.write_failure(line, CONSOLE)
        raise BrsweepError(line) from None
    finally:
        console.close()


def _train(run: Run, console: Console, watch: OnEpoch | None) -> dict[str, Any]:
    from brsweep.stages.run import CHECKPOINT, run_stages
    from brsweep.stages.setup import Setup
    from brsweep.training.checkpoint import save

    began = time.time()
    config = run.config
    console.say(f"run {run.folder.path}")
    setup = Setup.of(config, run.source)
    for line in settings_lines(config, setup, run.stages):
        console.say(line)
    if config["schedule"]["freeze_alpha"] and config["reg"].get("backprop_to_alpha"):
        console.warn("freeze_alpha and reg.backprop_to_alpha contradict each other: freezing wins, alpha stands still")
    tracker = _tracker(run, setup, console)
    steps = setup.tables.train.steps(config["data"]["batch_size"])
    last = run.stages[-1].name
    reporter = RunReporter(run.folder, run.full_name, console, tracker, watch, steps_per_epoch=steps, last_stage=last)
    store = _store(setup)
    status = FAILED
    try:
        state, learner = run_stages(setup, run.stages, store, run.folder.checkpoints, run.full_name, reporter)
        result = run_result(run, setup, state, learner, time.time() - began)
        save(run.folder.checkpoints / "last.pt", {"model": learner.model.state_dict()})
        result = run.folder.write_result(result)
        (run.folder.checkpoints / CHECKPOINT).unlink(missing_ok=True)  # a finished run keeps weights alone
        status = FINISHED
        if tracker is not None:
            tracker.summarise(final_values(result))
    except Pruned:
        status = INTERRUPTED
        raise
    except KeyboardInterrupt:
        status = INTERRUPTED
        console.warn("interrupted: the same command goes on from the last checkpoint")
        raise
    finally:
        reporter.close()
        if tracker is not None:
            tracker.finish(status)
    console.say(summary(result))
    console.say(f"results in {run.folder.path}")
    return result


def _store(setup: Any) -> Store:
    return Store(Path(setup.config["store_dir"]), setup.device.type)


def _tracker(run: Run, setup: Any, console: Console) -> Guarded | None:
    if run.config["logger"].get(targets.TARGET) is None:
        return None
    info = RunInfo(
        name=run.name,
        sweep=run.config["sweep_name"],
        config=run.config,
        tags=tags(run.config, setup.conversion.float_input_count),
        id=run.folder.attempt_id(run.full_name),
        stage_ends=tuple(accumulate(stage.epochs for stage in run.stages)),
        stages=tuple(stage.name for stage in run.stages),
        notice=console.say,
        warn=console.warn,
    )
    return Guarded(lambda told: targets.build("logger", run.config["logger"], folder=run.folder.path, run=told), info)
