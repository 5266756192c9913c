"""A shape is a dataclass whose fields are made `by` a check; and whether a composed node fits one."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from omegaconf import MISSING

from brsweep.arguments import shown
from brsweep.config.checks import Check
from brsweep.errors import BrsweepError


def by(check: Check | type, default: Any = MISSING) -> Any:
    """A field of a configuration and its check, or a dataclass for a part of it; its default is conf/'s, but for
    launchers, whose defaults Hydra takes from the class."""
    if isinstance(default, dict | list):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata={"check": check})
    return dataclasses.field(default=default, metadata={"shape" if dataclasses.is_dataclass(check) else "check": check})


def fitted(path: str, value: Any, check: Check) -> Any:
    """The value as its field holds it. Raises `BrsweepError` naming the field."""
    if value == MISSING:
        raise BrsweepError(f"{path}: has no value; add {path}=... to the command line")
    try:
        return check(value)
    except ValueError as error:
        raise BrsweepError(f"{path}={shown(value)}: {error}") from None


def check_fields(shape: type, node: Any, path: str = "") -> dict[str, Any]:
    """`node` with each field as its check gives it. Raises `BrsweepError` naming a missing or bad one."""
    if not isinstance(node, Mapping):
        name = path.rstrip(".")
        raise BrsweepError(f"{name}={shown(node)}: has parts of its own, {path}{dataclasses.fields(shape)[0].name}=...")
    fields = {field.name: field for field in dataclasses.fields(shape)}
    for key in node:
        if key not in fields:
            close = difflib.get_close_matches(str(key), sorted(fields), n=1)
            hint = f"; did you mean {path}{close[0]}?" if close else ""
            raise BrsweepError(f"{path}{key}: there is no such option{hint} (--cfg job prints them all)")
    done = {}
    for name, field in fields.items():
        if name not in node:
            raise BrsweepError(f"{path}{name}: has no value; add {path}{name}=... to the command line")
        if "shape" in field.metadata:
            done[name] = check_fields(field.metadata["shape"], node[name], f"{path}{name}.")
        else:
            done[name] = fitted(f"{path}{name}", node[name], field.metadata["check"])
    return done
