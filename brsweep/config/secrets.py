"""Passwords and keys: told from other text, refused in a configuration, masked in what is written.

A configuration is written to every run's folder, to results, to trackers and to the screen. A key belongs into the
environment, or where `wandb login` puts it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from brsweep.errors import BrsweepError

NAME = re.compile(
    r"(?i)(^|[._-])(api[_-]?keys?|apikey|access[_-]?keys?|private[_-]?keys?|secret[_-]?keys?|(auth|access|api|hf)?[_-]?token"
    r"|secrets?|passwords?|passwd|credentials?)$"
)
"""Of fields and environment variables that hold secrets: WANDB_API_KEY, logger.api_key, hf_token."""

_WORD = r"api[_-]?key|apikey|access[_-]?key|private[_-]?key|secret[_-]?key|token|secret|password|passwd|credentials?"
SHAPES = (
    re.compile(r"(?<=://)[^/\s@:]*:[^/\s@]+(?=@)"),  # user:password@
    re.compile(r"(?<=://)[^/\s@:]{16,}(?=@)"),  # key@
    re.compile(rf"(?i)(?<=[?&])((?:[\w-]*(?:{_WORD})|key|sig)=)[^&\s'\"]+"),  # in a URL's query
    re.compile(r"\b(?:wandb_v\d_|local-wandb_v\d_)\w{16,}"),
    re.compile(r"\b(?:hf_|gh[pousr]_|github_pat_|glpat-|sk-|xox[baprs]-)[A-Za-z0-9_-]{16,}"),
    re.compile(r"\bAKIA[0-9A-Z]{16}\b"),
    re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
)
_TRACKER_KEY = re.compile(r"(?:local-)?[0-9a-f]{40}")
"""W&B's: 40 hex digits, which elsewhere are the name of a commit."""
_GIVEN = (
    re.compile(
        rf"(?i)((?<![^\s.{{,'\"+_-])(?:\w*[_-])?(?:{_WORD})=)(?!null\b|true\b|false\b)('[^']+'|\"[^\"]+\"|[^\s,}}'\"]+)"
    ),
    re.compile(
        rf"(?i)([{{,'\"]\s*(?:\w*[_-])?(?:{_WORD})['\"]?\s*:\s*)(?!null\b|true\b|false\b)('[^']+'|\"[^\"]+\"|[^\s,}}'\"]+)"
    ),
)
"""As a command line or a mapping gives it to a name: api_key=..., {api_key: ...}."""

MASK = "***"
_SHORTEST = 8


def check_secrets(config: Mapping[str, Any]) -> None:
    """Raise `BrsweepError` naming the field, and not the value, where a configuration holds a secret."""
    known = _in_environment()

    def look(value: Any, path: str) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                look(inner, f"{path}.{key}" if path else str(key))
        elif isinstance(value, list):
            for inner in value:
                look(inner, path)
        elif value not in (None, "") and not isinstance(value, bool) and _is_secret(path, str(value), known):
            raise BrsweepError(
                f"{path}: holds what looks like a key or password, and configurations are written to files; "
                f"leave it out, and put it into the environment (W&B: WANDB_API_KEY, or wandb login)"
            )

    look(config, "")


def masked(text: str) -> str:
    """`text` with every secret replaced by ***: for what is echoed or kept of a command line."""
    for value in _in_environment():
        text = text.replace(value, MASK)
    for shape in SHAPES:
        text = shape.sub(lambda hit: (hit.group(1) if hit.re.groups else "") + MASK, text)
    for given in _GIVEN:
        text = given.sub(rf"\1{MASK}", text)
    return text


def _is_secret(path: str, value: str, known: list[str]) -> bool:
    named = NAME.search(path.rsplit(".", 1)[-1]) is not None
    tracker = path.startswith("logger.") and _TRACKER_KEY.fullmatch(value) is not None
    return named or tracker or any(secret in value for secret in known) or any(shape.search(value) for shape in SHAPES)


def _in_environment() -> list[str]:
    """The values of variables that are called like secrets, longest first."""
    values = [v for name, v in os.environ.items() if NAME.search(name.lower()) and len(v) >= _SHORTEST]
    return sorted(values, key=len, reverse=True)
