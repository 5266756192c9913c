"""The launcher `local`: one process per run on this machine."""

from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore

from brsweep.config.checks import choice, device_list, maybe, number, whole, yes_no
from brsweep.config.fields import by
from hydra_plugins.brsweep_launcher._sweep_launcher import SweepLauncher

TARGET = "hydra_plugins.brsweep_launcher.launchers.LocalLauncher"
MOST_AT_ONCE = 1024


@dataclass
class LocalConf:
    """n_jobs: runs at once; null for one, or one per device slot. devices: GPUs as CUDA_VISIBLE_DEVICES names them.
    runs_per_device: for cards that one run doesn't fill. time_limit_min, retries: of each run. in_process: in this
    process, one after the other, for a debugger."""

    _target_: Any = by(choice(TARGET), TARGET)
    n_jobs: Any = by(maybe(whole(1, MOST_AT_ONCE)), None)
    devices: Any = by(maybe(device_list), None)
    runs_per_device: Any = by(whole(1, MOST_AT_ONCE), 1)
    fail_fast: Any = by(yes_no, False)
    retries: Any = by(whole(0, 1000), 0)
    time_limit_min: Any = by(maybe(number(0, above=True)), None)
    in_process: Any = by(yes_no, False)
    dry_run: Any = by(yes_no, False)


ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalConf, provider="brsweep")


class LocalLauncher(SweepLauncher):
    def engine(self) -> Any:
        from brsweep.sweep.local import LocalEngine, slots

        asked = self.options
        limit = asked["time_limit_min"]
        return LocalEngine(
            slots(asked["n_jobs"], asked["devices"], asked["runs_per_device"]),
            fail_fast=asked["fail_fast"],
            retries=asked["retries"],
            time_limit_s=None if limit is None else 60 * limit,
            in_process=asked["in_process"],
        )
