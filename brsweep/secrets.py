"""Keys and passwords: told from other text, and hidden in whatever is written: consoles, records, command lines, and
what trackers are told.

Hidden are the values of environment variables whose names say that they hold one (`WANDB_API_KEY`, `HF_TOKEN`, ...),
values whose own names say so, the user, password and key parameters of a URL, and text in the shape of a known key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

MASK = "***"
SHORTEST = 6
"""A shorter value of a variable is no key, and hiding it would spoil words and numbers everywhere."""

NAME = re.compile(
    r"(?i)(^|[._-])(api[_-]?keys?|apikey|access[_-]?keys?|private[_-]?keys?|secret[_-]?keys?|(auth|access|api|hf)?[_-]?token"
    r"|secrets?|passwords?|passwd|credentials?)$"
)
"""Of fields and environment variables that hold secrets: WANDB_API_KEY, logger.api_key, hf_token."""

WORDS = r"api[_-]?key|apikey|access[_-]?key|private[_-]?key|secret[_-]?key|token|secret|password|passwd|credentials?"
SHAPES = (
    re.compile(r"(?<=://)[^/\s@:]*:[^/\s@]+(?=@)"),  # user:password@
    re.compile(r"(?<=://)[^/\s@:]{16,}(?=@)"),  # key@
    re.compile(rf"(?i)(?<=[?&])((?:[\w.-]*(?:{WORDS})|(?:[\w.-]*[_.-])?(?:key|sig|signature))=)[^&\s'\"]+"),  # query
    re.compile(r"\b(?:wandb_v\d_|local-wandb_v\d_)\w{16,}"),
    re.compile(r"\b(?:hf_|gh[pousr]_|github_pat_|glpat-|sk-|xox[baprs]-)[A-Za-z0-9_-]{16,}"),
    re.compile(r"\bAKIA[0-9A-Z]{16}\b"),
    re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
)
TRACKER_KEY = re.compile(r"(?:local-)?[0-9a-f]{40}")
"""W&B's: 40 hex digits, which elsewhere are the name of a commit."""
GIVEN = (
    re.compile(
        rf"(?i)((?<![^\s.{{,'\"+_-])(?:\w*[_-])?(?:{WORDS})=)(?!null\b|true\b|false\b)('[^']+'|\"[^\"]+\"|[^\s,}}'\"]+)"
    ),
    re.compile(
        rf"(?i)([{{,'\"]\s*(?:\w*[_-])?(?:{WORDS})['\"]?\s*:\s*)(?!null\b|true\b|false\b)('[^']+'|\"[^\"]+\"|[^\s,}}'\"]+)"
    ),
)
"""As a command line or a mapping gives it to a name: api_key=..., {api_key: ...}."""

URL_USER = re.compile(r"(?<=://)[^/\s?#'\"]+(?=@)")


def masked(value: Any) -> Any:
    """`value`, a text or mappings and lists that hold texts, with MASK for each key; other values as they are."""
    return _masked(value, environment_keys())


def names_key(name: Any) -> bool:
    """Whether an option or a variable of this name holds a key."""
    return isinstance(name, str) and NAME.search(name) is not None


def environment_keys() -> list[str]:
    """The keys in the environment, the longest first: one may be a part of another."""
    held = {value for name, value in os.environ.items() if names_key(name) and len(value) >= SHORTEST}
    return sorted(held, key=len, reverse=True)


def _masked(value: Any, keys: list[str]) -> Any:
    if isinstance(value, str):
        for key in keys:
            value = value.replace(key, MASK)
        for shape in (URL_USER, *SHAPES):
            value = shape.sub(lambda hit: (hit.group(1) if hit.re.groups else "") + MASK, value)
        for given in GIVEN:
            value = given.sub(rf"\1{MASK}", value)
        return value
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
