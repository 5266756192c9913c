"""Runs -> cohorts -> rows. A cohort is what one table may hold: runs of one training code on one data set. A row is
one configuration over its seeds; what the runs of a cohort differ in is found by itself.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from brsweep.report.runs import ReportedRun, fingerprint
from brsweep.runs import words
from brsweep.stages.plan import NOT_RESULTS, canonical

LAMBDAS = ("reg.lambda_weight", "reg.lambda_act")
BITS = ("quant.weight_bits", "quant.act_bits")
NO_EFFECT = "\N{EN DASH}"
"""Stands for a value that changes nothing in this configuration, such as a ramp at lambda 0."""


@dataclass(frozen=True)
class Row:
    """`settings`: the values of what varies, NO_EFFECT where a value has none; `seeds`: those that its cohort knows."""

    bits: str
    settings: Mapping[str, Any]
    runs: tuple[ReportedRun, ...]
    seeds: tuple[int, ...]
    config: Mapping[str, Any] | None

    @property
    def is_lsq(self) -> bool:
        return self.config is not None and words.regularizer(self.config) == "lsq"

    @property
    def counted(self) -> list[ReportedRun]:
        """The runs that averages take: of two with one seed, the first."""
        return list({run.seed: run for run in reversed(self.runs) if run.counts}.values())[::-1]

    @property
    def complete(self) -> bool:
        return {run.seed for run in self.counted} == set(self.seeds)

    @property
    def lambdas(self) -> tuple[float, float]:
        """Of the weights and of the activations."""
        reg = self.config["reg"] if self.config else {}
        return reg.get("lambda_weight") or 0.0, reg.get("lambda_act") or 0.0


@dataclass(frozen=True)
class Cohort:
    """`code` is None where no run has finished; `data` is then the data set's name."""

    code: str | None
    data: str
    rows: tuple[Row, ...]
    varied: tuple[str, ...]

    @property
    def runs(self) -> list[ReportedRun]:
        return [run for row in self.rows for run in row.runs]


def cohorts(runs: Sequence[ReportedRun]) -> list[Cohort]:
    """Finished runs by training code and data identity; every other run with the finished ones of its data set."""
    groups: dict[tuple[str | None, str], list[ReportedRun]] = {}
    for run in runs:
        if run.result is not None:
            groups.setdefault((run.result.get("code"), str(run.result.get("data"))), []).append(run)
    finished = list(groups.items())
    for run in runs:
        if run.result is None:
            fits = [key for key, group in finished if run.config is None or _data(group[0]) == _data(run)]
            key = fits[-1] if fits else next(iter(groups), (None, _data(run))) if run.config is None else None
            groups.setdefault(key or (None, _data(run)), []).append(run)
    return [Cohort(code, data, *_rows(group)) for (code, data), group in groups.items()]


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys.

    >>> flat({"reg": {"ramp": {"act": "cosine"}}, "seed": 42})
    {'reg.ramp.act': 'cosine', 'seed': 42}
    """
    result: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


def results_alone(config: Mapping[str, Any]) -> dict[str, Any]:
    """The flat configuration less what cannot change a result; the seed stays."""
    return {key: value for key, value in flat(config).items() if not _within(key, NOT_RESULTS)}


def identity_but(config: Mapping[str, Any], *left_out: str) -> str:
    """What a run is, less the keys (or groups) `left_out`: equal exactly for runs that differ in nothing else."""
    seen = results_alone(canonical(config))
    return fingerprint({key: value for key, value in seen.items() if not _within(key, left_out)})


def _rows(runs: Sequence[ReportedRun]) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    known = [run for run in runs if run.config is not None]
    values = _varied(known)
    checkpoints = _checkpoints_differ(known)
    if checkpoints:
        values["pretrained"] = list(dict.fromkeys(run.config.get("pretrained") for run in known))
    groups: dict[str, list[ReportedRun]] = {}
    of_overrides: dict[frozenset[str], str] = {}
    for run in known:
        key = identity_but(run.config, "seed") + str(checkpoints and run.config.get("pretrained"))
        groups.setdefault(key, []).append(run)
        of_overrides[_but_seed(run)] = key
    for run in runs:
        if run.config is None:
            to_come = run.result is None and run.status.overrides
            planned = _but_seed(run)
            key = of_overrides.get(planned) or " ".join(sorted(planned)) if to_come else run.name
            groups.setdefault(key, []).append(run)
    seeds = tuple(sorted({run.seed for run in runs if run.seed is not None}))
    common = frozenset.intersection(*(_but_seed(run) for run in runs))
    rows = [_row(group, seeds, values, common) for group in groups.values()]
    return tuple(sorted(rows, key=_order)), tuple(values)


def _row(
    runs: Sequence[ReportedRun], seeds: tuple[int, ...], values: Mapping[str, Sequence[Any]], common: frozenset[str]
) -> Row:
    """`common`: overrides that every run has, which tell nothing of a row that was never begun."""
    runs = tuple(sorted(runs, key=lambda run: (run.seed is None, run.seed or 0, run.name)))
    config = next((run.config for run in runs if run.config is not None), None)
    if config is None:
        said = [word for word in runs[0].status.overrides if word in _but_seed(runs[0]) - common]
        return Row(NO_EFFECT, {"overrides": " ".join(said) or runs[0].name}, runs, seeds, None)
    mine = flat(config)
    shown = {key for key, seen in values.items() if key == "pretrained" or _matters(config, key, seen)}
    settings = {key: mine.get(key) if key in shown else NO_EFFECT for key in values}
    return Row(words.bits(config).upper(), settings, runs, seeds, config)


def _varied(runs: Sequence[ReportedRun]) -> dict[str, list[Any]]:
    """What the runs differ in, less the seed: key -> its values."""
    configs = [results_alone(run.config) for run in runs]
    keys = dict.fromkeys(key for config in configs for key in config if key != "seed")
    values = {key: list({fingerprint({"": c.get(key)}): c.get(key) for c in configs}.values()) for key in keys}
    return {key: seen for key, seen in values.items() if len(seen) > 1}


def _checkpoints_differ(runs: Sequence[ReportedRun]) -> bool:
    """Whether the pretrained file is something that the sweep varied: one seed begins at two of them, or some runs at
    none. A file for each seed is not; the path alone changes no result."""
    files: dict[int, set[Any]] = {}
    for run in runs:
        files.setdefault(run.config["seed"], set()).add(run.config.get("pretrained"))
    every = set().union(*files.values())
    return (None in every and len(every) > 1) or any(len(of_seed) > 1 for of_seed in files.values())


def _matters(config: Mapping[str, Any], key: str, values: Iterable[Any]) -> bool:
    """Whether another of `values` at `key` would make another run of this one."""
    base = results_alone(canonical(config))
    mine = flat(config).get(key)
    return any(results_alone(canonical(_with(config, key, value))) != base for value in values if value != mine)


def _with(config: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(dict(config))
    *parents, leaf = key.split(".")
    node = changed
    for parent in parents:
        if not isinstance(node.get(parent), dict):
            node[parent] = {}
        node = node[parent]
    node[leaf] = value
    return changed


def _within(key: str, places: Iterable[str]) -> bool:
    return any(key == place or key.startswith(f"{place}.") for place in places)


def _but_seed(run: ReportedRun) -> frozenset[str]:
    return frozenset(word for word in run.status.overrides if not word.startswith("seed="))


def _data(run: ReportedRun) -> str:
    return str((run.config or {}).get("data", {}).get("_target_", "unknown")).rpartition(".")[2].lower()


def _order(row: Row) -> tuple:
    quant = row.config["quant"] if row.config else {}
    settings = [(not isinstance(v, (int, float)), v if isinstance(v, (int, float)) else 0, str(v))
                for v in row.settings.values()]  # fmt: skip
    return (row.config is None, quant.get("weight_bits", 0), quant.get("act_bits", 0), not row.is_lsq, settings)
