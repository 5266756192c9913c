"""Search lambdas, learning rate and weight decay: `python -m brsweep.search quant=w2a2 search.trials=20`.

Every key of `brsweep.train` is taken as well, and those under `search` say what is searched and how (conf/search.yaml).
The same command again goes on where the last one ended.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from brsweep.config.command import known_keys, run_command
from brsweep.config.compose import CONF_DIR, VERSION_BASE, checked, plain, register
from brsweep.config.fields import check_fields
from brsweep.config.messages import one_line
from brsweep.errors import BrsweepError
from brsweep.output import reader_may_leave
from brsweep.search.settings import Question, Search


@cache
def register_search() -> None:
    """Put the schemas where conf/'s defaults lists find them."""
    register()
    ConfigStore.instance().store(group="schema", name="search", node=Search)


register_search()


@hydra.main(config_path=str(CONF_DIR), config_name="search", **VERSION_BASE)
def task(cfg: DictConfig) -> None:
    _check_optuna()
    from brsweep.search.loop import search

    typed = HydraConfig.get().overrides
    elsewhere = [override for override in typed.hydra if override.startswith("hydra.searchpath=")]
    search(question(cfg, [*elsewhere, *typed.task]))


def question(cfg: DictConfig, typed: Sequence[str]) -> Question:
    """cfg: composed from conf/search.yaml and what was `typed`. Raises `BrsweepError`."""
    with open_dict(cfg):
        settings = Search(**check_fields(Search, plain(cfg.pop("search")), "search."))

    def configured(point: Mapping[str, Any]) -> dict[str, Any]:
        return _configured(cfg, typed, point)

    def command(point: Mapping[str, Any], seeds: Sequence[int] = ()) -> list[str]:
        return train_command(typed, configured(point)["sweep_name"], point, seeds)

    return Question(settings, ["python", "-m", "brsweep.search", *typed], configured, command)


def train_command(typed: Sequence[str], sweep_name: str, point: Mapping[str, Any], seeds: Sequence[int]) -> list[str]:
    """The command that trains at a point of the search that was `typed`."""
    said = {"sweep_name", *point, *(["seed"] if seeds else [])}
    keys = {override: re.split("[=@]", override.lstrip("+~"))[0] for override in typed}
    rest = [o for o in typed if keys[o] not in said and keys[o].split(".")[0] != "search"]
    overrides = [*rest, f"sweep_name={sweep_name}", *(f"{key}={_word(value)}" for key, value in point.items())]
    head = ["python", "-m", "brsweep.train", *(["--multirun"] if seeds else [])]
    return [*head, *overrides, *([f"seed={','.join(map(str, seeds))}"] if seeds else [])]


def _word(value: Any) -> str:
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def _configured(cfg: DictConfig, typed: Sequence[str], point: Mapping[str, Any]) -> dict[str, Any]:
    cfg = copy.deepcopy(cfg)
    try:
        for key, value in point.items():
            OmegaConf.update(cfg, key, value)
    except OmegaConfBaseException as error:
        raise BrsweepError(one_line(error, known_keys("config"))) from None
    return checked(cfg, typed)


def _check_optuna() -> None:
    try:
        found = version("optuna")
    except PackageNotFoundError:
        raise BrsweepError("brsweep.search needs Optuna: pip install brsweep[hpo]") from None
    if tuple(int(part) for part in found.split(".")[:2]) < (4, 9):
        raise BrsweepError(f"brsweep.search needs Optuna 4.9 or newer, this is {found}: pip install brsweep[hpo]")


def main() -> None:
    run_command(task, "search", sweeps=False)


if __name__ == "__main__":
    with reader_may_leave():
        main()
