"""A sweep with seed=auto: train, look, and go on with the rows that are undecided.

    round 1        every row of the grid at the first `least` seeds
    round 2, ...   one more seed for each row that is undecided, and for the row that it is compared with

A row ends when its differences to that row decide (sequential.py), when it has had `most` seeds, or when a run that it
needs failed; that stops no other row. Nothing is kept between rounds but the runs: the same command finds them
finished, looks again as it did, and goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from brsweep.errors import BrsweepError
from brsweep.runs.run import Run
from brsweep.sweep.compared import is_lsq, partners
from brsweep.sweep.engine import Engine, close
from brsweep.sweep.manifest import read_manifest
from brsweep.sweep.plan import Point, SweepPlan, many, plan_sweep
from brsweep.sweep.screen import Lines
from brsweep.sweep.seeds.sequential import LEVEL, UNDECIDED, Design, looks, rule_in_words
from brsweep.sweep.tree import INTERRUPTED, Outcome


@dataclass(eq=False)
class Row:
    """points: one for each seed that it may get. words: what sets it apart. partner: the row that it is compared with.
    accuracies: on the validation split, of its seeds so far, None where a run is not finished. ended: whether it was
    told why it gets no more seeds for its own sake."""

    points: Sequence[Point]
    words: str
    partner: Row | None = None
    accuracies: list[float | None] = field(default_factory=list)
    ended: bool = False

    @property
    def failed(self) -> bool:
        return None in self.accuracies


def launch_in_rounds(
    rows: Sequence[Sequence[Point]],
    seeds: Mapping[str, Any],
    engine: Callable[[], Engine],
    command: str,
    *,
    dry_run: bool,
) -> list[tuple[Point, Mapping[str, Any] | None]]:
    """Do a sweep whose rows get as many seeds as they need; every point that was done, with its result.

    rows: each point of the grid at every seed that it may get. seeds: `sweep.seeds`. engine: a new one for each round.
    Raises `BrsweepError` where rows have nothing to be compared with, and where a run is not finished in the end.
    """
    if not engine().waits:
        raise BrsweepError("seed=auto: the next seeds follow from results, so the launcher has to wait for them; leave "
                           "hydra.launcher.wait=true")  # fmt: skip
    family = family_of(rows)
    design = Design(
        first=seeds["first"],
        least=seeds["least"],
        most=seeds["most"],
        smallest=seeds["smallest"] / 100,
        comparisons=sum(row.partner is not None for row in family),
    )
    sweep = Rounds(family, design, engine, command)
    return sweep.dry() if dry_run else sweep.run()


def family_of(rows: Sequence[Sequence[Point]]) -> list[Row]:
    """The rows, each once, with what they are compared with. Raises `BrsweepError` where one has no such row."""
    plan = plan_sweep([points[0] for points in rows])
    kept = [i for i, name in enumerate(plan.names) if name not in plan.names[:i]]
    family = [Row(rows[i], plan.words[plan.names[i]]) for i in kept]
    configs = [row.points[0].config for row in family]
    if any(config["data"]["val_fraction"] == 0 for config in configs):
        raise BrsweepError("data.val_fraction=0: seed=auto judges by validation accuracy; give the seeds, or a split")
    found = partners(configs)
    for place, row in enumerate(family):
        if place in found:
            row.partner = family[found[place]]
        elif not is_lsq(configs[place]):
            raise BrsweepError(f"seed=auto: the grid has no row without a lambda that is otherwise as {row.words}, to "
                               "judge it against; add one with reg.lambda_weight=0 reg.lambda_act=0")  # fmt: skip
    if not found:
        raise BrsweepError("seed=auto: the grid has one row, and nothing to judge; add a lambda, or give the seeds")
    return family


class Rounds:
    def __init__(self, family: Sequence[Row], design: Design, engine: Callable[[], Engine], command: str) -> None:
        self.family, self.design, self.engine, self.command = family, design, engine, command
        self.shown = Lines({})
        self.plans: list[SweepPlan] = []
        self.outcomes: list[Outcome] = []

    def dry(self) -> list[tuple[Point, Mapping[str, Any] | None]]:
        """Say what the least number of seeds takes, and what the most takes."""
        least = self._plan(self.family, range(self.design.least))
        self.shown.say("\n".join(self.engine().dry(least, self._ahead(least))))
        return [(point, None) for point in least.points]

    def run(self) -> list[tuple[Point, Mapping[str, Any] | None]]:
        going, places = list(self.family), range(self.design.least)
        while going:
            plan = self._plan(going, places)
            self._train(plan, self._lines(plan, going))
            reached = {run.name: _accuracy(run) for run in plan.runs}
            found = iter(reached[name] for name in plan.names)
            for row in going:
                row.accuracies += [next(found) for _ in places]
            if any(outcome.status == INTERRUPTED for outcome in self.outcomes):
                break
            undecided = self._look(going)
            going = [row for row in self.family if any(row in (u, u.partner) for u in undecided)]
            places = range(places.stop, places.stop + 1)
        return self._close()

    def _plan(self, rows: Sequence[Row], places: Sequence[int]) -> SweepPlan:
        plan = plan_sweep([row.points[place] for row in rows for place in places])
        return replace(plan, seeds=asdict(self.design))

    def _train(self, plan: SweepPlan, lines: Sequence[str]) -> None:
        self.plans.append(plan)
        self.outcomes += self.engine().train(plan, self.command, lines) or ()

    def _lines(self, plan: SweepPlan, rows: Sequence[Row]) -> list[str]:
        if not self.plans:
            return [*plan.lines(), *self._ahead(plan), *self._changed(plan)]
        epochs = sum(task.epochs for task in plan.tasks)
        seed = rows[0].points[len(rows[0].accuracies)].config["seed"]
        return [f"seed {seed}: {many(len(rows), 'row')}, {epochs:,} epochs to train"] if plan.tasks else []

    def _ahead(self, least: SweepPlan) -> list[str]:
        """What may come after the least number of seeds."""
        design = self.design
        most = plan_sweep([point for row in self.family for point in row.points])
        small = f" or smaller than {100 * design.smallest:g} points" if design.smallest else ""
        low, high = (sum(task.epochs for task in plan.tasks) for plan in (least, most))
        return [
            f"seed=auto: {low:,} epochs at least, {high:,} at most: {design.least} to {design.most} seeds for each of "
            f"{many(len(self.family), 'row')}, from {design.first} on",
            f"{many(design.comparisons, 'row')} judged on validation against the row without a lambda, until better, "
            f"worse{small}; wrong in at most {LEVEL:.0%} of such sweeps",
        ]

    def _changed(self, plan: SweepPlan) -> list[str]:
        try:
            before = (read_manifest(plan.path) or {}).get("seeds")
        except BrsweepError:
            return []
        if before is None or before == asdict(self.design):
            return []
        return [
            f"warning: this sweep was begun with other sweep.seeds or other rows; that at most {LEVEL:.0%} are "
            "wrong holds for what was chosen before the first look"
        ]

    def _look(self, rows: Sequence[Row]) -> list[Row]:
        """Say of each row that ends why it does; those that go on."""
        undecided = []
        for row in rows:
            if row.partner is None or row.ended:
                continue
            why = self._why_ended(row)
            row.ended = why is not None
            if row.ended:
                self.shown.say(f"{row.words}: {why}")
            else:
                undecided.append(row)
        return undecided

    def _why_ended(self, row: Row) -> str | None:
        if row.failed or row.partner.failed:
            return "not judged, a run that it needs is not finished"
        pairs = zip(row.accuracies, row.partner.accuracies, strict=True)
        look = looks([own - other for own, other in pairs], self.design)[-1]
        goes_on = look.verdict == UNDECIDED and look.n < self.design.most
        return None if goes_on else rule_in_words(look, self.design)

    def _close(self) -> list[tuple[Point, Mapping[str, Any] | None]]:
        runs = {run.name: run for plan in self.plans for run in plan.runs}
        finished = {name: result for plan in self.plans for name, result in plan.finished.items()}
        close(replace(self.plans[0], runs=list(runs.values()), finished=finished), self.outcomes, self.shown)
        points = {name: point for plan in self.plans for point, name in zip(plan.points, plan.names, strict=True)}
        return [(points[name], run.folder.result()) for name, run in runs.items()]


def _accuracy(run: Run) -> float | None:
    """On the validation split; None where the run is not finished."""
    return run.folder.result()["val_accuracy"] if run.folder.finished else None
