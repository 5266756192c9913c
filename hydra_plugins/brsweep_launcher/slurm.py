"""The launcher `slurm`: a job per run on a cluster, by submitit."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from hydra_plugins.brsweep_launcher._sweep_launcher import SweepLauncher


@dataclass
class SlurmConf:
    """partition to mem_gb: of each job, in sbatch's words; null leaves the site's default. timeout_min: a job that
    needs longer is requeued signal_delay_s before its end, at most max_num_timeout times, and goes on from its last
    epoch. array_parallelism: jobs of one array that may run at once. max_array_size: tasks in one array; null for what
    the site allows. setup: lines of shell before the training. additional_parameters: further options of sbatch.
    poll_s: seconds between looks at the queue. wait: false submits and returns; the same command attaches later."""

    _target_: str = "hydra_plugins.brsweep_launcher.slurm.SlurmLauncher"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gres: str | None = None
    gpus_per_node: int | None = None
    cpus_per_task: int | None = None
    mem_gb: float | None = None
    timeout_min: int = 60
    signal_delay_s: int = 120
    max_num_timeout: int = 10
    array_parallelism: int = 256
    max_array_size: int | None = None
    setup: list[str] = field(default_factory=list)
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    poll_s: float = 10.0
    wait: bool = True
    dry_run: bool = False


ConfigStore.instance().store(group="hydra/launcher", name="slurm", node=SlurmConf, provider="brsweep")


class SlurmLauncher(SweepLauncher):
    def do(self, plan: Any, command: str) -> Mapping[str, Any]:
        from brsweep.sweep.slurm.launch import launch

        plain = {key: OmegaConf.to_object(v) if OmegaConf.is_config(v) else v for key, v in self.options.items()}
        return launch(plan, command, **plain)
