"""The report's files on good, broken and hostile sweeps: what they say, and that nothing is half-written."""

from __future__ import annotations

import csv
import html.parser
import json
import re
import subprocess
import sys

import pytest

from benchmarks.synthetic_sweep import ONE_BLOCK, write_run, write_sweep
from brsweep.errors import BrsweepError
from brsweep.report import write
from brsweep.report.__main__ import default_place, main
from brsweep.report.compare import compare
from brsweep.report.figures import Absent, Figure
from brsweep.report.figures.build import figures
from brsweep.report.notices import notices
from brsweep.report.page import page
from brsweep.report.published import PAPER, SECONDARY, published
from brsweep.report.results import judge
from brsweep.report.rows import cohorts
from brsweep.report.runs import read_sweeps
from brsweep.report.table import to_csv
from brsweep.report.typeset import tex, to_latex, to_markdown
from brsweep.runs.folder import RunFolder
from brsweep.sweep.manifest import add_to_manifest

GRID = [
    {"seed": seed, "bits": bits, "reg.lambda_act": strength, "reg.lambda_weight": 0.0}
    for seed in (1, 2) for bits in (2, 4) for strength in (0.0, 0.1, 1.0)
]  # fmt: skip


def read(*sweeps):
    runs, twice = read_sweeps(sweeps)
    tables = [judge(cohort) for cohort in cohorts(runs)]
    return tables, notices(tables, twice)


def html_of(*sweeps) -> str:
    tables, told = read(*sweeps)
    return page("made", tables, [], told)


def data_in(text: str) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "made"
    write_sweep(folder, GRID, sites=ONE_BLOCK)
    return folder


@pytest.mark.slow
def test_the_command_writes_every_file_without_torch(sweep, tmp_path):
    code = (
        "import sys; from brsweep.report.__main__ import main; code = main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules and 'hydra' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(sweep), "--out", str(tmp_path / "r")], capture_output=True)
    assert done.returncode == 0, done.stderr
    files = {path.relative_to(tmp_path / "r").as_posix() for path in (tmp_path / "r").rglob("*") if path.is_file()}
    names = {figure.name for figure in figures(read(sweep)[0]) if isinstance(figure, Figure)}
    assert {"accuracy-lambda_act", "bits-lambda", "training", "weights-w2a2", "activations-w4a4", "codes"} < names
    drawn = {f"figures/{name}.{kind}" for name in names for kind in ("png", "pdf")}
    assert files == {"index.html", "table.csv", "table.md", "table.tex", "runs.csv", "epochs.csv"} | drawn
    assert all(path.stat().st_size > 2000 for path in (tmp_path / "r" / "figures").iterdir())


def test_csv_holds_the_numbers_in_full(sweep):
    rows = list(csv.DictReader(to_csv(read(sweep)[0]).splitlines()))
    results = [json.loads(path.read_text()) for path in sweep.glob("*/result.json")]
    assert len(rows) == 6
    row = next(row for row in rows if (row["bits"], row["reg.lambda_act"]) == ("W4A4", "0.1"))
    mine = [r for r in results if r["config"]["quant"]["act_bits"] == 4 and r["config"]["reg"]["lambda_act"] == 0.1]
    mean = sum(r["test_accuracy"] for r in mine) / 2
    assert float(row["test_mean"]) == pytest.approx(mean, abs=1e-15) and row["seeds"] == "1 2"
    assert float(row["test_sd"]) == pytest.approx(abs(mine[0]["test_accuracy"] - mine[1]["test_accuracy"]) / 2**0.5)


def test_markdown_and_latex_say_the_same(sweep):
    tables, told = read(sweep)
    markdown, latex = to_markdown(tables, told), to_latex(tables)
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 6 and len({line.count(" | ") for line in lines}) == 1
    assert latex.count(r"\\") == 7 and "lambda\\_act" in latex and r"$\pm$" in latex
    assert tex("50 % of a_b & {c} \\") == r"50 \% of a\_b \& \{c\} \textbackslash{}"


def test_one_seed_has_no_spread_and_no_verdict(tmp_path):
    write_sweep(tmp_path / "s", [point for point in GRID if point["seed"] == 1])
    tables, told = read(tmp_path / "s")
    assert "One seed: no spread is known, and no difference can be judged" in told
    text = to_markdown(tables, told)
    assert "±" not in text.split("\n\nTest accuracy is")[0] and "undecided at n=1" in text
    assert all("one seed: no spread" in result.notes for result in tables[0].results)


def test_another_core_is_kept_apart_and_said(tmp_path):
    write_run(tmp_path / "s", {"seed": 1})
    write_run(tmp_path / "s", {"seed": 2}, result={"core": "other"})
    _, told = read(tmp_path / "s")
    assert "kept apart in 2 tables" in told[0] and "other (1 runs)" in told[0]
    assert html_of(tmp_path / "s").count('class="sortable"') == 3  # two tables and the runs'


def test_a_cut_line_costs_the_line_and_a_damaged_file_the_curves(tmp_path):
    cut, damaged = (write_run(tmp_path / "s", {"seed": seed}) for seed in (1, 2))
    lines = (cut / "metrics.jsonl").read_text().splitlines()
    (cut / "metrics.jsonl").write_text("\n".join(lines)[:-20])
    (damaged / "metrics.jsonl").write_text("\n".join(["nonsense", *lines]))
    for folder in map(RunFolder, (cut, damaged)):
        folder.write_result(folder.result())  # as if the run had left them so
    tables, told = read(tmp_path / "s")
    assert tables[0].results[0].test.n == 2
    assert [line for line in told if "no curves" in line and damaged.name in line and "line 1" in line]
    runs = {run["seed"]: run for run in data_in(html_of(tmp_path / "s"))["runs"]}
    assert len(runs[1]["curves"]["values"]["val_accuracy"]) == len(lines) - 1 and runs[2]["curves"] == {}


def test_nan_is_a_gap_in_curves_and_no_accuracy_in_the_table(tmp_path):
    good, diverged = (write_run(tmp_path / "s", {"seed": seed}) for seed in (1, 2))
    folder = RunFolder(diverged)
    folder.write_result(folder.result() | {"test_accuracy": None})
    records = [json.loads(line) for line in (good / "metrics.jsonl").read_text().splitlines()]
    records[1]["task_loss"] = None
    (good / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    RunFolder(good).write_result(RunFolder(good).result())
    tables, told = read(tmp_path / "s")
    assert tables[0].results[0].test.n == 1 and "seed 2: no finite accuracy" in tables[0].results[0].notes
    assert [line for line in told if "without a finite test accuracy" in line]
    assert data_in(html_of(tmp_path / "s"))["runs"][0]["curves"]["values"]["task_loss"][1] is None


def test_damaged_configuration_layers_and_snapshots_cost_themselves_alone(tmp_path):
    folders = write_sweep(tmp_path / "s", GRID, sites=ONE_BLOCK)
    for folder in folders:
        (folder / "layers.jsonl").unlink()
        (folder / "layers.jsonl").write_text("no\njson\n")
        (folder / "snapshots" / "br-end.npz").unlink()
        (folder / "snapshots" / "br-end.npz").write_bytes(b"PK no archive")
    broken = write_run(tmp_path / "s", {"seed": 9}, state="stopped")
    (broken / "config.yaml").write_text("model: [")
    tables, told = read(tmp_path / "s")
    assert [line for line in told if "config.yaml: damaged" in line]
    absent = {figure.name: figure.why for figure in figures(tables) if isinstance(figure, Absent)}
    assert {"weights-w2a2", "activations-w2a2", "alpha-w4a4", "occupancy-w2a2", "codes"} <= set(absent)
    assert "layers.jsonl" in absent["codes"]


def test_a_configuration_of_another_version_is_shown_by_its_name(tmp_path):
    write_run(tmp_path / "s", {"seed": 1})
    old = write_run(tmp_path / "s", {"seed": 2}, name="old")
    result = RunFolder(old).result()
    del result["config"]["schedule"]["freeze_alpha"]
    RunFolder(old).write_result(result)
    tables, told = read(tmp_path / "s")
    assert [line for line in told if "not one that this brsweep knows" in line]
    assert [r.row.settings.get("overrides") for r in tables[0].results] == [None, "old"]
    assert "old" in page("s", tables, figures(tables), told)


def test_a_sweep_that_only_runs_has_a_report(tmp_path):
    write_run(tmp_path / "s", {"seed": 1}, state="stopped")
    tables, told = read(tmp_path / "s")
    found = figures(tables)
    assert "1 of 1 runs are not averaged: 1 stopped" in told
    assert all(isinstance(figure, Absent) for figure in found)
    text = page("s", tables, found, told)
    assert "no run has finished yet" in text and "nothing finished yet" in text


def test_a_sweep_of_which_nothing_has_begun_is_shown_by_its_overrides(tmp_path):
    (tmp_path / "s").mkdir()
    points = [("data=digits", f"reg.lambda_act={value}", f"seed={seed}") for value in (0, 1) for seed in (1, 2)]
    runs = [{"name": f"r{i}", "overrides": list(p), "epochs": 5, "stages": []} for i, p in enumerate(points)]
    add_to_manifest(tmp_path / "s", "s", "command", runs)
    tables, told = read(tmp_path / "s")
    assert told[0] == "4 of 4 runs are not averaged: 4 missing"
    assert [r.row.settings["overrides"] for r in tables[0].results] == ["reg.lambda_act=0", "reg.lambda_act=1"]
    assert tables[0].results[0].notes == ("seed 1: missing", "seed 2: missing")
    assert "0 of 2" in page("s", tables, figures(tables), told) and to_csv(tables) and to_latex(tables)


def test_hostile_names_are_text(tmp_path):
    hostile = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    run = write_run(tmp_path / "s", {"seed": 1}, name=hostile.replace("/", "_"))
    (run / "console.log").write_text("</script><script>alert(3)</script>")
    text = html_of(tmp_path / "s")

    found = []
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.append((tag, dict(attributes)))
    parser.feed(text)
    assert sum(tag == "script" for tag, _ in found) == 2  # the data and the page's own
    assert not [tag for tag, attributes in found if tag == "img" or "onerror" in attributes]
    assert data_in(text)["runs"][0]["log"].startswith("</script>")
    assert "alert(1)" in text and "<script>alert" not in text


@pytest.mark.slow
def test_a_thousand_runs(tmp_path):
    """Written once and linked, so that it costs seconds; all in the table, all in the page."""
    first = write_run(tmp_path / "s", {"seed": 0}, name="run-0")
    result = RunFolder(first).result()
    for seed in range(1, 1000):
        folder = tmp_path / "s" / f"run-{seed}"
        folder.mkdir()
        for name in ("config.yaml", "metrics.jsonl", "console.log"):
            (folder / name).hardlink_to(first / name)
        RunFolder(folder).write_result(result | {"config": result["config"] | {"seed": seed}})
    tables, told = read(tmp_path / "s")
    assert tables[0].results[0].test.n == 1000
    text = page("s", tables, [], told)
    assert len(data_in(text)["runs"]) == 1000 and len(text) < 8 * 2**20


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "no such folder"),
        (lambda path: path.mkdir(), "holds no run"),
        (lambda path: path.write_text("text"), "no such folder"),
        (lambda path: write_run(path.parent, {}, name=path.name), "a run's folder; give its sweep's"),
    ],
    ids=["absent", "empty", "a file", "a run"],
)
def test_what_is_no_sweep_is_refused_in_one_line(make, says, tmp_path, capsys):
    make(tmp_path / "s")
    assert main([str(tmp_path / "s"), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_report_that_fails_leaves_the_old_one_whole(tmp_path, monkeypatch):
    write_sweep(tmp_path / "s", GRID[:2])
    out = tmp_path / "out"
    out.mkdir()
    (out / "index.html").write_text("old")
    monkeypatch.setattr(write, "to_latex", lambda tables: 1 / 0)
    monkeypatch.setattr(write, "figures", lambda tables: [])
    with pytest.raises(ZeroDivisionError):
        write.write_report([tmp_path / "s"], out)
    assert {path.name for path in out.iterdir()} == {"index.html"} and (out / "index.html").read_text() == "old"


def test_what_else_lies_in_the_folder_stays(tmp_path, monkeypatch):
    write_sweep(tmp_path / "s", GRID[:2])
    (tmp_path / "out" / "figures").mkdir(parents=True)
    (tmp_path / "out" / "figures" / "mine.png").write_text("mine")
    monkeypatch.setattr(write, "figures", lambda tables: [])
    assert write.write_report([tmp_path / "s"], tmp_path / "out") == tmp_path / "out" / "index.html"
    found = {path.name for path in (tmp_path / "out").rglob("*")}
    tables = {"table.csv", "table.md", "table.tex", "runs.csv", "epochs.csv"}
    assert found == {"figures", "mine.png", "index.html"} | tables


def test_a_place_that_cannot_be_written(tmp_path):
    write_sweep(tmp_path / "s", GRID[:2])
    (tmp_path / "file").write_text("")
    with pytest.raises(BrsweepError, match="choose another --out"):
        write.write_report([tmp_path / "s"], tmp_path / "file" / "out")


def test_default_places(tmp_path):
    assert default_place([tmp_path / "a"]) == tmp_path / "a" / "report"
    assert default_place([tmp_path / "a", tmp_path / "b"]) == tmp_path / "report-a-b"


def test_the_page_asks_nothing_of_the_network(sweep):
    text = html_of(sweep)
    places = re.findall(r'(?:src|href|action)="([^"]*)"', text)
    assert all(place.startswith(("#", "data:", "figures/")) for place in places)
    assert "default-src 'none'" in text and "@import" not in text and "url(" not in text


def test_a_runs_page_has_command_difference_and_log(sweep):
    data = data_in(html_of(sweep))
    run = next(run for run in data["runs"] if run["seed"] == 2 and run["config"]["quant.act_bits"] == "4")
    assert run["command"].startswith("python -m brsweep.train seed=2 bits=4 reg.lambda_act=")
    assert run["command"].endswith("sweep_name=made")
    assert data["others"] == {"weight_bits": ["2", "4"], "act_bits": ["2", "4"], "lambda_act": ["0", "0.1", "1"]}
    assert run["log"].splitlines()[-1] == f"line 29 of {run['name']}" and "model._target_" in data["shared"]


def test_published_figures_stand_only_beside_lossless_cifar10():
    config = {"model": {"_target_": "brsweep.models.resnet.resnet20"}}
    lossless = config | {"data": {"_target_": "brsweep.data.downloads.Cifar10"}}
    jpeg = config | {"data": {"_target_": "brsweep.data.image_folder.ImageFolder"}}
    found = {(f.method, f.accuracy, f.source) for f in published(lossless, "W2A2")}
    assert ("APoT", 90.96, PAPER) in found and ("LSQ, re-run", 90.2, SECONDARY) in found and len(found) == 4
    assert published(jpeg, "W2A2") == [] and published(lossless, "W5A5") == []


def test_published_figures_are_in_the_table(tmp_path):
    cifar = {"data._target_": "brsweep.data.downloads.Cifar10"}
    write_run(tmp_path / "s", cifar, result={"data": "cifar10-1"})
    text = html_of(tmp_path / "s")
    assert "APoT" in text and "read in the paper or its code" in text and "92.96" in text
    assert "No published figures stand beside it" in html_of_digits(tmp_path)


def html_of_digits(tmp_path) -> str:
    write_run(tmp_path / "digits", {})
    return html_of(tmp_path / "digits")


def test_compare_says_what_differs(tmp_path):
    a = write_run(tmp_path / "s", {"seed": 1}, result={"test_accuracy": 0.5, "kernels": "reference"})
    b = write_run(tmp_path / "s", {"seed": 2, "reg.ramp.act": "linear"}, result={"test_accuracy": 0.625})
    lines = [line.split() for line in compare(a, b).splitlines()]
    assert ["seed", "1", "2"] in lines and ["reg.ramp.act", "cosine", "linear"] in lines
    assert ["kernels", "reference", "numba"] in lines
    assert ["test_accuracy", "50", "%", "62.5", "%", "+12.5", "points"] in lines
    assert not any(line and line[0].startswith("quant.") for line in lines)
    c = write_run(tmp_path / "s", {"seed": 3, "reg.own": None})
    assert ["reg.own", "(absent)", "null"] in [line.split() for line in compare(a, c).splitlines()]


def test_compare_shows_stages_and_layers(tmp_path, capsys):
    """As text; with --out as figures of the two runs on a page of their own."""
    a, b = (write_run(tmp_path / "s", {"seed": 1, "reg.lambda_act": s}, sites=ONE_BLOCK) for s in (1.0, 2.0))
    lines = [line.split() for line in compare(a, b).splitlines()]
    assert ["br", "penalty_act", "1", "1"] in lines and ["warmup", "penalty_act", "2", "2"] in lines
    assert not any(line[:2] == ["float", "penalty_act"] for line in lines), "neither recorded it"
    assert ["stages.0.0.conv1", "0.113", "0.113", "0.05", "0.08", "0.006173", "0.006173", "0.03333", "0.03333"] in lines
    assert main(["--compare", str(a), str(b), "--out", str(tmp_path / "out")]) == 0
    shown = data_in((tmp_path / "out" / "index.html").read_text())["figures"]
    assert set(shown) == {"training", "weights-a-b", "activations-a-b", "alpha-a-b", "occupancy-a-b", "codes"}
    assert {series["name"] for series in shown["training"]["panels"][0]["series"]} == {"A", "B"}
    (a / "layers.jsonl").unlink()
    (a / "layers.jsonl").write_text("no record\n\n")
    assert "not read: " in compare(a, b)


def test_a_sites_name_moves_no_cursor(tmp_path):
    a, b = (write_run(tmp_path / "s", {"seed": s}, sites=ONE_BLOCK, state="failed") for s in (1, 2))
    text = (a / "layers.jsonl").read_text()
    (a / "layers.jsonl").unlink()
    (a / "layers.jsonl").write_text(text.replace("stages.0.0.conv1", "\\u001b[2J"))
    assert "\\x1b[2J" in compare(a, b) and "\x1b" not in compare(a, b)


def test_compare_of_an_unfinished_run_and_of_no_run(tmp_path, capsys):
    a, b = write_run(tmp_path / "s", {"seed": 1}), write_run(tmp_path / "s", {"seed": 2}, state="failed")
    assert main(["--compare", str(a), str(b)]) == 0
    assert "(failed)" in capsys.readouterr().out
    assert main(["--compare", str(a), str(tmp_path)]) == 1
    assert "no run's folder" in capsys.readouterr().err
