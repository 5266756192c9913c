"""What the report shows of exported networks: a size in the table, files and costs on the run's page, damage named."""

from __future__ import annotations

import json
import re

import pytest
from test_report_files import data_in

from benchmarks.synthetic_sweep import write_sweep
from brsweep.report.notices import notices
from brsweep.report.page import page
from brsweep.report.results import judge
from brsweep.report.rows import cohorts
from brsweep.report.runs import read_sweeps
from brsweep.report.table import filled

RECORD = {"files": {"network.onnx": 311224}, "total": {"bytes": 78728, "bit_operations": 12550144}}


@pytest.fixture
def sweep(tmp_path):
    folder = tmp_path / "runs" / "made"
    grid = [{"seed": s, "bits": 2, "reg.lambda_act": a, "reg.lambda_weight": 0.0} for s in (1, 2) for a in (0.0, 1.0)]
    write_sweep(folder, grid)
    return folder


def exported(run, record=RECORD) -> None:
    (run / "export").mkdir(exist_ok=True)
    (run / "export" / "network.onnx").write_bytes(b"x")
    (run / "export" / "onnx.json").write_text(record if isinstance(record, str) else json.dumps(record))


def read(sweep):
    runs, twice = read_sweeps([sweep])
    tables = [judge(cohort) for cohort in cohorts(runs)]
    return tables, notices(tables, twice)


def test_an_exported_run_has_a_size_and_links_to_its_files(sweep):
    tables, told = read(sweep)
    assert "Size" not in [column.title for column in filled(tables[0])]
    run = sorted(path.parent for path in sweep.glob("*/result.json"))[0]
    exported(run)
    tables, told = read(sweep)
    column = next(column for column in filled(tables[0]) if column.title == "Size")
    assert sorted(column.text(result) for result in tables[0].results) == ["78.7 kB", "\N{EN DASH}"]
    data = data_in(page("made", tables, [], told, sweep / "report"))
    mine = next(entry["exports"] for entry in data["runs"] if entry["name"] == run.name)
    link = f"../{run.name}/export/network.onnx"
    assert mine["files"] == [{"name": "network.onnx", "bytes": 311224, "link": link}]
    assert (mine["bytes"], mine["bit_operations"]) == (78728, 12550144)
    assert (sweep / "report" / link).resolve() == (run / "export" / "network.onnx").resolve()
    others = [entry["exports"] for entry in data["runs"] if entry["name"] != run.name]
    assert others and all(other["files"] == [] for other in others)


@pytest.mark.parametrize(
    "record",
    ["{", "[]", '{"files": {"../../x": 1}, "total": {}}', '{"files": {"x": -1}, "total": {}}', '{"files": {}}'],
)
def test_a_damaged_record_is_named_and_costs_nothing_else(record, sweep):
    run = sorted(path.parent for path in sweep.glob("*/result.json"))[0]
    exported(run, record)
    tables, told = read(sweep)
    assert any(re.search(f"{run.name}: .*export.*damaged", line) for line in told)
    assert "Size" not in [column.title for column in filled(tables[0])]
    assert sum(len(result.row.counted) for result in tables[0].results) == 4
