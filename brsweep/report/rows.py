"""Runs -> cohorts -> rows. A cohort is what one table may hold: runs that go through one core of code on one data set,
whatever their parts. A row is one configuration over its seeds; what the runs of a cohort differ in is found by itself.

What a regularizer's options are tells nothing where both lambdas are 0: such runs are one row whatever its class.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from brsweep.report.runs import ReportedRun
from brsweep.runs import words
from brsweep.stages.plan import BIN_REGULARIZATION, WAYS_TO_TRAIN, canonical, rungs, ways_to_train
from brsweep.sweep.compared import dotted, fingerprint, identity_but, is_below, is_lsq, results_alone

LAMBDAS = ("reg.lambda_weight", "reg.lambda_act")
BITS = ("quant.weight_bits", "quant.act_bits")
REGULARIZER, QUANTIZER = "reg._target_", "quant.quantizer._target_"
NO_EFFECT = "\N{EN DASH}"
"""Stands for a value that changes nothing in this configuration, such as a ramp at lambda 0."""


@dataclass(frozen=True)
class Row:
    """`settings`: the values of what varies, NO_EFFECT where a value has none; `seeds`: those that it was to get.
    `quantizer`, `regularizer`: what they are called, LSQ and BR for ours; the latter None where nothing regularizes."""

    bits: str
    settings: Mapping[str, Any]
    runs: tuple[ReportedRun, ...]
    seeds: tuple[int, ...]
    config: Mapping[str, Any] | None
    quantizer: str = ""
    regularizer: str | None = None

    @property
    def method(self) -> str:
        """`LSQ`, `LSQ + BR`; with what else changes how it trains: `LSQ + ladder`, `LSQ + BR + freezing`."""
        ways = words.ways(self.config) if self.config else []
        return " + ".join(filter(None, [self.quantizer, self.regularizer, *ways]))

    @property
    def is_lsq(self) -> bool:
        """LSQ alone."""
        return self.config is not None and is_lsq(self.config)

    @property
    def off(self) -> set[str]:
        """Keys at which something stands that is off here; LSQ is what there is without another quantizer."""
        if self.config is None:
            return set()
        on = ways_to_train(self.config)
        off = {f"{group}.{way.switch}" for group, way in WAYS_TO_TRAIN.items() if group not in on}
        off |= set() if rungs(self.config) else {"schedule.ladder"}
        off |= {key for key, value in zip(LAMBDAS, self.lambdas, strict=True) if not value}
        lsq = self.config["quant"]["quantizer"]["_target_"] == words.LSQ_QUANTIZER
        return off | ({QUANTIZER} if lsq else set())

    @property
    def counted(self) -> list[ReportedRun]:
        """The runs that averages take: of two with one seed, the first."""
        return list({run.seed: run for run in reversed(self.runs) if run.counts}.values())[::-1]

    @property
    def lambdas(self) -> tuple[float, float]:
        """Of the weights and of the activations."""
        reg = self.config["reg"] if self.config else {}
        return reg.get("lambda_weight") or 0.0, reg.get("lambda_act") or 0.0


@dataclass(frozen=True)
class Cohort:
    """`core` is None where no run has finished; `data` is then the data set's name."""

    core: str | None
    data: str
    rows: tuple[Row, ...]
    varied: tuple[str, ...]

    @property
    def runs(self) -> list[ReportedRun]:
        return [run for row in self.rows for run in row.runs]


def cohorts(runs: Sequence[ReportedRun]) -> list[Cohort]:
    """Finished runs by core and data identity; every other run with the finished ones of its data set."""
    groups: dict[tuple[str | None, str], list[ReportedRun]] = {}
    for run in runs:
        if run.result is not None:
            groups.setdefault((run.core, run.data), []).append(run)
    finished = list(groups.items())
    for run in runs:
        if run.result is None:
            fits = [key for key, group in finished if run.config is None or group[0].data_set == run.data_set]
            key = fits[-1] if fits else next(iter(groups), (None, run.data)) if run.config is None else None
            groups.setdefault(key or (None, run.data), []).append(run)
    return [Cohort(core, _named(data, group), *_group_rows(group)) for (core, data), group in groups.items()]


def _named(identity: str, runs: Sequence[ReportedRun]) -> str:
    """The data's identity, behind the name that its runs have for it."""
    names = {run.data_set: None for run in runs if run.config is not None and run.config["data"].get("name")}
    return f"{', '.join(names)} ({identity})" if names and identity not in names else identity


def part_names(targets: Iterable[str]) -> dict[str, str]:
    """Import paths by their last word, or by as many more as tell each from every other.

    >>> part_names(["mine.a.Shrink", "mine.b.Shrink", "mine.b.Grow"])
    {'mine.a.Shrink': 'a.Shrink', 'mine.b.Shrink': 'b.Shrink', 'mine.b.Grow': 'Grow'}
    """
    paths = {target: target.split(".") for target in targets}
    names = {}
    for target, path in paths.items():
        counts = range(1, len(path) + 1)
        alone = (n for n in counts if sum(other[-n:] == path[-n:] for other in paths.values()) == 1)
        names[target] = ".".join(path[-next(alone, len(path)) :])
    return names


def _group_rows(runs: Sequence[ReportedRun]) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    known = [run for run in runs if run.config is not None]
    values = _varied([run.config for run in known])
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
            key = of_overrides.get(planned) or " ".join(sorted(planned)) if to_come else str(run.path)
            groups.setdefault(key, []).append(run)
    seeds = frozenset(run.seed for run in runs if run.seeds_given and run.seed is not None)
    common = frozenset.intersection(*(_but_seed(run) for run in runs))
    names = {
        key: part_names(value for run in known if isinstance(value := dotted(run.config).get(key), str))
        for key in (*(key for key in values if key.endswith("._target_")), REGULARIZER, QUANTIZER)
    }
    rows = [_row(group, seeds, values, common, names) for group in groups.values()]
    return tuple(sorted(rows, key=_order)), tuple(values)


def _row(
    runs: Sequence[ReportedRun],
    seeds: frozenset[int],
    values: Mapping[str, Sequence[Any]],
    common: frozenset[str],
    names: Mapping[str, Mapping[str, str]],
) -> Row:
    """`seeds`: those of every row that was given them; a row whose launcher found how many it gets wants its own alone.
    `common`: overrides that every run has, which tell nothing of a row that was never begun. `names`: of parts."""
    runs = tuple(sorted(runs, key=lambda run: (run.seed is None, run.seed or 0, run.name)))
    own = {run.seed for run in runs if run.seed is not None}
    seeds = tuple(sorted(own | seeds if any(run.seeds_given for run in runs) else own))
    config = next((run.config for run in runs if run.config is not None), None)
    if config is None:
        said = [word for word in runs[0].status.overrides if word in _but_seed(runs[0]) - common]
        return Row(NO_EFFECT, {"overrides": " ".join(said) or runs[0].name}, runs, seeds, None)
    mine = dotted(config)
    shown = {key for key, seen in values.items() if key == "pretrained" or _matters(config, key, seen)}
    named = {key: names[key].get(str(mine[key])) for key in shown & names.keys()}
    settings = {key: named.get(key) or mine.get(key) if key in shown else NO_EFFECT for key in values}
    quantizer = _called("LSQ", words.LSQ_QUANTIZER, mine[QUANTIZER], names[QUANTIZER])
    regularizer = _called("BR", BIN_REGULARIZATION, mine[REGULARIZER], names[REGULARIZER])
    in_force = regularizer if words.is_regularized(config) else None
    told = next((run.result for run in runs if run.result is not None), {}).get("float_inputs", 0)
    counted = told is None or (isinstance(told, int) and told > 0)
    label = words.bits_label(config, told if counted else 0)
    return Row(label, settings, runs, seeds, config, quantizer, in_force)


def _called(ours: str, target_of_ours: str, target: str, names: Mapping[str, str]) -> str:
    """What a method's name says for a part; one of somebody's own that is called as ours is by its import path."""
    if target == target_of_ours:
        return ours
    return target if names[target] == ours else names[target]


def _varied(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """What configurations differ in, less the seed: key -> its values. A part's option is compared among those that
    have that part; the regularizer is named as soon as one in force is not BR."""
    seen = [_in_force(config) for config in configs]
    values = {}
    for key in dict.fromkeys(key for config in configs for key in results_alone(config) if key != "seed"):
        holders = [config for config in seen if key in config]
        lacking = [config for config in seen if key not in config and _has_part_of(key, config, holders)]
        found = list({fingerprint({"": c.get(key)}): c.get(key) for c in (*holders, *lacking)}.values())
        if len(found) > 1 or (key == REGULARIZER and found not in ([], [None], [BIN_REGULARIZATION])):
            values[key] = found
    return values


def _in_force(config: Mapping[str, Any]) -> dict[str, Any]:
    """What can change a result; of a regularizer at lambda 0, its lambdas alone."""
    seen = results_alone(config)
    if words.is_regularized(config):
        return seen
    return {key: value for key, value in seen.items() if key in LAMBDAS or not is_below(key, ("reg",))}


def _has_part_of(key: str, config: Mapping[str, Any], holders: Sequence[Mapping[str, Any]]) -> bool:
    """Whether `config` has the part whose option `key` is, of the class that it has in one of `holders`."""
    places = [key.rsplit(".", n)[0] + "._target_" for n in range(1, key.count(".") + 1)]
    target = next((place for place in places if any(place in holder for holder in holders)), None)
    return target is None or any(config.get(target) == holder.get(target) for holder in holders)


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
    mine = dotted(config)
    if key not in mine or (key not in LAMBDAS and is_below(key, ("reg",)) and not words.is_regularized(config)):
        return False
    if key.endswith("._target_"):
        return True
    base = results_alone(canonical(config))
    return any(results_alone(canonical(_with(config, key, value))) != base for value in values if value != mine[key])


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


def _but_seed(run: ReportedRun) -> frozenset[str]:
    return frozenset(word for word in run.status.overrides if not word.startswith("seed="))


def _order(row: Row) -> tuple:
    quant = row.config["quant"] if row.config else {}
    bits = (quant.get("weight_bits", 0), quant.get("act_bits", 0))
    settings = [(not isinstance(v, (int, float)), v if isinstance(v, (int, float)) else 0, str(v))
                for v in row.settings.values()]  # fmt: skip
    return (row.config is None, *bits, not row.is_lsq, row.regularizer is not None, settings)
