"""seed=auto in rounds: which row gets which seeds, on made-up results; what is refused; and resuming."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from commands import TINY, call
from fake_slurm import FakeSlurm
from small_runs import config

from brsweep.errors import BrsweepError
from brsweep.runs.run import Run
from brsweep.sweep import engine as engines
from brsweep.sweep.engine import Engine
from brsweep.sweep.manifest import read_manifest
from brsweep.sweep.plan import Point
from brsweep.sweep.seeds.rounds import launch_in_rounds
from brsweep.sweep.slurm import engine as slurm_engine
from brsweep.sweep.slurm.cluster import Request
from brsweep.sweep.slurm.engine import SlurmEngine
from brsweep.sweep.tree import FAILED, FINISHED, INTERRUPTED, Outcome, Task

LSQ, BR = ("reg.lambda_weight=0", "reg.lambda_act=0"), ("reg.lambda_weight=0", "reg.lambda_act=1")
STRONG = ("reg.lambda_weight=0", "reg.lambda_act=10")
NOISE = (0.01, -0.02, 0.015, -0.01, 0.02, -0.015)
SEEDS = {"first": 1, "least": 3, "most": 6, "smallest": 0.3}
Reached = Callable[[dict], float | None]


@cache
def composed(row: tuple[str, ...]) -> dict:
    return config(*row, tmp_path=Path("runs"))


def points(folder: Path, *rows: tuple[str, ...], most: int = 6) -> list[list[Point]]:
    """Each row at the seeds 1, 2, ..."""
    places = {"output_dir": str(folder), "store_dir": str(folder / "store")}
    return [
        [Point((*row, f"seed={seed}"), composed(row) | places | {"seed": seed}) for seed in range(1, most + 1)]
        for row in rows
    ]


class Made(Engine):
    """Gives each run the validation accuracy that `reached` says; None fails, and an exception ends the launcher."""

    def __init__(self, reached: Reached, trained: list[tuple[float, int]]) -> None:
        super().__init__()
        self.reached, self.trained = reached, trained

    def check(self) -> None:
        """Ready."""

    def words_at_interrupt(self, plan) -> str:
        return "interrupted"

    def do(self, plan) -> list[Outcome]:
        for task in plan.tasks:
            self.note(self._outcome(task))
        return self.everything()

    def _outcome(self, task: Task) -> Outcome:
        if task.upto is not None:
            return Outcome(task, FINISHED)
        accuracy = self.reached(task.config)
        if accuracy is None:
            return Outcome(task, FAILED, "the loss is not a number")
        self.trained.append((task.config["reg"]["lambda_act"], task.config["seed"]))
        finish(task, accuracy)
        return Outcome(task, FINISHED)


def finish(task: Task, accuracy: float) -> None:
    known = {"val_accuracy": accuracy, "test_accuracy": accuracy, "code": Run.of(task.config).code}
    task.folder.write_result({"status": "finished", "config": task.config, **known})


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
    """The parts are known to be sound."""
    monkeypatch.setattr(engines, "check_grid", lambda plan, device=True: None)


def launch(rows, reached: Reached, seeds=SEEDS, dry_run: bool = False) -> list[tuple[float, int]]:
    """What was trained, in order: lambda_act and seed."""
    trained: list[tuple[float, int]] = []
    launch_in_rounds(rows, seeds, lambda: Made(reached, trained), "the command", dry_run=dry_run)
    return trained


def by_lambda(config: dict) -> float:
    """lambda 1 is a point better, lambda 10 as LSQ but for noise."""
    seed, strength = config["seed"], config["reg"]["lambda_act"]
    base = 0.9 + 0.003 * seed
    return base + {0: 0.0, 1: 0.01 + 0.0001 * (seed % 2), 10: NOISE[seed - 1]}[strength]


def test_a_row_that_is_decided_gets_no_more_seeds(tmp_path, capsys):
    trained = launch(points(tmp_path, LSQ, BR, STRONG), by_lambda)
    assert {seed for strength, seed in trained if strength == 1} == {1, 2, 3}
    assert {seed for strength, seed in trained if strength in (0, 10)} == {1, 2, 3, 4, 5, 6}
    assert len(trained) == len(set(trained)) == 15
    assert [seed for _, seed in trained][9:] == [4, 4, 5, 5, 6, 6], "seed by seed"
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("seed ")] == [
        f"seed {seed}: 2 rows, 8 epochs to train" for seed in (4, 5, 6)
    ]
    assert re.search(r"lambda_act=1: better at n=3: \[\+0\.\d+, \+1\.\d+\] points, above 0", "\n".join(lines))
    assert any(line.startswith("reg.lambda_act=10: undecided at n=6: the most") for line in lines)
    assert f"sweep {tmp_path}/default: 15 runs; 15 finished" in lines


def test_equal_rows_stop_when_the_difference_is_small_enough(tmp_path, capsys):
    trained = launch(points(tmp_path, LSQ, BR), lambda c: 0.9 + 0.0001 * (c["seed"] % 2) * c["reg"]["lambda_act"])
    assert len(trained) == 6 and "smaller than 0.3 points at n=3" in capsys.readouterr().out


def test_the_same_again_trains_nothing_and_says_the_same(tmp_path, capsys):
    rows = points(tmp_path, LSQ, BR, STRONG)
    launch(rows, by_lambda)
    first = capsys.readouterr().out
    assert launch(rows, by_lambda) == []
    again = capsys.readouterr().out
    verdicts = [[line for line in said.splitlines() if " at n=" in line] for said in (first, again)]
    assert verdicts[0] == verdicts[1] and len(verdicts[0]) == 2
    assert "9 runs, 9 finished already" in again and "epochs to train" not in again and "warning" not in again


@pytest.mark.parametrize("calls", [1, 8, 9, 10, 12, 14])
def test_a_launcher_that_dies_is_followed_by_one_that_goes_on(calls, tmp_path):
    """After so many runs: in the first round, between rounds, in later ones."""
    rows, left = points(tmp_path, LSQ, BR, STRONG), [calls]

    def dying(config: dict) -> float:
        if not left[0]:
            raise OSError("killed")
        left[0] -= 1
        return by_lambda(config)

    trained: list[tuple[float, int]] = []
    with pytest.raises(OSError, match="killed"):
        launch_in_rounds(rows, SEEDS, lambda: Made(dying, trained), "the command", dry_run=False)
    assert len(trained) == calls
    trained += launch(rows, by_lambda)
    assert len(trained) == len(set(trained)) == 15


def test_a_run_that_fails_stops_its_row_alone_until_it_is_mended(tmp_path, capsys):
    rows = points(tmp_path, LSQ, BR, STRONG)

    def diverging(config: dict) -> float | None:
        return None if (config["reg"]["lambda_act"], config["seed"]) == (1, 2) else by_lambda(config)

    with pytest.raises(BrsweepError, match=r"^1 of 15 runs not finished; the same command goes on with them$"):
        launch(rows, diverging)
    out = capsys.readouterr().out
    assert "reg.lambda_act=1: not judged, a run that it needs is not finished" in out
    assert "reg.lambda_act=10: undecided at n=6" in out and "failed " in out
    assert launch(rows, by_lambda) == [(1, 2)]
    assert "better at n=3" in capsys.readouterr().out


def test_where_lsq_fails_nothing_is_judged(tmp_path, capsys):
    with pytest.raises(BrsweepError, match="1 of 6 runs not finished"):
        launch(points(tmp_path, LSQ, BR), lambda c: None if c["reg"]["lambda_act"] == 0 and c["seed"] == 3 else 0.5)
    assert "reg.lambda_act=1: not judged" in capsys.readouterr().out


def test_a_launch_that_ends_early_begins_no_further_round(tmp_path, monkeypatch):
    """As `fail_fast` ends one: the row of lambda 10 is whole and undecided, and goes on with the next command."""
    whole, trained = Made._outcome, []

    def ended(self, task: Task) -> Outcome:
        return Outcome(task, INTERRUPTED) if task.config["reg"]["lambda_act"] == 1 else whole(self, task)

    monkeypatch.setattr(Made, "_outcome", ended)
    with pytest.raises(BrsweepError, match="3 of 9 runs not finished"):
        launch_in_rounds(points(tmp_path, LSQ, BR, STRONG), SEEDS, lambda: Made(by_lambda, trained), "c", dry_run=False)
    assert {seed for _, seed in trained} == {1, 2, 3}


def test_each_bit_width_has_an_lsq_row_of_its_own(tmp_path, capsys):
    """At 4 bits the LSQ row is far above the others; compared across bits, nothing would be what it is."""
    rows = points(tmp_path, *((f"quant={q}", *row) for q in ("w2a2", "w4a4") for row in (LSQ, BR)))
    level = {2: 0.5, 4: 0.9}
    launch(rows, lambda c: level[c["quant"]["weight_bits"]] + by_lambda(c) - 0.9)
    out = capsys.readouterr().out
    assert "2 rows judged" in out and out.count("better at n=3") == 2


def test_frozen_lsq_is_judged_against_free_lsq(tmp_path, capsys):
    rows = points(tmp_path, *((f"schedule.freeze_alpha={frozen}", *LSQ) for frozen in ("false", "true")))
    launch(rows, lambda c: 0.9 + 0.0001 * c["seed"] - 0.01 * c["schedule"]["freeze_alpha"] * (1 + 0.01 * c["seed"]))
    assert "schedule.freeze_alpha=true" in capsys.readouterr().out.split("worse at n=3")[0].splitlines()[-1]


def test_points_that_are_one_run_are_one_row(tmp_path):
    rows = points(tmp_path, LSQ, BR, (*BR, "reg.alpha_grad_scale=lsq"))  # without an effect where BR is kept from alpha
    assert len(launch(rows, lambda c: 0.9 + 0.0001 * (c["seed"] % 2) * c["reg"]["lambda_act"])) == 6


def test_the_plan_says_what_it_takes_at_least_and_at_most(tmp_path, capsys):
    """Of each seed: 2 float epochs and 2 of warm-up, shared, and 2 for each of three rows."""
    assert launch(points(tmp_path, LSQ, BR, STRONG), by_lambda, dry_run=True) == []
    out = capsys.readouterr().out
    assert "sweep " in out and "9 runs, 0 finished already" in out
    assert "seed=auto: 30 epochs at least, 60 at most: 3 to 6 seeds for each of 3 rows, from 1 on" in out
    assert "2 rows judged on validation against the row without a lambda, until better, worse or smaller" in out
    assert "wrong in at most 5% of such sweeps" in out and not list(tmp_path.rglob("sweep.json"))


def test_the_manifest_says_how_the_seeds_are_found_and_a_change_is_told(tmp_path, capsys):
    rows = points(tmp_path, LSQ, BR, STRONG)
    launch(rows[:2], by_lambda)
    known = {"first": 1, "least": 3, "most": 6, "smallest": 0.003, "comparisons": 1}
    assert read_manifest(tmp_path / "default")["seeds"] == known
    assert "warning" not in capsys.readouterr().out
    launch(rows, by_lambda)
    assert read_manifest(tmp_path / "default")["seeds"] == known | {"comparisons": 2}
    assert "warning: this sweep was begun with other sweep.seeds or other rows" in capsys.readouterr().out


def test_a_fixed_list_in_the_same_folder_leaves_that_as_it_is(tmp_path):
    from brsweep.sweep.plan import plan_sweep

    rows = points(tmp_path, LSQ, BR)
    launch(rows, by_lambda)
    before = read_manifest(tmp_path / "default")
    plan_sweep([row[5] for row in rows]).begin("another command")
    after = read_manifest(tmp_path / "default")
    assert after["seeds"] == before["seeds"] and len(after["runs"]) == len(before["runs"]) + 2


REFUSED = {
    "no row without a lambda that is otherwise as": (BR, STRONG),
    "the grid has one row, and nothing to judge": (LSQ,),
    "data.val_fraction=0: seed=auto judges by validation accuracy": ((*LSQ, "data.val_fraction=0"), BR),
}


@pytest.mark.parametrize("says", REFUSED)
def test_what_can_not_be_judged_is_refused(says, tmp_path):
    with pytest.raises(BrsweepError, match=says):
        launch(points(tmp_path, *REFUSED[says]), by_lambda)
    assert not list(tmp_path.rglob("sweep.json"))


# --- on a cluster -----------------------------------------------------------------------------------------------------

PLAIN = Request(
    partition=None, account=None, qos=None, constraint=None, gres=None, gpus_per_node=None, cpus_per_task=None,
    mem_gb=None, timeout_min=60, signal_delay_s=120, max_num_timeout=10, array_parallelism=256, setup=[],
    additional_parameters={},
)  # fmt: skip


def test_on_a_cluster_each_round_is_submitted_and_waited_for(tmp_path, monkeypatch):
    fake, submitted = FakeSlurm(tmp_path / "bin"), []
    monkeypatch.setenv("PATH", f"{fake.folder}:/usr/bin:/bin")

    def submit(plan, request, max_array_size, say, accepted):
        """Jobs that are done at once, and gone from the queue."""
        accepted()
        submitted.append(sorted({task.config["seed"] for task in plan.tasks}))
        for task in plan.tasks:
            if task.upto is None:
                finish(task, by_lambda(task.config))
        return {}

    monkeypatch.setattr(slurm_engine, "submit", submit)
    monkeypatch.setattr(slurm_engine, "is_done", lambda task: True)
    rows = points(tmp_path, LSQ, STRONG)
    done = launch_in_rounds(rows, SEEDS, lambda: SlurmEngine(PLAIN, None, 0.0, True), "the command", dry_run=False)
    assert submitted == [[1, 2, 3], [4], [5], [6]] and len(done) == 12
    with pytest.raises(BrsweepError, match=r"has to wait for them; leave hydra.launcher.wait=true$"):
        launch_in_rounds(rows, SEEDS, lambda: SlurmEngine(PLAIN, None, 0.0, False), "the command", dry_run=False)


# --- through the command ----------------------------------------------------------------------------------------------

GRID = ("reg.lambda_weight=0", "reg.lambda_act=0,10")
COMMANDS = {
    ("seed=auto",): "seed=auto: only a sweep finds how many seeds it takes: python -m brsweep.train --multirun",
    ("sweep.seeds.most=4",): "sweep.seeds.most=4: has an effect on sweeps alone; add --multirun seed=auto",
    ("--multirun", "sweep.seeds.most=4", "seed=1,2"): "sweep.seeds.most=4: has an effect with seed=auto alone",
    ("--multirun", "seed=auto,3", *GRID): "seed=auto: stands alone; give it, or a list of seeds",
    ("--multirun", "seed=auto", "reg.lambda_act=0,10"): "seed=auto: the grid has no row without a lambda",
    ("--multirun", "seed=auto", "sweep.seeds.most=3,4", *GRID): "sweep.seeds: one for the whole sweep",
    ("--multirun", "seed=auto", "sweep.seeds.least=20", *GRID): "sweep.seeds.least=20: is more than sweep.seeds.most=1",
    ("--multirun", "seed=auto", "sweep.seeds.most=1", *GRID): "sweep.seeds.most=1: a whole number from 2 to 100",
    ("--multirun", "seed=auto", "sweep.seeds.moist=4", *GRID): "sweep.seeds.moist: there is no such option",
    ("--multirun", "seed=auto", "hydra/launcher=slurm", "hydra.launcher.wait=false", *GRID): "has to wait for them",
}


@pytest.mark.parametrize("typed", COMMANDS, ids=" ".join)
def test_one_line_says_what_is_wrong_and_nothing_starts(typed, tmp_path, monkeypatch, capsys):
    answer = call(monkeypatch, capsys, *TINY, f"output_dir={tmp_path}", *typed)
    assert answer.code == 1 and answer.err.startswith("error: ") and answer.err.count("\n") == 1
    assert COMMANDS[typed] in answer.err and not list(tmp_path.iterdir())


def test_seeds_and_what_follows_from_them_are_composed_for_each_seed(tmp_path, monkeypatch, capsys):
    """What a YAML file makes of the seed; and a preset that lists seeds gives way to what is typed."""
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "each.yaml").write_text("# @package _global_\nstore_dir: store-${seed}\n")
    typed = ("sweep=lambda_acts", "seed=auto", "sweep.seeds={first: 7, least: 2, most: 3}", "reg.lambda_act=0,1")
    own = (f"hydra.searchpath=[file://{tmp_path / 'conf'}]", "experiment=each")
    answer = call(monkeypatch, capsys, *TINY, f"output_dir={tmp_path}", *typed, *own, "hydra.launcher.dry_run=true")
    assert answer.code == 1 and "store_dir=store-7,store-8: one for the whole sweep" in answer.err
    answer = call(monkeypatch, capsys, *TINY, f"output_dir={tmp_path}", *typed, "hydra.launcher.dry_run=true")
    assert answer.code == 0, answer.err
    assert "seed=auto: 8 epochs at least, 12 at most: 2 to 3 seeds for each of 2 rows, from 7 on" in answer.out
    assert {f"s{seed}" for seed in (7, 8)} <= set(re.findall(r"la1-(s\d+)", answer.out)) and "-s9" not in answer.out


def test_a_yaml_file_may_ask_for_seeds(tmp_path, monkeypatch, capsys):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "auto.yaml").write_text("# @package _global_\nseed: auto\n")
    own = (f"hydra.searchpath=[file://{tmp_path / 'conf'}]", "experiment=auto", "sweep.seeds.most=4")
    places = (f"output_dir={tmp_path}", "hydra.launcher.dry_run=true")
    answer = call(monkeypatch, capsys, *TINY, *own, *places, "--multirun", *GRID)
    assert answer.code == 0 and "3 to 4 seeds for each of 2 rows, from 42 on" in answer.out, answer.err
    answer = call(monkeypatch, capsys, *TINY, *own[:2], *places[:1])
    assert answer.code == 1 and answer.err.startswith("error: seed=auto: only a sweep finds")


def test_a_run_knows_nothing_of_how_its_seeds_are_found(tmp_path):
    made = config("sweep.seeds.most=5", tmp_path=tmp_path)
    assert "sweep" not in made and json.dumps(made)
