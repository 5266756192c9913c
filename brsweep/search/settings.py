"""What a search asks; and what can be set of it: the part `search` of conf/search.yaml, typed and in range."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from brsweep.config.checks import mapping, whole, yes_no
from brsweep.config.fields import by
from brsweep.config.schema import MOST_EPOCHS

MOST_TRIALS = 1_000_000


@dataclass
class Search:
    trials: Any = by(whole(1, MOST_TRIALS))
    random_trials: Any = by(whole(1, MOST_TRIALS))
    prune: Any = by(yes_no)
    prune_after_trials: Any = by(whole(1, MOST_TRIALS))
    prune_after_epochs: Any = by(whole(1, MOST_EPOCHS))
    space: Any = by(mapping)


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
