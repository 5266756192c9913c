"""Train one run, or with --multirun a sweep of them: `python -m brsweep.train quant=w2a2 reg.lambda_act=10`.

Hydra composes conf/ and the command line; from there on plain, checked data goes down, and nothing below imports
Hydra.
"""

from __future__ import annotations

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from brsweep.config.command import run_command
from brsweep.config.compose import CONF_DIR, VERSION_BASE, checked, register
from brsweep.output import reader_may_leave

register()


@hydra.main(config_path=str(CONF_DIR), config_name="config", **VERSION_BASE)
def task(cfg: DictConfig) -> None:
    """One run: check, and train. A sweep's runs are its launcher's."""
    config = checked(cfg, HydraConfig.get().overrides.task)
    from brsweep.runs.execution import execute

    execute(config)
    if config.get("quick"):
        from brsweep.report.answer import close

        close(Path(config["output_dir"]) / config["sweep_name"], [config])


def main() -> None:
    run_command(task, "config")


if __name__ == "__main__":
    with reader_may_leave():
        main()
