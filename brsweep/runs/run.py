"""A run before anything is trained: what it is made of, what it is called, where it lies, what is known of it already.

Needs no torch, so a sweep is planned, and a finished one answers, without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brsweep.errors import BrsweepError
from brsweep.runs.folder import Damaged, RunFolder
from brsweep.runs.words import readable_name
from brsweep.stages.plan import Stage, identity, plan, run_code
from brsweep.stages.signature import digest
from brsweep.stages.source import data_source


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
    def of(cls, config: Mapping[str, Any], sources: dict[str, Any] | None = None) -> Run:
        """Prepare the data (its identity is part of the run's) and plan the stages.

        sources: data sources that are prepared already, by their options; new ones are added.
        """
        _check_places(Path(config["output_dir"]), config["sweep_name"], Path(config["store_dir"]))
        sources = {} if sources is None else sources
        options = digest([config["data"], config.get("quick", False)])
        if options not in sources:
            sources[options] = data_source(config)
            sources[options].prepare()
        source = sources[options]
        data_identity = source.identity()
        sweep = Path(config["output_dir"]) / config["sweep_name"]
        name = _name(sweep, readable_name(config), identity(config, data_identity)[:8])
        folder = RunFolder(sweep / name)
        return cls(config, source, plan(config, data_identity), name, folder, run_code(config))

    @property
    def full_name(self) -> str:
        return f"{self.config['sweep_name']}/{self.name}"


def _name(sweep: Path, words: str, shortened: str) -> str:
    """The words and the start of the run's identity; where an earlier version began it under other words, those."""
    name = f"{words}-{shortened}"
    if (sweep / name).is_dir():
        return name
    return next((path.name for path in sorted(sweep.glob(f"*-{shortened}")) if path.is_dir()), name)


def _check_places(output: Path, sweep_name: str, store: Path) -> None:
    """Raise `BrsweepError` where runs and stored stages would lie in each other."""
    root, sweep = store.resolve(), (output / sweep_name).resolve()
    if root == sweep or root in sweep.parents:
        raise BrsweepError(
            f"sweep_name={sweep_name}: its folder {sweep} would lie in the store of shared stages, store_dir={store}; "
            f"choose another sweep_name, or a store_dir that holds no runs"
        )


def shared_folder(stage: Stage) -> str:
    """Where, in the sweep's folder, a shared stage that the launcher trains by itself keeps its records."""
    return f"stages/{stage.name}-{stage.signature}"


def finished_result(run: Run) -> dict[str, Any] | None:
    """The stored result if it answers for this configuration under this code; `stale` says what becomes of one that
    does not. Raises `BrsweepError` for such a one where nothing was chosen."""
    if run.config["force"] or (run.config["stale"] == "retrain" and is_stale(run)):
        return None
    stored = run.folder.result()
    if stored is None or stored["code"] == run.code or run.config["stale"] == "keep":
        return stored
    raise BrsweepError(
        f"{run.folder.path}: finished under other training code ({stored['code']}, this is {run.code}); stale=keep "
        f"takes its result, stale=retrain trains it again"
    )


def finished_elsewhere(run: Run, sweeps: Sequence[Path]) -> RunFolder | None:
    """The folder of the same run in another of `sweeps`, finished under this code; None where there is none."""
    if run.config["force"]:
        return None
    for folder in (RunFolder(sweep / run.name) for sweep in sweeps):
        try:
            stored = None if folder.path == run.folder.path else folder.result()
        except Damaged:
            continue
        origin = run.code, run.source.identity()
        same_origin = stored is not None and (stored.get("code"), stored.get("data")) == origin
        if same_origin and identity(stored["config"], stored["data"]) == identity(run.config, stored["data"]):
            return folder
    return None


def sweeps_in(output: Path) -> list[Path]:
    """The folders under an output_dir that hold runs, by name: its own, and those of sweeps named by a path."""
    nested = {path.parent for path in output.glob("*/*/sweep.json")}
    return sorted({path for path in output.iterdir() if path.is_dir()} | nested) if output.is_dir() else []


def is_stale(run: Run) -> bool:
    """Whether there is a result that does not answer for the run: of other training code, or a damaged one."""
    try:
        stored = run.folder.result()
    except Damaged:
        return True
    return stored is not None and stored["code"] != run.code
