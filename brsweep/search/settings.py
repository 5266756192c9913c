"""What a search asks; and what can be set of it: the part `search` of conf/search.yaml, typed and in range."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from brsweep.errors import BrsweepError


@dataclass
class Search:
    trials: int = MISSING
    random_trials: int = MISSING
    prune: bool = MISSING
    prune_after_trials: int = MISSING
    prune_after_epochs: int = MISSING
    space: dict[str, Any] = MISSING

    def __post_init__(self) -> None:
        for name, low in (("trials", 1), ("random_trials", 1), ("prune_after_trials", 1), ("prune_after_epochs", 1)):
            if getattr(self, name) < low:
                raise BrsweepError(f"search.{name}={getattr(self, name)}: a whole number, {low} or more")


@dataclass(frozen=True)
class Question:
    """What a search asks.

    typed: the words of its own command.
    configured(point): the checked configuration of a run at the point, a value for each key of the space.
    command(point, seeds): the words of the command that trains there; without seeds, under the search's own.
    """

    settings: Search
    typed: list[str]
    configured: Callable[[Mapping[str, Any]], dict[str, Any]]
    command: Callable[..., list[str]]
