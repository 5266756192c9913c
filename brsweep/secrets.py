"""Keys and passwords, hidden in whatever is written: consoles, records, and what trackers are told.

Hidden are the values of environment variables whose names say that they hold one (`WANDB_API_KEY`, `HF_TOKEN`, ...),
values whose own names say so, and the user, password and key parameters of a URL.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

MASK = "***"
SHORTEST = 6
"""A shorter value of a variable is no key, and hiding it would spoil words and numbers everywhere."""

WORDS = r"(?:api|access|private|secret)_?key|token|secret|passw(?:or)?d"
NAME = re.compile(rf"(?:^|[._-])(?:{WORDS})$", re.IGNORECASE)
"""Names of environment variables and of options that hold a key."""
URL_USER = re.compile(r"(?<=://)[^/\s?#'\"]+(?=@)")
URL_KEY = re.compile(rf"(?<=[?&])((?:[\w.-]*[_.-])?(?:{WORDS}|key|sig|signature)=)[^&#\s'\"]+", re.IGNORECASE)


def masked(value: Any) -> Any:
    """`value`, a text or mappings and lists that hold texts, with MASK for each key; other values as they are."""
    return _masked(value, _keys())


def _masked(value: Any, keys: list[str]) -> Any:
    if isinstance(value, str):
        for key in keys:
            value = value.replace(key, MASK)
        return URL_KEY.sub(rf"\1{MASK}", URL_USER.sub(MASK, value)) if "://" in value else value
    if isinstance(value, Mapping):
        return {
            _masked(name, keys): MASK if item and isinstance(item, str) and names_key(name) else _masked(item, keys)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [_masked(item, keys) for item in value]
    if isinstance(value, tuple):
        return tuple(_masked(item, keys) for item in value)
    return value


def names_key(name: Any) -> bool:
    """Whether an option or a variable of this name holds a key."""
    return isinstance(name, str) and NAME.search(name) is not None


def _keys() -> list[str]:
    """The keys in the environment, the longest first: one may be a part of another."""
    held = {value for name, value in os.environ.items() if names_key(name) and len(value) >= SHORTEST}
    return sorted(held, key=len, reverse=True)
