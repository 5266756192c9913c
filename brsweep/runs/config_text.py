"""The text of a configuration from elsewhere as plain data, within bounds."""

from __future__ import annotations

from typing import Any

MOST_LEVELS = 64
"""Levels of a configuration's nesting, far more than one has."""


def parsed(text: str) -> dict[str, Any] | None:
    """The mapping that the YAML in `text` stands for; None where it is none, or one that is never written here."""
    import yaml

    try:
        _check_events(text)
        config = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    return config if isinstance(config, dict) else None


def _check_events(text: str) -> None:
    """Raise ValueError for YAML that is dear to read: anchors and aliases, a few of which stand for gigabytes, and
    nesting that libyaml's recursion does not survive."""
    import yaml

    depth = 0
    for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MOST_LEVELS or getattr(event, "anchor", None) is not None:
            raise ValueError("an anchor, an alias, or too deep")
