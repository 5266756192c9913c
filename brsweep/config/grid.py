"""The points of a grid, composed and checked, before anything is planned or made.

Hydra takes most of its time to read YAML files and to order their defaults, which depends on the chosen groups alone.
So that is done once for each choice of groups, and a point sets its values on a copy, as Hydra itself does in the end.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from brsweep.config.compose import checked
from brsweep.config.messages import known_keys, one_line, read_overrides
from brsweep.errors import BrsweepError
from brsweep.sweep.plan import Point


def compose_points(loader: ConfigLoaderImpl, master: DictConfig, grid: Sequence[Sequence[str]]) -> list[Point]:
    """A checked configuration for each list of overrides. Raises `BrsweepError` that names the first bad point."""
    typed = OmegaConf.to_container(master.hydra.overrides.task)
    composer = Composer(loader, master.hydra.job.config_name, OmegaConf.to_container(master.hydra.overrides.hydra))
    common = set.intersection(*map(set, grid)) if len(grid) > 1 else set()
    points = []
    for overrides in grid:
        try:
            points.append(Point(tuple(overrides), checked(composer.compose(overrides), typed)))
        except Exception as error:
            line = str(error) if isinstance(error, BrsweepError) else one_line(error, known_keys("config"))
            if line is None:
                raise
            own = " ".join(override for override in overrides if override not in common)
            raise BrsweepError(f"{line} (at {own or 'every point'}; nothing was started)") from None
    return points


class Composer:
    """Configurations without the node `hydra`, by their overrides. hydra: overrides of Hydra's own, for all of them."""

    def __init__(self, loader: ConfigLoaderImpl, config_name: str, hydra: Sequence[str] = ()) -> None:
        self._loader, self._config_name, self._hydra = loader, config_name, list(hydra)
        self._by_groups: dict[tuple[str, ...], DictConfig] = {}
        self._is_group: dict[str, bool] = {}

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        read = read_overrides(overrides)
        groups = tuple(o.input_line for o in read if self._chooses_group(o))
        if groups not in self._by_groups:
            cfg = self._loader.load_configuration(self._config_name, [*self._hydra, *groups], RunMode.RUN)
            with open_dict(cfg):
                del cfg["hydra"]
            self._by_groups[groups] = cfg
        cfg = copy.deepcopy(self._by_groups[groups])
        ConfigLoaderImpl._apply_overrides_to_config([o for o in read if not self._chooses_group(o)], cfg)
        return cfg

    def _chooses_group(self, override: Override) -> bool:
        """By Hydra's rule: the key is a folder, and the value no mapping."""
        key = override.key_or_group
        if key not in self._is_group:
            found = self._loader.get_group_options(key, None, self._config_name, self._hydra)
            self._is_group[key] = bool(found)
        return self._is_group[key] and not isinstance(override.value(), dict)
