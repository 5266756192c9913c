"""The space of a search: which keys of the configuration it sets, and from what.

    {reg: {lambda_act: {low: 0.01, high: 10, log: true}}, schedule: {freeze_alpha: {choices: [true, false]}}}

A range of whole numbers for a key whose value is one gives whole numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from brsweep.errors import BrsweepError
from brsweep.stages.plan import NOT_RESULTS, REPORTING

Point = Mapping[str, Any]
"""A value for each key of the space, by the key's dotted path."""

DATA_KEYS = ("data.batch_size", "data.crop_padding", "data.flip")
"""Those of the data's keys that leave the validation images as they are."""
Space = dict[str, BaseDistribution]
FORM = "a key has {low: ..., high: ...}, with log: true where it is one, or {choices: [...]}; null leaves it out"


def read_space(node: Mapping[str, Any], configured: Callable[[Point], Mapping[str, Any]]) -> Space:
    """The distributions by key. Each end and each choice is tried in a configuration, so a bad one is refused here.

    configured: a point -> the checked configuration with it. Raises `BrsweepError` naming the key.
    """
    base = configured({})
    space = {key: _distribution(key, entry, base) for key, entry in _entries(node)}
    if not space:
        raise BrsweepError("search.space: is empty; give at least one key and its range")
    for key, distribution in space.items():
        for value in _ends(distribution):
            try:
                configured({key: value})
            except BrsweepError as error:
                raise BrsweepError(f"search.space: {error}") from None
    return space


def lowest(space: Space) -> dict[str, Any]:
    """The point of the low ends and the first choices."""
    return {key: _ends(distribution)[0] for key, distribution in space.items()}


def in_words(key: str, distribution: BaseDistribution) -> str:
    """`reg.lambda_act 0.01..10.0 (log)`"""
    if isinstance(distribution, CategoricalDistribution):
        return f"{key} {'|'.join(map(str, distribution.choices))}"
    return f"{key} {distribution.low}..{distribution.high}{' (log)' if distribution.log else ''}"


def _entries(node: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, value in node.items():
        key = f"{path}{name}"
        if value is None:
            continue
        if not isinstance(value, Mapping):
            raise BrsweepError(f"search.space.{key}={value}: {FORM}")
        if value.keys() & {"low", "high", "choices"}:
            yield key, value
        else:
            yield from _entries(value, f"{key}.")


def _distribution(key: str, entry: Mapping[str, Any], base: Mapping[str, Any]) -> BaseDistribution:
    _check_comparable(key)
    where = f"search.space.{key}"
    if entry.keys() == {"choices"}:
        choices = entry["choices"]
        if not isinstance(choices, list) or not choices or any(isinstance(c, (list, Mapping)) for c in choices):
            raise BrsweepError(f"{where}.choices={choices}: a list of single values")
        return CategoricalDistribution(choices)
    if not {"low", "high"} <= entry.keys() <= {"low", "high", "log"}:
        raise BrsweepError(f"{where}: {FORM}")
    low, high, log = entry["low"], entry["high"], entry.get("log", False)
    for name, value in (("low", low), ("high", high)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < float("inf"):
            raise BrsweepError(f"{where}.{name}={value}: a number")
    if not isinstance(log, bool):
        raise BrsweepError(f"{where}.log={log}: true or false")
    if low > high:
        raise BrsweepError(f"{where}: low={low} is above high={high}")
    if log and low <= 0:
        raise BrsweepError(f"{where}.low={low}: a log scale begins above 0; to have 0 among the values, give choices")
    whole = all(type(value) is int for value in (low, high, _value(base, key)))
    return IntDistribution(low, high, log=log) if whole else FloatDistribution(low, high, log=log)


def _check_comparable(key: str) -> None:
    """Trials are compared by accuracy on one validation split, under one seed."""
    if key == "seed":
        raise BrsweepError("search.space.seed: a search has one seed, seed=...; a seed is nothing to choose")
    if key.startswith("data.") and key not in DATA_KEYS:
        raise BrsweepError(f"search.space.{key}: trials share their images; of data, take {', '.join(DATA_KEYS)}")
    if key in (*NOT_RESULTS, *REPORTING) or key.startswith("logger."):
        raise BrsweepError(f"search.space.{key}: changes no result, so there is nothing to search")


def _value(config: Mapping[str, Any], key: str) -> Any:
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _ends(distribution: BaseDistribution) -> tuple[Any, ...]:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    return distribution.low, distribution.high
