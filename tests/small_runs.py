"""Small runs for tests: composed as the command composes them, trained in this process or in one that dies."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from process_settings import kept

BASE = (
    "model=tiny", "data=synthetic", "logger=none", "threads=1", "device=cpu",
    "schedule.float_epochs=2", "schedule.warmup_epochs=2", "schedule.qat_epochs=4",
)  # fmt: skip
STEPS = 7
"""Steps of an epoch: 461 training images in batches of 64, the rest dropped."""


def config(*overrides: str, tmp_path: Path) -> dict[str, Any]:
    """The checked configuration of a run of the tiny net on synthetic images, its folders under `tmp_path`."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from brsweep.config.compose import CONF_DIR, VERSION_BASE, checked, register

    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_DIR), **VERSION_BASE):
        cfg = compose("config", overrides=[*BASE, f"output_dir={tmp_path}", *overrides])
    return checked(cfg, overrides)


def train(*overrides: str, tmp_path: Path) -> dict[str, Any]:
    """The run's result; what the run sets for its process is put back."""
    from brsweep.runs.execution import execute

    with kept():
        return execute(config(*overrides, tmp_path=tmp_path))


def folder(result: dict[str, Any]) -> Path:
    """The folder of a finished run."""
    return Path(result["config"]["output_dir"]) / result["sweep"] / result["name"]


def lines(path: Path) -> list[dict[str, Any]]:
    """The records of a jsonl file, without the times."""
    return [_timeless(json.loads(line)) for line in path.read_text().splitlines()]


def outcome(path: Path) -> dict[str, Any]:
    """Everything that a finished run's folder says, without times and places: equal runs have equal ones."""
    import numpy as np
    import torch

    result = _timeless(json.loads((path / "result.json").read_text()))
    for key in ("config", "epoch_time_s", "git_dirty", "git_commit", "digest", "files"):
        del result[key]
    said: dict[str, Any] = {"result": result}
    for name in ("metrics.jsonl", "layers.jsonl"):
        said[name] = lines(path / name)
    for name in ("last.pt", "best.pt"):
        weights = torch.load(path / "checkpoints" / name, weights_only=True)["model"]
        said[name] = {key: (value.dtype, value.numpy().tobytes()) for key, value in weights.items()}
    for file in sorted((path / "snapshots").glob("*.npz")):
        with np.load(file) as arrays:
            said[file.name] = {key: arrays[key].tolist() for key in arrays}
    return said


def _timeless(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "time_s"}


# --- dying -----------------------------------------------------------------------------------------------------------


def kill_at(place: str, call: int, after: bool, *overrides: str, tmp_path: Path) -> None:
    """Train in a process that is killed, as by `kill -9`, at the `call`-th call of `place` (module:name), before it
    begins or after it ends. The process is forked from one that has torch loaded, and nothing computed."""
    context = get_context("forkserver")
    context.set_forkserver_preload(
        ["torch._dynamo", "brsweep.runs.execution", "brsweep.stages.run", "brsweep.config.compose"]
    )
    process = context.Process(target=_train_and_die, args=(place, call, after, overrides, tmp_path))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL, f"{place} was not called {call} times: exit code {process.exitcode}"


def _train_and_die(place: str, call: int, after: bool, overrides: tuple[str, ...], tmp_path: Path) -> None:
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    holder = import_module(module)
    for owner in owners:
        holder = getattr(holder, owner)
    setattr(holder, name, _dying(getattr(holder, name), call, after))
    train(*overrides, tmp_path=tmp_path)


def _dying(function: Callable[..., Any], call: int, after: bool) -> Callable[..., Any]:
    calls = 0

    def dying(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        returned = function(*args, **options)
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return returned

    return dying
