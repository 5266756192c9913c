"""The flat tables of runs and epochs, and the page that explains every field that a run writes."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import small_runs

import brsweep
from benchmarks.synthetic_sweep import write_run
from brsweep.errors import BrsweepError
from brsweep.report.frames import run_lines, write_csv
from brsweep.report.results import judge
from brsweep.report.rows import cohorts
from brsweep.report.runs import read_sweeps
from brsweep.report.table import to_csv
from brsweep.tracking.snapshots import ABOUT

TEXT = (Path(__file__).resolve().parents[1] / "docs/records.md").read_text()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of the tiny net with all that a run can write."""
    path = tmp_path_factory.mktemp("runs")
    options = ("reg.lambda_weight=1", "qat_optimizer.weight_decay=1e-4", "freeze_weights.threshold=0.1",
               "transition_rate.factor=0.005")  # fmt: skip
    return small_runs.folder(small_runs.train(*options, tmp_path=path))


def explained(heading: str) -> set[str]:
    """The fields of a section's table."""
    section = re.split(r"^## ", TEXT, flags=re.M)
    (mine,) = [part for part in section if part.startswith(f"{heading}\n")]
    cells = [line.split("|")[1] for line in mine.splitlines() if line.startswith("| `")]
    return {field for cell in cells for field in re.findall(r"`([^`]+)`", cell)}


def tables(sweep: Path, out: Path) -> tuple[list[dict], list[dict]]:
    write_csv(read_sweeps([sweep])[0], out)
    return tuple(list(csv.DictReader((out / name).read_text().splitlines())) for name in ("runs.csv", "epochs.csv"))


@pytest.mark.parametrize("file", ["metrics.jsonl", "layers.jsonl"])
def test_the_page_explains_the_fields_of_the_records_and_no_others(run, file):
    lines = [json.loads(line) for line in (run / file).read_text().splitlines()]
    assert {key for line in lines for key in line} == explained(file)


def test_the_page_explains_the_fields_of_the_snapshots_and_no_others(run):
    import numpy as np

    sites = set(json.loads((run / "layers.jsonl").read_text().splitlines()[-1])["site"])
    found = set()
    for path in (run / "snapshots").iterdir():
        with np.load(path) as arrays:
            found |= {re.sub(rf"^({'|'.join(map(re.escape, sites))})/", "<site>/", key) for key in arrays}
    assert found == explained("snapshots") and len(sites) > 3
    (about,) = [line for line in TEXT.splitlines() if line.startswith("| `<site>/about`")]
    assert re.findall(r"`(\w+)`", about) == list(ABOUT)


def test_the_page_explains_the_columns_of_both_tables_and_no_others(run, tmp_path):
    runs, epochs = tables(run.parent, tmp_path)
    columns = [key for key in runs[0] if "." not in key]
    own = explained("runs.csv")
    config = json.loads((run / "result.json").read_text())["config"]
    assert own <= set(columns) and set(columns) - own <= config.keys()
    assert set(epochs[0]) == explained("epochs.csv") | explained("metrics.jsonl")


def test_the_page_explains_the_fields_of_the_result_and_no_others(run):
    result = json.loads((run / "result.json").read_text())
    own = explained("result.json")
    assert own <= result.keys() and result.keys() - own <= explained("runs.csv")


def test_the_page_explains_the_columns_of_the_table_and_no_others(run):
    (table,) = (judge(cohort) for cohort in cohorts(read_sweeps([run.parent])[0]))
    columns = next(csv.reader([to_csv([table]).splitlines()[0]]))
    assert {column for column in columns if "." not in column} == explained("table.csv")


def test_every_run_and_every_epoch_has_a_line_with_its_numbers_in_full(tmp_path):
    a = write_run(tmp_path / "s", {"seed": 1}, result={"test_accuracy": 0.1 + 0.2})
    write_run(tmp_path / "s", {"seed": 2, "reg.lambda_act": 0.0, "reg.lambda_weight": 0.0}, state="failed")
    runs, epochs = tables(tmp_path / "s", tmp_path)
    finished, failed = sorted(runs, key=lambda line: line["seed"])
    assert finished["test_accuracy"] == "0.30000000000000004" and finished["best_epoch"] == "3"
    assert (finished["regularizer"], failed["regularizer"]) == ("binregularization", "")
    assert (failed["state"], failed["cause"], failed["test_accuracy"]) == ("failed", "no memory left", "")
    records = [json.loads(line) for line in (a / "metrics.jsonl").read_text().splitlines()]
    mine = [line for line in epochs if line["seed"] == "1"]
    assert [float(line["task_loss"]) for line in mine] == [record["task_loss"] for record in records]
    assert [(line["stage"], line["epoch"]) for line in mine] == [(r["stage"], str(r["epoch"])) for r in records]
    assert [line["epoch_total"] for line in mine] == ["1", "2", "3", "4", "5"] and mine[0]["shared"] == "false"


def test_a_runs_line_says_what_became_of_it_and_how_it_was_set(tmp_path):
    sound = write_run(tmp_path / "s", {"seed": 1}, result={"collapse": None})
    fallen = write_run(tmp_path / "s", {"seed": 2}, result={"collapse": {"epoch": 3}})
    (fallen / "metrics.jsonl").write_text("{")
    runs = sorted(tables(tmp_path / "s", tmp_path)[0], key=lambda line: line["seed"])
    assert [line["collapsed"] for line in runs] == ["false", "true"]
    assert runs[0]["problems"] == "" and fallen.name in runs[1]["problems"] and "metrics.jsonl" in runs[1]["problems"]
    result = json.loads((sound / "result.json").read_text())
    config = result["config"]
    assert runs[0]["device"] == result["device"] != config["device"]
    (line, _) = run_lines(read_sweeps([tmp_path / "s"])[0])
    assert line["schedule.ladder"] == "[]", "text, which a frame can compare"


def test_no_cell_is_a_formula(tmp_path):
    write_run(tmp_path / "s", {"model._target_": "=1+1", "=key": 1}, name="=cmd")
    runs, epochs = tables(tmp_path / "s", tmp_path)
    assert "'=key" in runs[0] and "=key" not in runs[0]
    assert (runs[0]["run"], runs[0]["model._target_"], epochs[0]["run"]) == ("'=cmd", "'=1+1", "'=cmd")


def test_frames_are_the_same_tables(tmp_path):
    pytest.importorskip("pandas", reason="needs pandas (extra `frames`)")
    for seed in (1, 2):
        write_run(tmp_path / "s", {"seed": seed})
    runs, epochs = brsweep.results(tmp_path / "s")
    lines, of_epochs = tables(tmp_path / "s", tmp_path)
    assert list(runs.columns) == list(lines[0]) and list(epochs.columns) == list(of_epochs[0])
    assert runs.test_accuracy.tolist() == [float(line["test_accuracy"]) for line in lines]
    assert epochs.groupby("seed").size().to_dict() == {1: 5, 2: 5}
    assert epochs["shared"].dtype == bool and epochs["epoch"].dtype == int
    code = re.search(r"^```python\n(.*?)^```", TEXT, flags=re.M | re.S)[1]
    exec(compile(code.replace("runs/default", str(tmp_path / "s")), "records.md", "exec"), {})


def test_what_is_to_be_known_of_the_sweep_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=list))
    write_run(tmp_path / "s", {})
    (tmp_path / "s" / "sweep.json").write_text("{")
    with pytest.warns(UserWarning, match=r"sweep\.json: damaged"):
        assert len(brsweep.results(tmp_path / "s").runs) == 1


def test_without_pandas_one_line_says_what_to_install(tmp_path, monkeypatch):
    write_run(tmp_path / "s", {})
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(BrsweepError, match=r"pandas is not installed: pip install brsweep\[frames\]"):
        brsweep.results(tmp_path / "s")
