"""What happens over the epochs: accuracy and task loss, with the stages marked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from brsweep.report.figures import Absent, Figure, Panel, Series
from brsweep.report.figures.pairs import Pair
from brsweep.report.runs import ReportedRun
from brsweep.runs import words
from brsweep.stages.plan import BIN_REGULARIZATION, WAYS_TO_TRAIN, Stage, ways_to_train

DRAWN = (
    "train_accuracy", "val_accuracy", "test_accuracy", "train_loss", "task_loss", "penalty_weight", "penalty_act", "lr",
)  # fmt: skip
"""What of an epoch's record is drawn on the page."""


def training_curves(pairs: Sequence[Pair]) -> Figure | Absent:
    name, title = "training", "Training curves"
    panels = [panel for pair in pairs for panel in _panels(pair)]
    if not panels:
        return Absent(name, title, "no finished run has a readable metrics.jsonl")
    caption = (
        "Mean over seeds, the band reaches from the lowest seed to the highest. Upright lines: where a stage begins. "
        + " ".join(f"{pair.methods[-1]} is {pair.label}." for pair in pairs if len(pair.runs) > 1)
    )
    return Figure(name, title, caption, panels, columns=2)


def _panels(pair: Pair) -> list[Panel]:
    return curve_panels(pair.title, [(name, row.row.counted) for name, row in pair.rows])


def curve_panels(title: str, shown: Sequence[tuple[str, Sequence[ReportedRun]]]) -> list[Panel]:
    """Accuracy and task loss of named runs over the epochs, those of one name together; none where none has any. The
    stages are those of the last one."""
    known = [(name, [run for run in runs if run.records]) for name, runs in shown]
    last = [run for _, runs in known for run in runs][-1:]
    panels = []
    for run in last:
        marks = run_marks(run, run.records)
        for label, value in (("validation accuracy (%)", _epoch_accuracy), ("task loss", _task_loss)):
            log = label == "task loss"
            panels.append(Panel(title, _over_seeds(known, value), "epoch", label, marks=marks, y_log=log))
    return panels


def _task_loss(record: Mapping[str, Any]) -> float | None:
    return record.get("task_loss", record.get("train_loss"))


def _epoch_accuracy(record: Mapping[str, Any]) -> float | None:
    value = record.get("val_accuracy")
    value = record.get("test_accuracy") if value is None else value
    return None if value is None else 100 * value


def stage_words(stages: Sequence[Stage], method: str) -> dict[str, str]:
    """Stage -> what figures call it: `method` the last one, by its regularizer or its quantizer; those of other bits by
    these; the others that quantize warm up for it.

    >>> bits = {"bits": (2, 2)}
    >>> stage_words([Stage("a", 0, 9, 9), Stage("b", 0, 9, 9, bits=(4, 4)), Stage("c", 0, 3, 9, **bits),
    ...              Stage("d", 3, 9, 9, **bits)], "BR")
    {'a': 'float', 'b': 'W4A4', 'c': 'warm-up', 'd': 'BR'}
    """
    found = {}
    for stage in stages:
        found[stage.name] = "warm-up" if stage.quantized else "float"
        if stage.quantized and stage.bits != stages[-1].bits:
            found[stage.name] = "W{}A{}".format(*stage.bits)
    return found | {stage.name: method for stage in stages[-1:]}


def stage_marks(records: Sequence[Mapping[str, Any]], called: Mapping[str, str]) -> list[tuple[float, str]]:
    """Where each stage begins, in epochs of the whole run, with what it is called, or else its name.

    >>> stage_marks([{"stage": "float"}, {"stage": "float"}, {"stage": "br"}], {"br": "BR"})
    [(0.5, 'float'), (2.5, 'BR')]
    """
    names = [str(record.get("stage")) for record in records]
    starts = [i for i, name in enumerate(names) if i == 0 or name != names[i - 1]]
    return [(i + 0.5, called.get(names[i], names[i])) for i in starts]


def run_marks(run: ReportedRun, records: Sequence[Mapping[str, Any]]) -> list[tuple[float, str]]:
    """`stage_marks` of its records, the last stage called after its method."""
    return stage_marks(records, stage_words(run.stages, _method(run)))


def _over_seeds(
    shown: Sequence[tuple[str, Sequence[ReportedRun]]], value: Callable[[Mapping[str, Any]], Any]
) -> list[Series]:
    result = []
    for color, (name, runs) in enumerate(shown):
        curves = [[value(record) for record in run.records] for run in runs]
        length = min(map(len, curves), default=0)
        columns = [[c[i] for c in curves if c[i] is not None] for i in range(length)]
        mean = [sum(column) / len(column) if column else None for column in columns]
        low, high = ([pick(column) if column else None for column in columns] for pick in (min, max))
        band = (low, high) if len(curves) > 1 else (None, None)
        result.append(Series(name, list(range(1, length + 1)), mean, *band, color=color))
    return result


def own_curves(run: ReportedRun) -> dict[str, Any]:
    """What the page draws on a run's own page: epochs' values, short."""
    curves = {key: [_four_digits(record.get(key)) for record in run.records] for key in DRAWN}
    known = {key: values for key, values in curves.items() if any(value is not None for value in values)}
    if not run.records:
        return {}
    return {"marks": run_marks(run, run.records), "values": known}


def _method(run: ReportedRun) -> str:
    """The regularizer in force and what else changes how the last stage trains; where nothing does, the quantizer."""
    if run.config is None:
        return ""
    target = run.config["reg"]["_target_"]
    found = [WAYS_TO_TRAIN[group].word for group in ways_to_train(run.config)]
    if words.is_regularized(run.config):
        found.insert(0, "BR" if target == BIN_REGULARIZATION else target.rpartition(".")[2])
    target = run.config["quant"]["quantizer"]["_target_"]
    return " + ".join(found) or ("LSQ" if target == words.LSQ_QUANTIZER else target.rpartition(".")[2])


def _four_digits(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
