"""The points of a grid, composed and checked, before anything is planned or made.

Hydra takes most of its time to read YAML files and to order their defaults, which depends on the chosen groups alone.
So that is done once for each choice of groups, and a point sets its values on a copy, as Hydra itself does in the end.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from brsweep.config.compose import checked, plain
from brsweep.config.fields import check_fields
from brsweep.config.messages import known_keys, one_line, read_overrides
from brsweep.config.schema import Sweep
from brsweep.errors import BrsweepError
from brsweep.sweep.plan import Point

AUTO = "auto"


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


def asks_for_seeds(master: DictConfig, grid: Sequence[Sequence[str]]) -> bool:
    """Whether the launcher is to find how many seeds each point gets. Raises `BrsweepError` where it is for some of
    the points alone, and where `sweep.seeds` is set and has no effect, or several values."""
    found = {_seed(point, master) == AUTO for point in grid}
    said = {tuple(word for word in point if word.lstrip("+").startswith("sweep.")) for point in grid}
    if len(found) > 1:
        raise BrsweepError(f"seed={AUTO}: stands alone; give it, or a list of seeds")
    if len(said) > 1:
        raise BrsweepError("sweep.seeds: one for the whole sweep; launch a sweep for each")
    if found == {False} and said != {()}:
        raise BrsweepError(f"{said.pop()[0]}: has an effect with seed={AUTO} alone")
    return found == {True}


def compose_rows(
    loader: ConfigLoaderImpl, master: DictConfig, grid: Sequence[Sequence[str]]
) -> tuple[list[list[Point]], dict[str, Any]]:
    """For each point of a grid with seed=auto its points at each seed that it may get, in order; and `sweep.seeds`.
    Raises `BrsweepError` that names the first bad point."""
    composer = Composer(loader, master.hydra.job.config_name, OmegaConf.to_container(master.hydra.overrides.hydra))
    bare = [[word for word in point if _key(word) != "seed"] for point in grid]
    seeds = check_fields(Sweep, plain(composer.compose(bare[0]).sweep), "sweep.")["seeds"]
    every = range(seeds["first"], seeds["first"] + seeds["most"])
    points = compose_points(loader, master, [[*point, f"seed={seed}"] for point in bare for seed in every])
    return [points[i : i + len(every)] for i in range(0, len(points), len(every))], seeds


def _seed(point: Sequence[str], master: DictConfig) -> str:
    said = [word.partition("=")[2] for word in point if _key(word) == "seed"]
    return (said or [str(master.get("seed"))])[-1]


def _key(word: str) -> str:
    return word.lstrip("+").partition("=")[0]


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
