"""Passwords and keys refused in a configuration, which is written to every run's folder, to results, to trackers and
to the screen. A key belongs into the environment, or where `wandb login` puts it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from brsweep.errors import BrsweepError
from brsweep.secrets import SHAPES, TRACKER_KEY, environment_keys, names_key


def check_secrets(config: Mapping[str, Any]) -> None:
    """Raise `BrsweepError` naming the field, and not the value, where a configuration holds a secret."""
    known = environment_keys()

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


def _is_secret(path: str, value: str, known: list[str]) -> bool:
    named = names_key(path.rsplit(".", 1)[-1])
    tracker = path.startswith("logger.") and TRACKER_KEY.fullmatch(value) is not None
    return named or tracker or any(secret in value for secret in known) or any(shape.search(value) for shape in SHAPES)
