"""What a launcher shows while it works: the table of what runs, on terminals of several widths."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from stage_configs import changed

from brsweep.runs.folder import RunFolder
from brsweep.stages.plan import outline
from brsweep.sweep.__main__ import table
from brsweep.sweep.manifest import runs_of
from brsweep.sweep.screen import LiveTable
from brsweep.sweep.tree import Task


def drawn(tasks: list[Task], columns: int, **words: str) -> list[str]:
    """The lines of the live table of tasks that run, on a terminal of so many columns."""
    console = Console(file=io.StringIO(), width=columns)
    console.print(LiveTable(words).picture(tasks, len(tasks)))
    return console.file.getvalue().splitlines()


def run_task(folder: Path, name: str, epochs: int, **result: float) -> Task:
    """A run's task, some of whose epochs are on file; `result`: of a finished one."""
    config = changed(output_dir=str(folder), sweep_name="s")
    path = folder / "s" / name
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(json.dumps(config))
    records = [{"stage": "br", "epoch": i + 1, "val_accuracy": 0.25, "time_s": 2.0} for i in range(epochs)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if result:
        RunFolder(path).write_result({"status": "finished", "config": config} | result)
    return Task(name, config, None, tuple(outline(config)), None, (name,))


def test_validation_is_validation_also_of_a_run_that_has_just_finished(tmp_path):
    tasks = [run_task(tmp_path, "a", 3), run_task(tmp_path, "b", 10, val_accuracy=0.5, test_accuracy=0.75)]
    text = "\n".join(drawn(tasks, 80))
    assert "validation" in text and "25.00%" in text and "50.00%" in text and "75.00%" not in text


def test_the_status_has_validation_and_test_apart(tmp_path):
    run_task(tmp_path, "a", 3), run_task(tmp_path, "b", 10, val_accuracy=0.5, test_accuracy=0.75)
    head, first, second, _ = (line.split() for line in table(runs_of(tmp_path / "s", pytest.fail)).splitlines())
    assert head == ["state", "epoch", "validation", "test", "left", "run"]
    assert first == ["stopped", "3/10", "25.00%", "a"]
    assert second == ["finished", "10/10", "50.00%", "75.00%", "b"]


@pytest.mark.parametrize("columns", [80, 140])
def test_long_words_are_folded_and_no_number_is(tmp_path, columns):
    tasks = [run_task(tmp_path, "a", 3), run_task(tmp_path, "b", 10)]
    lines = drawn(tasks, columns, a=" ".join(f"reg.lambda_act={i}" for i in range(12)), b="seed=1")
    assert max(map(len, lines)) <= columns
    assert all(any(cell in line for line in lines) for cell in ("3/10", "10/10", "25.00%", "validation"))
    assert all(f"reg.lambda_act={i}" in " ".join(lines) for i in range(12))


def test_a_shared_stage_is_called_by_what_its_runs_have_in_common(tmp_path):
    run = run_task(tmp_path, "a", 3)
    stem = Task("stages/float-f", run.config, "f", run.stages[:1], None, ("a", "b"))
    words = {"a": "reg.lambda_act=0 seed=1", "b": "reg.lambda_act=1 seed=1"}
    assert any("float seed=1 (for 2 runs)" in line for line in drawn([stem], 80, **words))


def test_the_table_says_how_long_the_sweep_has_to_go(tmp_path):
    console = Console(file=io.StringIO(), width=80)
    console.print(LiveTable({}, lambda running: 7500.0).picture([run_task(tmp_path, "a", 3)], 5))
    assert "5 of the sweep's tasks to end, about 2 h 05 min left" in console.file.getvalue()
