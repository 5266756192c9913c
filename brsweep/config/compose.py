"""Hydra's side: where conf/ is, the schema in Hydra's store, and a composed configuration -> plain, checked data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue

from brsweep import targets
from brsweep.config import schema
from brsweep.config.fields import check_fields
from brsweep.config.parts import PARTS, check_part
from brsweep.config.quick import shortened
from brsweep.config.secrets import check_secrets
from brsweep.errors import BrsweepError

_HERE = Path(__file__).resolve()
CONF_DIR = next(
    (p for p in (_HERE.parents[1] / "conf", _HERE.parents[2] / "conf") if (p / "config.yaml").is_file()), None
)
"""Inside the package when installed from a wheel, beside it in a checkout."""
VERSION_BASE = {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}
"""Which defaults Hydra takes: 1.3 warns where it is not told, 1.4 where it is."""


@cache
def register() -> None:
    """Put the schema where conf/'s defaults lists find it, once: Hydra 1.4 warns of a name that is stored again."""
    store = ConfigStore.instance()
    for name, node in (
        ("config", schema.Config),
        ("quant", schema.Quant),
        ("br", schema.BinRegularization),
        ("schedule", schema.Schedule),
    ):
        store.store(group="schema", name=name, node=node)


def checked(cfg: DictConfig, typed: Sequence[str] = ()) -> dict[str, Any]:
    """A run's configuration as plain nested data: every field of its type and in range, every target allowed, no
    secrets. What it says of sweeps is checked and left out: it is the launcher's.

    typed: the overrides of the command line; consent to targets outside the allowed packages counts only there, and
    holds for this process from here on. Raises `BrsweepError`.
    """
    if OmegaConf.get_type(cfg) is not schema.Config:
        raise BrsweepError(
            "the configuration is not brsweep's: its defaults list has to begin with schema/config@_here_"
        )
    config = plain(cfg)
    check_secrets(config)
    shape = OmegaConf.get_type(cfg, "reg") if "reg" in cfg else None
    config = check_fields(schema.Config, config)
    if shape is schema.BinRegularization:
        config["reg"] = check_fields(shape, config["reg"], "reg.")
    for path in PARTS:
        *above, key = path.split(".")
        holder = config[above[0]] if above else config
        holder[key] = check_part(path, holder[key])
    schema.check_rules(config)
    _check_targets(config, typed)
    del config["sweep"]
    return _without_unused(shortened(config) if config["quick"] else config)


def _without_unused(config: dict[str, Any]) -> dict[str, Any]:
    """Without options that are off: they leave no trace in what a run is."""
    data = {key: value for key, value in config["data"].items() if key not in ("limit", "name") or value is not None}
    return {key: value for key, value in config.items() if key != "quick" or value} | {"data": data}


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The node as plain nested data, what refers to other values resolved. Raises `BrsweepError`."""
    try:
        return _plain(OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))
    except MissingMandatoryValue as error:
        raise BrsweepError(f"{error.full_key}: has no value; add {error.full_key}=... to the command line") from None
    except InterpolationResolutionError as error:
        raise BrsweepError(f"{error.full_key}: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise BrsweepError("the configuration refers to itself without end; look for ${...} of its own value") from None


def _check_targets(config: Mapping[str, Any], typed: Sequence[str]) -> None:
    said = OverridesParser.create().parse_overrides([word for word in typed if "allow_targets" in word])
    said = [override for override in said if override.key_or_group == "allow_targets"]
    if any(override.is_sweep_override() for override in said):
        raise BrsweepError("allow_targets: consent is one for the whole sweep: allow_targets=[mypackage,another]")
    if config["allow_targets"] and [override.value() for override in said[-1:]] != [config["allow_targets"]]:
        raise BrsweepError("allow_targets: consent to run other packages' code counts only on the command line")
    targets.consent(config["allow_targets"])
    for path in PARTS:
        *above, key = path.split(".")
        node = (config[above[0]] if above else config)[key]
        if path != "logger" or node.get(targets.TARGET) is not None:
            targets.check_allowed(path, node, config["allow_targets"])


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
