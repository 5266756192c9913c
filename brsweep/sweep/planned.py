"""A run before anything is trained: what it is made of, what it is called, where it lies, what is known of it already.

Needs no torch, so a sweep is planned, and a finished one answers, without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brsweep import targets
from brsweep.errors import BrsweepError
from brsweep.stages.plan import Stage, identity, plan, run_code
from brsweep.stages.signature import digest
from brsweep.sweep.describe import readable_name
from brsweep.sweep.folder import RunFolder

DATA_OPTIONS = ("val_fraction", "split_seed", "crop_padding", "flip", "batch_size")


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
        sources = {} if sources is None else sources
        options = digest(config["data"])
        if options not in sources:
            sources[options] = data_source(config)
            sources[options].prepare()
        source = sources[options]
        data_identity = source.identity()
        name = f"{readable_name(config)}-{identity(config, data_identity)[:8]}"
        folder = RunFolder(Path(config["output_dir"]) / config["sweep_name"] / name)
        return cls(config, source, plan(config, data_identity), name, folder, run_code(config))

    @property
    def full_name(self) -> str:
        return f"{self.config['sweep_name']}/{self.name}"


def data_source(config: Mapping[str, Any]) -> Any:
    node = {key: value for key, value in config["data"].items() if key not in DATA_OPTIONS}
    return targets.build("data", node)


def shared_folder(stage: Stage) -> str:
    """Where, in the sweep's folder, a shared stage that the launcher trains by itself keeps its records."""
    return f"stages/{stage.name}-{stage.signature}"


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


def is_stale(run: Run) -> bool:
    stored = run.folder.result()
    return stored is not None and stored["code"] != run.code
