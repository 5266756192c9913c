"""Train one run, or with --multirun a sweep of them: `python -m brsweep.train quant=w2a2 reg.lambda_act=10`.

Hydra composes conf/ and the command line; from there on plain, checked data goes down, and nothing below imports
Hydra. Hydra makes no folder and writes no file for a run: a run's folder is named by its content.
"""

from __future__ import annotations

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from brsweep.config.command import run_command, stop
from brsweep.config.compose import CONF_DIR, checked, register
from brsweep.errors import BrsweepError

register()


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")
def task(cfg: DictConfig) -> float | None:
    """One run of Hydra's: check, train, and return the validation accuracy (the test set chooses nothing)."""
    hydra_config = HydraConfig.get()
    try:
        config = checked(cfg, hydra_config.overrides.task)
        from brsweep.runs.execution import execute

        return execute(config)["val_accuracy"]
    except BrsweepError as error:
        if hydra_config.mode == RunMode.RUN:
            stop(str(error))  # an exception would have Hydra print a line of its own first
        raise


def main() -> None:
    run_command(task, "config")


if __name__ == "__main__":
    main()
