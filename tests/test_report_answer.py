"""What a sweep comes to, said where its command ends: the report's own words, and a line for a single setting."""

from __future__ import annotations

from itertools import product

import pytest
from commands import TINY, call

from benchmarks.synthetic_sweep import write_run, write_sweep
from brsweep.report.answer import MOST_ROWS, answer, close
from brsweep.report.results import judge
from brsweep.report.rows import cohorts
from brsweep.report.runs import read_sweeps
from brsweep.report.table import headlines, percentage, points

GRID = [
    {"bits": bits, "reg.lambda_weight": 0.0, "reg.lambda_act": value, "seed": seed}
    for bits, value, seed in product((2, 4), (0.0, 0.1, 1.0), (1, 2, 3))
]


def test_it_is_the_reports_line_for_each_bit_width(tmp_path):
    write_sweep(tmp_path / "s", GRID)
    (judged,) = (judge(cohort) for cohort in cohorts(read_sweeps([tmp_path / "s"])[0]))
    said = answer(tmp_path / "s")
    assert said == headlines(judged)[0] and len(said) == 2
    for line, bits in zip(said, ("W2A2", "W4A4"), strict=True):
        assert line.startswith(bits) and "against LSQ" in line and " at n=3." in line


def test_a_single_setting_has_its_mean_and_spread(tmp_path):
    write_sweep(tmp_path / "s", [{"seed": seed} for seed in (1, 2, 3)])
    (judged,) = (judge(cohort) for cohort in cohorts(read_sweeps([tmp_path / "s"])[0]))
    (result,) = judged.results
    (line,) = answer(tmp_path / "s")
    assert line == (f"W2A2: test {percentage(result.test)} % over 3 seeds, validation {percentage(result.val)} %; "
                    f"gap to FP32 {points(result.gap_float)} points.")  # fmt: skip
    assert " ± " in line and result.val.mean != result.test.mean
    write_sweep(tmp_path / "one", [{"seed": 1}])
    assert " % over 1 seed," in answer(tmp_path / "one")[0] and "±" not in answer(tmp_path / "one")[0]


def test_without_a_validation_split_each_row_is_said_and_none_picked(tmp_path):
    runs = [{"data.val_fraction": 0.0, "reg.lambda_act": value, "seed": 1} for value in (0.1, 1.0)]
    for run in runs:
        write_run(tmp_path / "s", run, result={"val_accuracy": None})
    assert [line.partition(":")[0] for line in answer(tmp_path / "s")] == [
        "W2A2, lambda_act 0.1", "W2A2, lambda_act 1",
    ]  # fmt: skip


@pytest.mark.parametrize(("rows", "said"), [(MOST_ROWS, MOST_ROWS), (MOST_ROWS + 1, 0)])
def test_a_long_table_without_a_pick_is_the_reports(rows, said, tmp_path):
    for value in range(1, rows + 1):
        changes = {"data.val_fraction": 0.0, "reg.lambda_act": float(value), "seed": 1}
        write_run(tmp_path / "s", changes, result={"val_accuracy": None})
    assert len(answer(tmp_path / "s")) == said


def test_a_first_try_ends_with_its_report(tmp_path, capsys):
    write_sweep(tmp_path / "s", [{"seed": seed} for seed in (1, 2)])
    close(tmp_path / "s", [{"quick": False}])
    assert "report in" not in capsys.readouterr().out and not (tmp_path / "s" / "report").exists()
    close(tmp_path / "s", [{"quick": False}, {"quick": True}])
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"report in {tmp_path / 's' / 'report'}")
    assert (tmp_path / "s" / "report" / "index.html").is_file()


def test_what_can_not_be_read_is_a_warning_and_no_failure(tmp_path, capsys):
    close(tmp_path / "nowhere", [{}])
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("warning: no summary of ") and said.err.count("\n") == 1


@pytest.mark.parametrize(("typed", "last"), [("reg.lambda_act=0,1", "against LSQ"), ("seed=1,2", "over 2 seeds")])
def test_the_command_ends_with_it(typed, last, tmp_path, monkeypatch, capsys):
    line = ("--multirun", *TINY, f"output_dir={tmp_path}", "reg.lambda_weight=0", "hydra.launcher.in_process=true")
    assert "test " not in call(monkeypatch, capsys, *line, typed, "hydra.launcher.dry_run=true").out
    done = call(monkeypatch, capsys, *line, typed)
    assert done.code == 0, done.err
    assert last in done.out.splitlines()[-1]
