"""What each job of a sweep asks of the cluster, in sbatch's words, as submitit takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Request:
    """One job's share: the options of `SlurmConf` that go to sbatch; None leaves the site's default."""

    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    gres: str | None
    gpus_per_node: int | None
    cpus_per_task: int | None
    mem_gb: float | None
    timeout_min: int
    signal_delay_s: int
    max_num_timeout: int
    array_parallelism: int
    setup: Sequence[str]
    additional_parameters: Mapping[str, Any]

    def parameters(self, job_name: str, after: str | None) -> dict[str, Any]:
        """For submitit's `SlurmExecutor.update_parameters`. after: the job that has to end well first.

        A job whose parent fails leaves the queue at once. It may be requeued, since it goes on from its checkpoint.
        srun has not taken the CPUs of a job from sbatch since SLURM 22.05, so it is told; and so are the training's
        threads, since not every site binds a job to its CPUs.
        """
        cpus = self.cpus_per_task
        threads = [] if cpus is None else [f"export OMP_NUM_THREADS={cpus}"]
        asked = {
            "job_name": job_name,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "gres": self.gres,
            "gpus_per_node": self.gpus_per_node,
            "cpus_per_task": cpus,
            "mem": None if self.mem_gb is None else f"{round(self.mem_gb * 1024)}M",
            "time": self.timeout_min,
            "signal_delay_s": self.signal_delay_s,
            "array_parallelism": self.array_parallelism,
            "stderr_to_stdout": True,
            "dependency": None if after is None else f"afterok:{after}",
            "setup": [*threads, *self.setup] or None,
            "srun_args": None if cpus is None else [f"--cpus-per-task={cpus}"],
            "additional_parameters": {"requeue": True, "kill-on-invalid-dep": "yes"} | dict(self.additional_parameters),
        }
        return {key: value for key, value in asked.items() if value is not None}
