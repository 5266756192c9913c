"""Hours: from the epochs of earlier runs of the same network, data and device, and from those of the running sweep."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import TINY, call
from stage_configs import changed

from brsweep.runs.folder import RunFolder
from brsweep.stages.plan import outline
from brsweep.sweep.local import LocalEngine
from brsweep.sweep.pace import Pace, network, time_left
from brsweep.sweep.tree import FINISHED, Outcome, Task


def folder(path: Path, times: dict[str, list[float]]) -> RunFolder:
    path.mkdir(parents=True, exist_ok=True)
    ran = [(stage, i, seconds) for stage, of in times.items() for i, seconds in enumerate(of, 1)]
    records = [{"stage": stage, "epoch": i, "time_s": seconds} for stage, i, seconds in ran]
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return RunFolder(path)


def finished(path: Path, config: dict, times: dict[str, list[float]]) -> None:
    folder(path, times).write_result({"status": "finished", "config": config})


def task(tmp_path: Path, name: str, stages: slice, parent: str | None = None, **fields) -> Task:
    """Some of the stages of 4 float, 2 warm-up and 4 regularized epochs."""
    config = changed(output_dir=str(tmp_path), sweep_name="s", **fields)
    return Task(name, config, None, tuple(outline(config)[stages]), parent, (name,))


def test_the_median_of_each_kind_counts_and_one_stands_for_the_other(tmp_path):
    pace, config = Pace(), changed()
    assert pace.epoch_s(network(config), True) is None
    pace.learn(folder(tmp_path / "a", {"float": [9.0, 2.0, 2.0]}), config)
    assert [pace.epoch_s(network(config), kind) for kind in (False, True)] == [2.0, 2.0]
    pace.learn(folder(tmp_path / "b", {"float": [3.0], "warmup": [5.0], "br": [7.0]}), config)
    pace.learn(folder(tmp_path / "b", {"float": [3.0], "warmup": [5.0], "br": [7.0]}), config)
    assert [pace.epoch_s(network(config), kind) for kind in (False, True)] == [2.5, 6.0], "a folder counts once"


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({"seed": 7}, True), ({"reg__lambda_act": 3.0}, True), ({"quant__act_bits": 4}, True),
        ({"model__width": 16}, False), ({"data__batch_size": 32}, False), ({"device": "cuda"}, False),
        ({"precision": "bf16"}, False), ({"threads": 2}, False),
    ],
)  # fmt: skip
def test_what_the_time_of_an_epoch_depends_on(fields, same):
    assert (network(changed(**fields)) == network(changed())) == same


def test_earlier_runs_tell_and_what_is_damaged_does_not(tmp_path):
    finished(tmp_path / "old" / "a", changed(seed=1), {"float": [1.0] * 4, "warmup": [3.0] * 2, "br": [3.0] * 4})
    (tmp_path / "old" / "b").mkdir()
    (tmp_path / "old" / "b" / "result.json").write_text("{")
    finished(tmp_path / "old" / "c", {"of": "another version"}, {"float": [1.0]})
    pace = Pace()
    pace.learn_finished(tmp_path, [changed()])
    assert pace.task_s(task(tmp_path, "x", slice(None))) == 4 * 1.0 + 6 * 3.0
    assert pace.task_s(task(tmp_path, "x", slice(None)), done=5) == 5 * 3.0
    assert pace.task_s(task(tmp_path, "x", slice(None), model__width=16)) is None


def test_a_sweep_takes_its_mean_load_and_its_longest_chain_at_least(tmp_path):
    pace = Pace()
    pace.learn(folder(tmp_path / "a", {"float": [1.0], "br": [2.0]}), changed())
    tasks = [task(tmp_path, "f", slice(2)), *(task(tmp_path, name, slice(2, None), "f") for name in "abc")]
    stem, branch = 4 * 1.0 + 2 * 2.0, 4 * 2.0
    assert time_left(pace, tasks, {}, 1) == stem + 3 * branch
    assert time_left(pace, tasks, {}, 2) == (stem + 3 * branch) / 2
    assert time_left(pace, tasks, {}, 9) == stem + branch
    assert time_left(pace, tasks[1:], {"a": 3}, 9) == branch, "the stem has ended, and a is ahead of the others"
    assert time_left(Pace(), tasks, {}, 1) is None and time_left(pace, [], {}, 1) == 0.0


def test_a_running_sweep_knows_it_after_its_first_epoch(tmp_path):
    """One epoch of the stem is on file, then the stem has ended: the records of its folder tell."""
    engine = LocalEngine((None, None))
    engine.tasks = [task(tmp_path, "f", slice(2)), *(task(tmp_path, name, slice(2, None), "f") for name in "ab")]
    assert engine.time_left_s(engine.tasks[:1]) is None
    folder(tmp_path / "s" / "f", {"float": [2.0]})
    assert engine.time_left_s(engine.tasks[:1]) == (5 + 4) * 2.0, "the longest chain"
    engine.outcomes["f"] = Outcome(engine.tasks[0], FINISHED)
    folder(tmp_path / "s" / "f", {"float": [2.0] * 4, "warmup": [3.0] * 2})
    assert engine.time_left_s(engine.tasks[:1]) == 4 * 3.0


def test_plan_and_log_say_it(tmp_path, monkeypatch, capsys):
    line = ("--multirun", *TINY, f"output_dir={tmp_path}", "hydra.launcher.in_process=true")
    first = call(monkeypatch, capsys, *line, "seed=1,2")
    assert first.code == 0 and "by the epochs of earlier runs" not in first.out
    told = [line for line in first.out.splitlines() if line.startswith("finished ")]
    assert "(about " in told[0] and told[0].endswith(" left)") and "about" not in told[1]
    plan = call(monkeypatch, capsys, *line, "seed=1,2,3", "hydra.launcher.dry_run=true").out.splitlines()
    assert [line.startswith("about ") for line in plan if "earlier runs" in line] == [True]
