"""Hydra's side: where conf/ is, the schema in Hydra's store, and a composed configuration -> plain, checked data."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue

from brsweep import targets
from brsweep.config import schema
from brsweep.errors import BrsweepError

_HERE = Path(__file__).resolve()
CONF_DIR = next(
    (p for p in (_HERE.parents[1] / "conf", _HERE.parents[2] / "conf") if (p / "config.yaml").is_file()), None
)
"""Inside the package when installed from a wheel, beside it in a checkout."""

PARTS = ("model", "data", "reg", "float_optimizer", "qat_optimizer", "logger", "quant.quantizer")
REG_FIELDS = ("lambda_weight", "lambda_act")


def register() -> None:
    """Put the schema where conf/'s defaults lists find it."""
    store = ConfigStore.instance()
    for name, node in (
        ("config", schema.Config),
        ("quant", schema.Quant),
        ("br", schema.BinRegularization),
        ("schedule", schema.Schedule),
    ):
        store.store(group="schema", name=name, node=node)


def checked(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The configuration as plain nested data, every field typed and in range, every target allowed.

    overrides: what was typed; consent to targets outside the allowed packages counts only there.
    Raises `BrsweepError`.
    """
    try:
        typed = OmegaConf.to_object(cfg)
        config = _plain(OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))
    except MissingMandatoryValue as error:
        raise BrsweepError(f"{error.full_key}: has no value; add {error.full_key}=... to the command line") from None
    except InterpolationResolutionError as error:
        raise BrsweepError(f"{error.full_key}: {str(error).splitlines()[0]}") from None
    if not isinstance(typed, schema.Config):
        raise BrsweepError(
            "the configuration is not brsweep's: its defaults list has to begin with schema/config@_here_"
        )
    _check_known(config, typed)
    _check_parts(config, overrides)
    return config


def _check_known(config: Mapping[str, Any], typed: Any, path: str = "") -> None:
    """Refuse keys that were added with `+` to a part of the configuration whose shape is fixed."""
    known = {field.name for field in dataclasses.fields(typed)}
    for key, value in config.items():
        if key not in known:
            close = difflib.get_close_matches(key, sorted(known), n=1)
            hint = f"; did you mean {path}{close[0]}?" if close else ""
            raise BrsweepError(f"{path}{key}: there is no such option{hint} (--cfg job prints them all)")
        if dataclasses.is_dataclass(getattr(typed, key)):
            _check_known(value, getattr(typed, key), f"{path}{key}.")


def _check_parts(config: Mapping[str, Any], overrides: Sequence[str]) -> None:
    consent = [o for o in overrides if o.lstrip("+").startswith("allow_targets=")]
    if config["allow_targets"] and not consent:
        raise BrsweepError("allow_targets: consent to run other packages' code counts only on the command line")
    for path in PARTS:
        node: Any = config
        for key in path.split("."):
            node = node[key]
        if not isinstance(node, Mapping):
            raise BrsweepError(f"{path}={node}: a part is a {targets.TARGET} and its arguments, not one value")
        if path == "logger" and node.get(targets.TARGET) is None:
            continue
        targets.check_allowed(path, node, config["allow_targets"])
    for name in REG_FIELDS:
        if not isinstance(config["reg"].get(name), (int, float)) or config["reg"][name] < 0:
            raise BrsweepError(f"reg.{name}={config['reg'].get(name)}: every regularizer has this number, 0 or more")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value):
        return _plain(dataclasses.asdict(value))
    return value
