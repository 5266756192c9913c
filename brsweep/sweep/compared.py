"""Which run is compared with which: the one that differs from it in nothing but the regularizer, which it lacks.

A frozen step size is compared with one that trains on; another quantizer, or another way to train (a ladder, a teacher,
frozen weights, a transition rate), that nothing regularizes, with LSQ alone. What a launcher judges and what the report
shows rest on this one rule.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from brsweep.runs import words
from brsweep.stages.plan import NOT_RESULTS, WAYS_TO_TRAIN, canonical, rungs, ways_to_train

OTHER_THAN_LSQ = ("quant.quantizer", "schedule.ladder", "schedule.rung_epochs", *WAYS_TO_TRAIN)
"""What makes a run another method than LSQ alone, beside the regularizer."""


def partners(configs: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """Place of a configuration -> place of the one that it is compared with: the same without a regularizer, and where
    it has none LSQ alone. LSQ itself has none, unless its step sizes freeze and another's don't. Of several that fit,
    the one whose step sizes are free, and of two such the first."""
    alone = [place for place, config in enumerate(configs) if not words.is_regularized(config)]
    alone.sort(reverse=True)
    alone.sort(key=lambda place: bool(configs[place]["schedule"]["freeze_alpha"]), reverse=True)
    # the last one of a key stays
    of_quantizer = {_key(configs[place]): place for place in alone}
    of_lsq = {_key(configs[place], *OTHER_THAN_LSQ): place for place in alone if is_lsq(configs[place])}
    found = {}
    for place, config in enumerate(configs):
        if words.is_regularized(config) or is_lsq(config):
            partner = of_quantizer.get(_key(config))
        else:
            partner = of_lsq.get(_key(config, *OTHER_THAN_LSQ))
        if partner is not None and partner != place:
            found[place] = partner
    return found


def _key(config: Mapping[str, Any], *left_out: str) -> str:
    return identity_but(config, "reg", "schedule.freeze_alpha", *left_out) + str(config.get("pretrained"))


def is_lsq(config: Mapping[str, Any]) -> bool:
    """Whether it is LSQ alone: our quantizer, no regularizer in force, and no other way to train."""
    if words.is_regularized(config) or ways_to_train(config) or rungs(config):
        return False
    return config["quant"]["quantizer"]["_target_"] == words.LSQ_QUANTIZER


def dotted(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys.

    >>> dotted({"reg": {"ramp": {"act": "cosine"}}, "seed": 42})
    {'reg.ramp.act': 'cosine', 'seed': 42}
    """
    result: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            result |= dotted(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


def results_alone(config: Mapping[str, Any]) -> dict[str, Any]:
    """The flat configuration less what cannot change a result; the seed stays."""
    return {key: value for key, value in dotted(config).items() if not is_below(key, NOT_RESULTS)}


def identity_but(config: Mapping[str, Any], *left_out: str) -> str:
    """What a run is, less the keys (or groups) `left_out`: equal exactly for runs that differ in nothing else."""
    left_out = left_out if words.is_regularized(config) else (*left_out, "reg")
    seen = results_alone(canonical(config))
    return fingerprint({key: value for key, value in seen.items() if not is_below(key, left_out)})


def is_below(key: str, places: Iterable[str]) -> bool:
    return key.startswith(tuple(places)) and any(key == place or key.startswith(f"{place}.") for place in places)


def fingerprint(values: Mapping[str, Any]) -> str:
    """Plain data as text that is equal exactly for equal values (1 is 1.0)."""
    return json.dumps({key: _by_value(value) for key, value in values.items()}, sort_keys=True, default=str)


def _by_value(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
