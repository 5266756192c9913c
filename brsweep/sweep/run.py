"""One run in its folder: answer from a finished one, go on with a broken one, or begin."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brsweep import targets
from brsweep.errors import BrsweepError
from brsweep.stages.plan import Stage, identity, plan
from brsweep.stages.signature import code_digest
from brsweep.stages.store import Store
from brsweep.sweep.describe import readable_name, settings_lines, tags
from brsweep.sweep.folder import CONFIG, CONSOLE, RunFolder, write_atomically
from brsweep.sweep.reporter import RunReporter
from brsweep.tracking.console import Console
from brsweep.tracking.tracker import FAILED, FINISHED, INTERRUPTED, Guarded, RunInfo, Tracker

DATA_OPTIONS = ("val_fraction", "split_seed", "crop_padding", "flip", "batch_size")
SHOWN = ("val_accuracy", "test_accuracy", "test_accuracy_last", "float_test_accuracy")


@dataclass(frozen=True)
class Run:
    """A run that is known by its configuration and has a place, before anything is trained. Needs no torch."""

    config: Mapping[str, Any]
    source: Any
    stages: list[Stage]
    name: str
    folder: RunFolder
    code: str

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Run:
        """Prepare the data (its identity is part of the run's) and plan the stages."""
        source = data_source(config)
        source.prepare()
        data_identity = source.identity()
        code = code_digest(_targets(config))
        name = f"{readable_name(config)}-{identity(config, data_identity)[:8]}"
        folder = RunFolder(Path(config["output_dir"]) / config["sweep_name"] / name)
        return cls(config, source, plan(config, data_identity, code), name, folder, code)

    @property
    def full_name(self) -> str:
        return f"{self.config['sweep_name']}/{self.name}"


def data_source(config: Mapping[str, Any]) -> Any:
    node = {key: value for key, value in config["data"].items() if key not in DATA_OPTIONS}
    return targets.build("data", node)


def execute(config: Mapping[str, Any]) -> dict[str, Any]:
    """Do the run that `config` describes and return its result; a finished run's stored result answers at once.

    Raises `BrsweepError` for what the user can mend; checkpoints and records up to then are kept.
    """
    run = Run.of(config)
    stored = finished_result(run)
    if stored is not None:
        print(f"finished already: {run.folder.path} (force=true trains it again)")
        print(summary(stored))
        return stored
    from brsweep.stages.preflight import check_parts

    check_parts(config)
    with run.folder.locked():
        if config["force"] or _is_stale(run):
            run.folder.clear()
        write_atomically(run.folder.path / CONFIG, _yaml(config))
        console = Console(run.folder.path / CONSOLE)
        try:
            return _train(run, console)
        except BrsweepError as error:
            console.warn(f"stopped: {error}")
            raise
        finally:
            console.close()


def finished_result(run: Run) -> dict[str, Any] | None:
    """The stored result if it answers for this configuration under this code; `stale` says what other code means."""
    stored = None if run.config["force"] else run.folder.result()
    if stored is None or stored["code"] == run.code or run.config["stale"] == "keep":
        return stored
    if run.config["stale"] == "retrain":
        return None
    raise BrsweepError(
        f"{run.folder.path}: finished under other training code ({stored['code']}, this is {run.code}); stale=keep "
        f"takes its result, stale=retrain trains it again"
    )


def _is_stale(run: Run) -> bool:
    stored = run.folder.result()
    return stored is not None and stored["code"] != run.code


def _train(run: Run, console: Console) -> dict[str, Any]:
    from brsweep.stages.bench import Bench
    from brsweep.stages.run import CHECKPOINT, run_stages
    from brsweep.training.checkpoint import save

    began = time.time()
    config = run.config
    console.say(f"run {run.folder.path}")
    bench = Bench.set_up(config, run.source)
    for line in settings_lines(config, bench, run.stages):
        console.say(line)
    if config["schedule"]["freeze_alpha"] and config["reg"].get("backprop_to_alpha"):
        console.warn("freeze_alpha and reg.backprop_to_alpha contradict each other: freezing wins, alpha stands still")
    tracker = _tracker(run, console)
    reporter = RunReporter(run.folder, run.full_name, console, tracker)
    store = Store(Path(config["store_dir"]))
    status = FAILED
    try:
        state, learner = run_stages(bench, run.stages, store, run.folder.checkpoints, run.full_name, reporter)
        result = _result(run, bench, state, learner, time.time() - began)
        save(run.folder.checkpoints / "last.pt", {"model": learner.model.state_dict()})
        run.folder.write_result(result)
        (run.folder.checkpoints / CHECKPOINT).unlink(missing_ok=True)  # a finished run keeps weights alone
        status = FINISHED
        if tracker is not None:
            tracker.summarise({key: result[key] for key in SHOWN})
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


def _result(run: Run, bench: Any, state: Mapping[str, Any], learner: Any, time_s: float) -> dict[str, Any]:
    import torch

    from brsweep import kernels
    from brsweep.training.evaluate import evaluate

    last, best, floating = state["history"][-1], state["best"] or {}, state["float"]
    reported = best if bench.tables.val is not None else last
    result = {
        "status": "finished",
        "name": run.name,
        "sweep": run.config["sweep_name"],
        "val_accuracy": reported.get("val_accuracy"),
        "test_accuracy": reported.get("test_accuracy"),
        "best_epoch": reported.get("epoch"),
        "test_accuracy_last": evaluate(learner, bench.tables.test.plain(), len(bench.tables.classes)).accuracy,
        "float_val_accuracy": floating["val"],
        "float_test_accuracy": floating["test"],
        "penalty_weight": last.get("penalty_weight"),
        "penalty_act": last.get("penalty_act"),
        "collapse": state["collapse"],
        "reestimated": _reestimated(run, bench, learner),
        "time_s": time_s,
        "epoch_time_s": sum(record["time_s"] for record in state["history"]),
        "threads": torch.get_num_threads(),
        "device": str(bench.device),
        "kernels": kernels.chosen(bench.device.type),
        "host": platform.node(),
        "code": run.code,
        "stages": {stage.name: stage.signature for stage in run.stages},
        "data": run.source.identity(),
        **_versions(),
        **_git(),
        "config": dict(run.config),
    }
    return result


def _reestimated(run: Run, bench: Any, learner: Any) -> dict[str, float] | None:
    """Test accuracy at the best and at the last epoch with batch norm re-estimated on training batches, where asked."""
    import dataclasses

    from brsweep.stages.run import BEST
    from brsweep.training.checkpoint import load
    from brsweep.training.evaluate import evaluate, with_reestimated_norms

    count = run.config["reestimate_bn_batches"]
    if not count:
        return None
    best = load(run.folder.checkpoints / BEST)["model"]
    last = {key: value.clone() for key, value in learner.model.state_dict().items()}
    result = {}
    for name, weights in (("test_accuracy", best), ("test_accuracy_last", last)):
        learner.model.load_state_dict(weights)
        batches = bench.tables.train.plain(run.config["data"]["batch_size"])
        images = (images for _, (images, _) in zip(range(count), batches, strict=False))
        model = with_reestimated_norms(learner.model, images)
        scored = dataclasses.replace(learner, model=model)
        result[name] = evaluate(scored, bench.tables.test.plain(), len(bench.tables.classes)).accuracy
    learner.model.load_state_dict(last)
    return result


def _tracker(run: Run, console: Console) -> Tracker | None:
    if run.config["logger"].get(targets.TARGET) is None:
        return None
    info = RunInfo(
        name=run.name,
        sweep=run.config["sweep_name"],
        config=run.config,
        tags=tags(run.config),
        id=run.folder.attempt_id(run.full_name),
        notice=console.say,
        warn=console.warn,
    )
    return Guarded(targets.build("logger", run.config["logger"], folder=run.folder.path, run=info), console.warn)


def summary(result: Mapping[str, Any]) -> str:
    """One line: what a person wants to know of a finished run."""
    parts = [f"test {result['test_accuracy']:.2%}"] if result["test_accuracy"] is not None else []
    if result["val_accuracy"] is not None:
        parts[0] += f" at the best validation epoch {result['best_epoch']} (val {result['val_accuracy']:.2%})"
    parts.append(f"last epoch {result['test_accuracy_last']:.2%}")
    parts.append(f"float {result['float_test_accuracy']:.2%}")
    return ", ".join(parts)


def _targets(config: Mapping[str, Any]) -> list[str]:
    nodes = [config[key] for key in ("model", "data", "reg", "float_optimizer", "qat_optimizer")]
    return [node[targets.TARGET] for node in (*nodes, config["quant"]["quantizer"]) if node.get(targets.TARGET)]


def _versions() -> dict[str, Any]:
    from importlib.metadata import version

    packages = ("torch", "torchvision", "numba", "numpy")
    return {"versions": {"python": platform.python_version()} | {name: version(name) for name in packages}}


def _git() -> dict[str, Any]:
    """The commit of the checkout that brsweep runs from and whether it had changes; nulls outside a checkout."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    tracked = git("ls-files", "--error-unmatch", Path(__file__).name) is not None
    commit, changes = (git("rev-parse", "HEAD"), git("status", "--porcelain")) if tracked else (None, None)
    return {"git_commit": commit, "git_dirty": None if changes is None else bool(changes)}


def _yaml(config: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(dict(config), sort_keys=False)

