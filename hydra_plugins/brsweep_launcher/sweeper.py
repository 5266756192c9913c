"""The grid: the product of what was typed, of a preset's values, and of its rows, whose values vary together.

    hydra.sweeper.params    {reg.lambda_act: [0, 0.1, 1], seed: [42, 43, 44]}    each key's values with each other's
    hydra.sweeper.rows      [{quant: w2a2, reg.lambda_act: 1}, {quant: w4a4, reg.lambda_act: 0.1}]    one row at a time

What is typed replaces the preset's values of the same key, in rows as well. Nothing is composed here: the launcher
composes each point once.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import RangeSweep
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from brsweep.config.checks import choice, each, mapping
from brsweep.config.fields import by
from brsweep.errors import BrsweepError

TARGET = "hydra_plugins.brsweep_launcher.sweeper.GridSweeper"
MOST_POINTS = 100_000


@dataclass
class GridConf:
    _target_: Any = by(choice(TARGET), TARGET)
    params: Any = by(mapping, {})
    rows: Any = by(each(mapping), [])


ConfigStore.instance().store(group="hydra/sweeper", name="grid", node=GridConf, provider="brsweep")


class GridSweeper(Sweeper):
    def __init__(self, params: Mapping[str, Any] | None, rows: Sequence[Mapping[str, Any]] | None) -> None:
        self.params, self.rows = params or {}, rows or []

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        self.hydra_context = hydra_context
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Launch every point of the grid; raises where the launcher says that one failed."""
        returned = self.launcher.launch(self.points(arguments), initial_job_idx=0)
        for job in returned:
            job.return_value  # noqa: B018  raises the job's exception, where a launcher kept one
        return returned

    def points(self, arguments: list[str]) -> list[list[str]]:
        """A list of overrides for each point, the last key's values changing fastest."""
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        typed = parser.parse_overrides(arguments)
        typed_keys = {override.get_key_element().lstrip("+") for override in typed}
        preset = parser.parse_overrides(
            [f"{key}={_listed(key, value)}" for key, value in self.params.items() if key not in typed_keys]
        )
        rows = [
            tuple(f"{key}={_written(value)}" for key, value in row.items() if key not in typed_keys)
            for row in self.rows
        ]
        rows = list(dict.fromkeys(rows))
        count = math.prod([max(1, len(rows)), *(_count(override) for override in (*preset, *typed))])
        if count > MOST_POINTS:
            raise BrsweepError(f"the grid has {count:,} points, more than {MOST_POINTS:,}: sweep over fewer values")
        axes: list[Sequence[tuple[str, ...]]] = [rows] if rows else []
        axes += [[(text,) for text in _spelled(override)] for override in (*preset, *typed)]
        return [list(itertools.chain(*point)) for point in itertools.product(*axes)]


def _count(override: Any) -> int:
    """How many values an override lists, before any is spelled out."""
    if not override.is_sweep_override():
        return 1
    values = override.value()
    if isinstance(values, RangeSweep):
        if not values.step or not all(map(math.isfinite, (values.start, values.stop, values.step))):
            raise BrsweepError(f"{override.input_line}: a range has two ends and a step other than 0")
        return max(0, math.ceil((values.stop - values.start) / values.step))
    if not override.is_discrete_sweep():
        raise BrsweepError(
            f"{override.input_line}: a grid has single values; give a list or range(...), or search an interval: "
            "python -m brsweep.search"
        )
    return sum(1 for _ in override.sweep_iterator())


def _spelled(override: Any) -> Iterator[str]:
    """The override as typed, or one for each of the values that it lists."""
    key = override.get_key_element()
    if override.is_delete():
        yield override.input_line
    elif not override.is_sweep_override():
        yield f"{key}={override.get_value_element_as_str()}"
    else:
        yield from (f"{key}={value}" for value in override.sweep_string_iterator())


def _listed(key: str, value: Any) -> str:
    """A preset's values as one would type them: a list, or text in Hydra's own words, such as range(1,4)."""
    values = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    if values is None or values in ([], {}, ""):
        raise BrsweepError(f"hydra.sweeper.params.{key}: has no value; give a list, [1, 2]")
    return ",".join(_written(one) for one in values) if isinstance(values, (list, tuple)) else str(values)


def _written(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
