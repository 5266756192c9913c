"""What runs share, as a tree of tasks: counts and parents, from real configurations."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import config

from brsweep.errors import BrsweepError
from brsweep.runs.run import Run
from brsweep.sweep.plan import Point, plan_sweep
from brsweep.sweep.tree import epochs_apart, grow


def runs(tmp_path: Path, *grid: tuple[str, ...]) -> list[Run]:
    sources: dict = {}
    return [Run.of(config(*overrides, tmp_path=tmp_path), sources) for overrides in grid]


def shape(tasks) -> list[tuple[str, str | None, int]]:
    """Each task's stages, its parent's last stage, and how many runs need it."""
    last = {task.name: task.stages[-1].name for task in tasks}
    return [("+".join(stage.name for stage in task.stages), last.get(task.parent), len(task.runs)) for task in tasks]


def test_fifteen_lambdas_of_the_long_recipe(tmp_path):
    recipe = ("schedule.float_epochs=100", "schedule.warmup_epochs=30", "schedule.qat_epochs=100")
    found = runs(tmp_path, *((*recipe, f"reg.lambda_act={value}") for value in range(15)))
    tasks = grow(found, lambda _: False)
    assert epochs_apart(found) == 3000
    assert sum(task.epochs for task in tasks) == 1180
    assert shape(tasks) == [("float+warmup", None, 15)] + [("br", "warmup", 1)] * 15


def test_bits_share_the_float_stage_and_lambdas_the_warm_up(tmp_path):
    grid = [("quant=w2a2", f"reg.lambda_act={value}") for value in (0, 1)] + [("quant=w4a4",)]
    assert shape(grow(runs(tmp_path, *grid), lambda _: False)) == [
        ("float", None, 3), ("warmup", "float", 2), ("br", "warmup", 1), ("br", "warmup", 1), ("warmup+br", "float", 1),
    ]  # fmt: skip


def test_seeds_share_nothing_and_each_branch_comes_as_a_whole(tmp_path):
    grid = [(f"seed={seed}", f"reg.lambda_act={value}") for value in (0, 1) for seed in (1, 2)]
    found = runs(tmp_path, *grid)
    tasks = grow(found, lambda _: False)
    seeds = [task.config["seed"] for task in tasks]
    assert seeds == [1, 1, 1, 2, 2, 2]
    assert grow([found[0]], lambda _: False)[0].epochs == 6, "alone, a run trains all of its stages"


def test_what_is_stored_is_no_task(tmp_path):
    found = runs(tmp_path, *(("quant=w2a2", f"reg.lambda_act={value}") for value in (0, 1)))
    floating, warmup = (stage.signature for stage in found[0].stages[:2])
    assert shape(grow(found, {floating}.__contains__)) == [
        ("warmup", None, 2), ("br", "warmup", 1), ("br", "warmup", 1),
    ]  # fmt: skip
    assert shape(grow(found, {warmup}.__contains__)) == [("br", None, 1), ("br", None, 1)]


def test_parents_come_first_and_no_stage_is_trained_twice(tmp_path):
    grid = [
        (f"quant={bits}", f"reg.lambda_act={value}", f"schedule.freeze_alpha={freeze}", f"seed={seed}")
        for seed in (1, 2) for bits in ("w2a2", "w4a4") for value in (0, 1) for freeze in ("false", "true")
    ]  # fmt: skip
    tasks = grow(runs(tmp_path, *grid), lambda _: False)
    seen: set[str | None] = {None}
    for task in tasks:
        assert task.parent in seen
        seen.add(task.name)
    trained = [stage.signature for task in tasks for stage in task.stages]
    assert len(trained) == len(set(trained)) == 2 + 4 + 16


def points(tmp_path: Path, *grid: tuple[str, ...]) -> list[Point]:
    return [Point(overrides, config(*overrides, tmp_path=tmp_path)) for overrides in grid]


def test_points_that_are_one_run_run_once(tmp_path):
    control = [
        (f"schedule.freeze_alpha={freeze}", f"reg.backprop_to_alpha={through}")
        for freeze in ("false", "true") for through in ("false", "true")
    ]  # fmt: skip
    plan = plan_sweep(points(tmp_path, *control))
    assert len(plan.runs) == 3 and plan.names[2] == plan.names[3]
    assert "1 of 4 points is a repeat of another" in plan.lines()[1]
    assert plan.words[plan.names[2]] == "schedule.freeze_alpha=true reg.backprop_to_alpha=false"


@pytest.mark.parametrize("name", ["sweep_name", "output_dir", "store_dir"])
def test_what_is_one_for_the_sweep_can_not_vary(tmp_path, name):
    with pytest.raises(BrsweepError, match=f"{name}=.*one for the whole sweep"):
        plan_sweep(points(tmp_path, (f"{name}={tmp_path}/a".replace(f"sweep_name={tmp_path}/", "sweep_name="),), ()))


def test_an_empty_grid_is_named():
    with pytest.raises(BrsweepError, match="no point"):
        plan_sweep([])


def test_planning_writes_nothing(tmp_path):
    plan_sweep(points(tmp_path, ("seed=1",), ("seed=2",))).tree()
    assert list(tmp_path.iterdir()) == []
