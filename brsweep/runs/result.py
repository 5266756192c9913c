"""What a finished run reports: accuracies, penalties, times, versions, and the commit that trained it."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from brsweep.runs.run import Run


def run_result(run: Run, setup: Any, state: Mapping[str, Any], learner: Any, time_s: float) -> dict[str, Any]:
    import torch

    from brsweep import kernels
    from brsweep.stages.signature import core_digest
    from brsweep.training.evaluate import evaluate

    last, best, floating = state["history"][-1], state["best"] or {}, state["float"]
    reported = best if setup.tables.val is not None else last
    result = {
        "status": "finished",
        "name": run.name,
        "sweep": run.config["sweep_name"],
        "val_accuracy": reported.get("val_accuracy"),
        "test_accuracy": reported.get("test_accuracy"),
        "best_epoch": reported.get("epoch"),
        "test_accuracy_last": evaluate(learner, setup.tables.test.plain(), len(setup.tables.classes)).accuracy,
        "float_val_accuracy": floating["val"],
        "float_test_accuracy": floating["test"],
        "penalty_weight": last.get("penalty_weight"),
        "penalty_act": last.get("penalty_act"),
        "collapse": state["collapse"],
        "reestimated": _reestimated(run, setup, learner),
        "time_s": time_s,
        "epoch_time_s": sum(record["time_s"] for record in state["history"]),
        "threads": torch.get_num_threads(),
        "device": str(setup.device),
        "kernels": kernels.chosen(setup.device.type),
        "host": platform.node(),
        "code": run.code,
        "core": core_digest(),
        "stages": {stage.name: stage.signature for stage in run.stages},
        "data": run.source.identity(),
        "images": _images(setup.tables),
        "float_inputs": setup.conversion.float_input_count,
        **_versions(),
        **_git(),
        "config": dict(run.config),
    }
    return result


def _images(tables: Any) -> dict[str, Any]:
    """What the network takes and what its outputs mean, so that it can be used where the data is not."""
    return {
        "size": list(tables.image_size),
        "channels": tables.channels,
        "mean": list(tables.mean),
        "std": list(tables.std),
        "classes": list(tables.classes),
    }


def _reestimated(run: Run, setup: Any, learner: Any) -> dict[str, float] | None:
    """Test accuracy at the best and at the last epoch with batch norm re-estimated on training batches, where asked;
    these networks' buffers go into the run's folder."""
    import dataclasses

    from brsweep.training.evaluate import evaluate, with_reestimated_norms
    from brsweep.training.schedule import seed_of

    count = run.config["reestimate_bn_batches"]
    if not count:
        return None
    best = run.folder.weights("best")
    last = {key: value.clone() for key, value in learner.model.state_dict().items()}
    result = {}
    for which, name, weights in (("best", "test_accuracy", best), ("last", "test_accuracy_last", last)):
        learner.model.load_state_dict(weights)
        size, train = run.config["data"]["batch_size"], setup.tables.train
        batches = train.plain(size, min(count, train.steps(size)) * size, seed_of(run.config["seed"], "reestimate"))
        images = (images for images, _ in batches)
        model = with_reestimated_norms(learner.model, images)
        run.folder.write_buffers(which, dict(model.named_buffers()))
        scored = dataclasses.replace(learner, model=model)
        result[name] = evaluate(scored, setup.tables.test.plain(), len(setup.tables.classes)).accuracy
    learner.model.load_state_dict(last)
    return result


def summary(result: Mapping[str, Any]) -> str:
    """One line: what a person wants to know of a finished run."""
    parts = [f"test {result['test_accuracy']:.2%}"] if result["test_accuracy"] is not None else []
    if result["val_accuracy"] is not None:
        parts[0] += f" at the best validation epoch {result['best_epoch']} (val {result['val_accuracy']:.2%})"
    parts.append(f"last epoch {result['test_accuracy_last']:.2%}")
    parts.append(f"float {result['float_test_accuracy']:.2%}")
    return ", ".join(parts)


def _versions() -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "numba", "numpy", "triton"):
        with suppress(PackageNotFoundError):  # a run needs none of the kernels' compilers that it does not use
            versions[name] = version(name)
    return {"versions": versions}


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
