"""What the extra `export` installs, imported when it is wanted."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from brsweep.errors import BrsweepError


def wanted(module: str) -> Any:
    """The module. Raises `BrsweepError` where it is not installed."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise BrsweepError(f"{package} is not installed: pip install brsweep[export]") from None
