"""Launchers of sweeps: `local`, one process per run on this machine.

A launcher composes and checks the whole grid, plans what its runs share, and hands the tasks on; what the tasks are
and how they are done is brsweep's and knows nothing of Hydra.
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class LocalConf:
    """n_jobs: runs at once; null for one, or one per device slot. devices: GPUs as CUDA_VISIBLE_DEVICES names them.
    runs_per_device: for cards that one run doesn't fill. time_limit_min, retries: of each run. in_process: in this
    process, one after the other, for a debugger."""

    _target_: str = "hydra_plugins.brsweep_launcher.launchers.LocalLauncher"
    n_jobs: int | None = None
    devices: list[Any] | None = None
    runs_per_device: int = 1
    fail_fast: bool = False
    retries: int = 0
    time_limit_min: float | None = None
    in_process: bool = False
    dry_run: bool = False


ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalConf, provider="brsweep")


class LocalLauncher(Launcher):
    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Do the runs of the grid. Raises `BrsweepError` where one of them is not finished in the end."""
        from brsweep.config.grid import compose_points
        from brsweep.sweep.launch import plan_sweep
        from brsweep.sweep.local import launch

        points = compose_points(self.hydra_context.config_loader, self.config, job_overrides)
        plan = plan_sweep(points)
        command = f"python -m brsweep.train {shlex.join(sys.argv[1:])}"
        results = launch(plan, command, **self.options)
        return [_returned(point.overrides, results.get(name)) for point, name in zip(points, plan.names, strict=True)]


def _returned(overrides: Sequence[str], result: Any) -> JobReturn:
    """What a sweeper sees of a run: its validation accuracy, as from the task itself."""
    value = None if result is None else result["val_accuracy"]
    return JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED, _return_value=value)
