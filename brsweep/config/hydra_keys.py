"""Hydra's own keys: which ones brsweep goes by, and what to say of those that would have no effect."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable

from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import DictConfig, ListConfig, OmegaConf

from brsweep.config.compose import CONF_DIR, plain
from brsweep.config.fields import check_fields
from brsweep.config.parts import PARTS
from brsweep.errors import BrsweepError
from brsweep.secrets import NAME

USED = ("hydra.launcher", "hydra.sweeper", "hydra.searchpath", "hydra.mode", "hydra.help")
GROUPS = ("hydra/launcher", "hydra/sweeper", "hydra/help")

_FOLDERS = "brsweep names its folders itself: set output_dir=... or sweep_name=..."
INSTEAD = {
    "run": _FOLDERS,
    "sweep": _FOLDERS,
    "output_subdir": _FOLDERS,
    "job.chdir": f"a run stays in the folder where it was started; {_FOLDERS}",
    "job.name": "a run is named by what it holds: set sweep_name=...",
    "job.env_set": "set the variable in the shell, before the command",
    "job.env_copy": "set the variable in the shell, before the command",
    "callbacks": "brsweep calls none; a tracker of one's own is logger=...",
    "job_logging": "a run's log is its folder's console.log",
    "hydra_logging": "a run's log is its folder's console.log",
    "verbose": "a run's log is its folder's console.log",
}
_SILENT = {"version": 1, "root": None, "disable_existing_loggers": False}
UNUSED = {
    "run": {"dir": "."},
    "sweep": {"dir": ".", "subdir": "."},
    "output_subdir": None,
    "job.chdir": False,
    "job.env_set": {},
    "job.env_copy": [],
    "callbacks": {},
    "job_logging": _SILENT,
    "hydra_logging": _SILENT,
    "verbose": False,
}
"""Keys without effect, as conf/config.yaml leaves them."""


def check_typed(typed: Iterable[Override]) -> None:
    """Raise `BrsweepError` for an override that would have no effect, or not the one that it seems to have."""
    for override in typed:
        key, value = override.key_or_group, override.value()
        if any(NAME.search(part) for part in key.split(".")[-1:]) and value not in (None, ""):
            raise BrsweepError(f"{key}: a key or password is no option, as options are written to files; set the "
                               "variable in the shell (W&B: WANDB_API_KEY, or wandb login)")  # fmt: skip
        if key.startswith(("hydra.", "hydra/")):
            _check_hydra_key(override, key)
        if key in (*PARTS, "hydra.launcher", "hydra.sweeper") and value == {}:
            raise BrsweepError(f"{key}={{}}: sets nothing; leave it out")
        group = "/" in key or (CONF_DIR / key).is_dir()
        if group and isinstance(value, str) and (value.startswith("/") or ".." in value.split("/")):
            raise BrsweepError(f"{key}={value}: a group is chosen by its option's name, without a path")
        if isinstance(override._value, IntervalSweep):
            raise BrsweepError(f"{override.input_line}: a grid has single values; give a list or range(...), or "
                               "search an interval: python -m brsweep.search")  # fmt: skip


def _check_hydra_key(override: Override, key: str) -> None:
    name = key.removeprefix("hydra.").removeprefix("hydra/")
    for start, cure in INSTEAD.items():
        if name == start or name.startswith((f"{start}.", f"{start}/")):
            raise BrsweepError(f"{key}: has no effect here; {cure}")
    for group in ("launcher", "sweeper"):
        if key == f"hydra.{group}" and isinstance(override.value(), str):
            raise BrsweepError(f"{key}={override.value()}: choose one with a slash, hydra/{group}={override.value()}")
        if key == f"hydra/{group}" and override.is_delete():
            raise BrsweepError(f"~{key}: a sweep has one; choose another with {key}=...")
    if key.startswith("hydra/") and key.split("@")[0] not in GROUPS:
        raise BrsweepError(f"{key}: has no effect here; {_closest(key)}")
    if key.startswith("hydra.") and not any(key == used or key.startswith(f"{used}.") for used in USED):
        raise BrsweepError(f"{key}: has no effect here; {_closest(key)}")


def _closest(key: str) -> str:
    close = difflib.get_close_matches(key, (*USED, *GROUPS), n=1, cutoff=0.7)
    return f"did you mean {close[0]}?" if close else f"of Hydra's keys brsweep goes by {', '.join((*USED, *GROUPS))}"


def check_hydra(cfg: DictConfig) -> None:
    """Raise `BrsweepError` unless launcher and sweeper are brsweep's, their options fit, and what a YAML file sets of
    Hydra has an effect. The options are replaced by what their checks make of them."""
    for group in ("launcher", "sweeper"):
        node = cfg.hydra[group]
        shape = OmegaConf.get_type(node) if isinstance(node, DictConfig) else None
        if not dataclasses.is_dataclass(shape) or not shape.__module__.startswith("hydra_plugins.brsweep_launcher"):
            options = {"launcher": "local or slurm", "sweeper": "grid"}[group]
            raise BrsweepError(f"hydra/{group}: brsweep's own is needed, {options}, or a preset made of it")
        for key, value in check_fields(shape, plain(node), f"hydra.{group}.").items():
            OmegaConf.update(cfg, f"hydra.{group}.{key}", value, merge=False)
    for key, left in UNUSED.items():
        found = OmegaConf.select(cfg, f"hydra.{key}")
        found = OmegaConf.to_container(found, resolve=False) if isinstance(found, DictConfig | ListConfig) else found
        if found != left:
            raise BrsweepError(f"hydra.{key}: has no effect here, and a YAML file sets it; {INSTEAD[key]}")
