"""The launcher `local`: one process per run on this machine."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore

from hydra_plugins.brsweep_launcher._sweep_launcher import SweepLauncher


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


class LocalLauncher(SweepLauncher):
    def do(self, plan: Any, command: str) -> Mapping[str, Any]:
        from brsweep.sweep.local import launch

        return launch(plan, command, **self.options)
