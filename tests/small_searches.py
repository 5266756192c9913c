"""Small searches for tests: asked as the command asks them, with real runs or with pretended ones."""

from __future__ import annotations

import json
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import small_runs
from process_settings import kept

SPACE = (
    "search.space.qat_optimizer=null", "search.space.reg.lambda_act.high=1e4", "search.random_trials=2",
    "search.trials=4", "search.prune_after_trials=1", "search.prune_after_epochs=1", "sweep_name=lambdas", "seed=4",
    "data.train_images=320", "data.test_images=40", "kernels=reference",
)  # fmt: skip
"""Lambdas alone, so that the float stage and the warm-up are trained once. Under this seed trials end apart."""


def question(*overrides: str, tmp_path: Path):
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from brsweep.config.compose import CONF_DIR, VERSION_BASE
    from brsweep.search.__main__ import question, register_search

    register_search()
    GlobalHydra.instance().clear()
    typed = [*small_runs.BASE, *SPACE, f"output_dir={tmp_path}", *overrides]
    with initialize_config_dir(str(CONF_DIR), **VERSION_BASE):
        return question(compose("search", overrides=typed), typed)


def search(*overrides: str, tmp_path: Path) -> None:
    """What the runs set for their process is put back."""
    from brsweep.search.loop import search

    with kept():
        search(question(*overrides, tmp_path=tmp_path))


def kill_at(place: str, call: int, *overrides: str, tmp_path: Path) -> None:
    """Search in a process that is killed, as by `kill -9`, after the `call`-th call of `place` (module:name)."""
    process = get_context("forkserver").Process(target=_search_and_die, args=(place, call, overrides, tmp_path))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL, f"{place} was not called {call} times: exit code {process.exitcode}"


def _search_and_die(place: str, call: int, overrides: tuple[str, ...], tmp_path: Path) -> None:
    module, _, name = place.partition(":")
    holder = import_module(module)
    setattr(holder, name, small_runs._dying(getattr(holder, name), call, True))
    search(*overrides, tmp_path=tmp_path)


def pretend(accuracy: Callable[[dict[str, Any], int], float], fails: Callable[[dict[str, Any]], bool]) -> Callable:
    """A stand-in for `execute` that trains nothing: the last stage's epochs go to the watch with these accuracies, are
    kept in metrics.jsonl, and a finished run answers at once."""
    from brsweep.runs.execution import Run
    from brsweep.tracking.jsonl import JsonLines, read
    from brsweep.training.loop import Diverged

    def execute(config: dict[str, Any], watch: Callable) -> dict[str, Any]:
        run, schedule = Run.of(config), config["schedule"]
        if run.folder.result() is not None:
            return run.folder.result()
        run.folder.path.mkdir(parents=True, exist_ok=True)
        if fails(config):
            raise Diverged("the loss is not a number")
        metrics = JsonLines(run.folder.path / "metrics.jsonl")
        try:
            for record in read(metrics.path):
                watch(record)
            for epoch in range(schedule["warmup_epochs"] + 1 + len(read(metrics.path)), schedule["qat_epochs"] + 1):
                record = {"stage": "br", "epoch": epoch, "epochs": schedule["qat_epochs"]}
                metrics.append(record | {"val_accuracy": accuracy(config, epoch)})
                watch(read(metrics.path)[-1])
        finally:
            metrics.close()
        result = {"status": "finished", "val_accuracy": max(r["val_accuracy"] for r in read(metrics.path))}
        run.folder.write_result(result)
        return result

    return execute


def table(sweep: Path) -> list[dict[str, Any]]:
    """What the study says of each trial that counts, in order, read without Optuna."""
    with closing(sqlite3.connect(sweep / "study.db")) as db:
        trials = []
        for trial_id, state in db.execute("select trial_id, state from trials order by number"):

            def rows(columns: str, name: str, key: int = trial_id) -> list[tuple]:
                return db.execute(f"select {columns} from {name} where trial_id=? order by 1", (key,)).fetchall()

            about = {key: json.loads(text) for key, text in rows("key, value_json", "trial_user_attributes")}
            about.pop("repeats", None)
            if state != "FAIL":  # killed
                point, value = rows("param_name, param_value", "trial_params"), rows("value", "trial_values")
                seen = rows("step, intermediate_value", "trial_intermediate_values")
                trials.append({"state": state, "point": point, "value": value, "epochs": seen, "about": about})
    return trials
