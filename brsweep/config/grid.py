"""The points of a grid, composed and checked, before anything is planned or made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf, open_dict

from brsweep.config.compose import checked
from brsweep.config.messages import known_keys, one_line
from brsweep.errors import BrsweepError
from brsweep.sweep.launch import Point


def compose_points(loader: ConfigLoader, master: DictConfig, grid: Sequence[Sequence[str]]) -> list[Point]:
    """A checked configuration for each list of overrides. Raises `BrsweepError` that names the first bad point."""
    typed = OmegaConf.to_container(master.hydra.overrides.task)
    return [Point(tuple(overrides), _compose(loader, master, overrides, typed)) for overrides in grid]


def _compose(
    loader: ConfigLoader, master: DictConfig, overrides: Sequence[str], typed: Sequence[str]
) -> dict[str, Any]:
    try:
        cfg = loader.load_sweep_config(master, list(overrides))
        with open_dict(cfg):
            del cfg["hydra"]
        return checked(cfg, typed)
    except Exception as error:
        line = str(error) if isinstance(error, BrsweepError) else one_line(error, known_keys("config"))
        if line is None:
            raise
        raise BrsweepError(f"{line} (at {' '.join(overrides)}; nothing was started)") from None
