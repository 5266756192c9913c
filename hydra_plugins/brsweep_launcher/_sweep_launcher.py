"""What brsweep's launchers have in common: they compose and check the whole grid, plan what its runs share, and hand
the plan on; what the tasks are and how they are done is brsweep's and knows nothing of Hydra."""

import shlex
import sys
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class SweepLauncher(Launcher):
    def __init__(self, **options: Any) -> None:
        self.options = {k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in options.items()}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Do the runs of the grid. Raises `BrsweepError` where one of them is not finished in the end."""
        from brsweep.config.grid import asks_for_seeds, compose_points, compose_rows
        from brsweep.secrets import masked
        from brsweep.sweep.plan import plan_sweep
        from brsweep.sweep.seeds.rounds import launch_in_rounds

        loader, dry_run = self.hydra_context.config_loader, self.options["dry_run"]
        command = masked(f"python -m brsweep.train {shlex.join(sys.argv[1:])}")
        if asks_for_seeds(self.config, job_overrides):
            rows, seeds = compose_rows(loader, self.config, job_overrides)
            done = launch_in_rounds(rows, seeds, self.engine, command, dry_run=dry_run)
            if not dry_run:
                _close([point.config for point, _ in done])
            return [_returned(point.overrides, result) for point, result in done]
        points = compose_points(loader, self.config, job_overrides)
        plan = plan_sweep(points)
        results = self.engine().launch(plan, command, dry_run=dry_run)
        if not dry_run and all(run.name in results for run in plan.runs):
            _close([point.config for point in points])
        return [_returned(point.overrides, results.get(name)) for point, name in zip(points, plan.names, strict=True)]

    @abstractmethod
    def engine(self) -> Any:
        """What does the tasks of one plan, a `brsweep.sweep.engine.Engine`."""


def _close(configs: Sequence[Any]) -> None:
    """What the sweep comes to."""
    from brsweep.report.answer import close

    close(Path(configs[0]["output_dir"]) / configs[0]["sweep_name"], configs)


def _returned(overrides: Sequence[str], result: Any) -> JobReturn:
    """What a sweeper sees of a run: its validation accuracy, as from the task itself."""
    value = None if result is None else result["val_accuracy"]
    return JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED, _return_value=value)
