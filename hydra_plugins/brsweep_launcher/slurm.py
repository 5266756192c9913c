"""The launcher `slurm`: a job per run on a cluster, by submitit."""

from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore

from brsweep.config.checks import choice, each, mapping, maybe, number, text, whole, yes_no
from brsweep.config.fields import by
from hydra_plugins.brsweep_launcher._sweep_launcher import SweepLauncher

TARGET = "hydra_plugins.brsweep_launcher.slurm.SlurmLauncher"


@dataclass
class SlurmConf:
    """partition to mem_gb: of each job, in sbatch's words; null leaves the site's default. timeout_min: a job that
    needs longer is requeued signal_delay_s before its end, at most max_num_timeout times, and goes on from its last
    epoch. array_parallelism: jobs of one array that may run at once. max_array_size: tasks in one array; null for what
    the site allows. setup: lines of shell before the training. additional_parameters: further options of sbatch.
    poll_s: seconds between looks at the queue. wait: false submits and returns; the same command attaches later."""

    _target_: Any = by(choice(TARGET), TARGET)
    partition: Any = by(maybe(text), None)
    account: Any = by(maybe(text), None)
    qos: Any = by(maybe(text), None)
    constraint: Any = by(maybe(text), None)
    gres: Any = by(maybe(text), None)
    gpus_per_node: Any = by(maybe(whole(0, 1024)), None)
    cpus_per_task: Any = by(maybe(whole(1, 4096)), None)
    mem_gb: Any = by(maybe(number(0, above=True, below=1e6)), None)
    timeout_min: Any = by(whole(1, 10**7), 60)
    signal_delay_s: Any = by(whole(0, 10**6), 120)
    max_num_timeout: Any = by(whole(0, 10**6), 10)
    array_parallelism: Any = by(whole(1, 10**6), 256)
    max_array_size: Any = by(maybe(whole(1, 10**7)), None)
    setup: Any = by(each(text), [])
    additional_parameters: Any = by(mapping, {})
    poll_s: Any = by(number(0, below=1e6), 10.0)
    wait: Any = by(yes_no, True)
    dry_run: Any = by(yes_no, False)


ConfigStore.instance().store(group="hydra/launcher", name="slurm", node=SlurmConf, provider="brsweep")


class SlurmLauncher(SweepLauncher):
    def engine(self) -> Any:
        from brsweep.sweep.slurm.cluster import Request
        from brsweep.sweep.slurm.engine import SlurmEngine

        asked = {key: value for key, value in self.options.items() if key != "dry_run"}
        own = [asked.pop(key) for key in ("max_array_size", "poll_s", "wait")]
        return SlurmEngine(Request(**asked), *own)
