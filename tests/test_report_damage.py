"""Run folders from elsewhere: whatever their files hold, reading them ends in a line that names the file, and the other
runs stand as they did. Nothing outside a run's folder is read, and no text of theirs acts on a terminal or a sheet."""

from __future__ import annotations

import ast
import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.synthetic_sweep import ONE_BLOCK, write_run, write_sweep
from brsweep.errors import BrsweepError
from brsweep.report.compare import compare
from brsweep.report.figures import Absent
from brsweep.report.figures.build import figures
from brsweep.report.notices import notices
from brsweep.report.page import page
from brsweep.report.results import inert, judge
from brsweep.report.rows import cohorts
from brsweep.report.runs import read_sweeps
from brsweep.report.table import to_csv
from brsweep.report.typeset import to_latex, to_markdown
from brsweep.runs.folder import RunFolder
from brsweep.runs.status import DAMAGED
from brsweep.runs.words import printable
from brsweep.sweep.__main__ import main as status
from brsweep.sweep.__main__ import table as status_table
from brsweep.sweep.manifest import runs_of

ROOT = Path(__file__).resolve().parents[1]
NONE = {"reg.lambda_weight": 0.0, "reg.lambda_act": 0.0}
DEEP: list = []
for _ in range(60):
    DEEP = [DEEP]
VALUES = (
    None,
    True,
    -1,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "\x1b[2J\ud800=1",
    [],
    {},
    [[1], {"a": None}],
    {"x": 1},
    DEEP,
)
WORST = "".join("[" for _ in range(100_000))


def at_every_place(content: Any, path: tuple = ()) -> Iterator[tuple]:
    """The places of nested data, outermost first."""
    yield path
    if isinstance(content, dict):
        for key in content:
            yield from at_every_place(content[key], (*path, key))
    elif isinstance(content, list) and content:
        yield from at_every_place(content[0], (*path, 0))


GONE = object()


def changed(content: Any, place: tuple, value: Any) -> Any:
    """A copy with `value` at `place`, or without what is there."""
    if not place:
        return {} if value is GONE else value
    first, *rest = place
    copy = dict(content) if isinstance(content, dict) else list(content)
    if not rest and value is GONE:
        del copy[first]
    else:
        copy[first] = changed(copy[first], tuple(rest), value)
    return copy


def everything(sweep: Path, *, drawn: bool = False) -> dict[str, str]:
    """All that reads a sweep, once; what it says of each run."""
    runs, twice = read_sweeps([sweep])
    tables = [judge(cohort) for cohort in cohorts(runs)]
    told = notices(tables, twice)
    found = figures(tables) if drawn else []
    texts = (page("s", tables, found, told), to_csv(tables), to_markdown(tables, told), to_latex(tables))
    for text in (*texts, status_table(runs_of(sweep, told.append)), compare(sweep / "a", sweep / "hit"), *told):
        text.encode()
        assert "\x1b" not in text
    json.loads(texts[0].split('id="data">')[1].split("</script>")[0])
    said = {run.name: " ".join([run.state, run.status.cause or "", *run.problems]) for run in runs}
    whole = {run.name: run.number("test_accuracy") for run in runs if run.name in ("a", "b")}
    assert whole == {"a": 0.5, "b": 0.6} and {said[name] for name in whole} == {"finished "}
    return said


@pytest.fixture
def sweep(tmp_path):
    folder = tmp_path / "s"
    write_run(folder, NONE, name="a", result={"test_accuracy": 0.5}, sites=ONE_BLOCK)
    write_run(folder, {}, name="b", result={"test_accuracy": 0.6}, sites=ONE_BLOCK)
    write_run(folder, {"seed": 7}, name="hit", sites=ONE_BLOCK)
    for name in ("layers.jsonl", "snapshots/br-end.npz"):  # shared with other runs: a file of its own
        path = folder / "hit" / name
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    return folder


def write_sealed(folder: Path, result: Any) -> None:
    RunFolder(folder).write_result(result) if isinstance(result, dict) else (folder / "result.json").write_text(
        json.dumps(result)
    )


def write_lines(path: Path) -> Callable[[Path, Any], None]:
    def write(folder: Path, record: Any) -> None:
        (folder / path).write_text(json.dumps(record) + "\n")

    return write


def result_of(folder: Path) -> Any:
    return RunFolder(folder).result()


FILES: dict[str, tuple[Callable[[Path], Any], Callable[[Path, Any], None]]] = {
    "result.json": (result_of, lambda folder, r: (folder / "result.json").write_text(json.dumps(_sealed(folder, r)))),
    "config.yaml": (
        lambda folder: RunFolder(folder).config(),
        lambda folder, config: (folder / "config.yaml").write_text(yaml.dump(config), errors="surrogatepass"),
    ),
    "metrics.jsonl": (lambda folder: RunFolder(folder).records()[2], write_lines(Path("metrics.jsonl"))),
    "layers.jsonl": (lambda folder: RunFolder(folder).layers()[0], write_lines(Path("layers.jsonl"))),
    "failure.json": (
        lambda folder: {"cause": "c", "log": "console.log"},
        lambda folder, failure: (folder / "failure.json").write_text(json.dumps(failure)),
    ),
}


def _sealed(folder: Path, result: Any) -> Any:
    from brsweep.runs.files import seal

    named = result | {"name": folder.name} if isinstance(result, dict) and "name" in result else result
    return named | {"digest": seal(named)} if isinstance(named, dict) else named


@pytest.mark.parametrize("file", FILES)
def test_no_value_in_any_place_of_a_file_is_more_than_a_line(sweep, file):
    read, write = FILES[file]
    folder = sweep / "hit"
    content = read(folder)
    if file in ("config.yaml", "failure.json"):
        (folder / "result.json").unlink()
    values = (*VALUES, GONE)
    tried = damaged = 0
    for number, place in enumerate(at_every_place(content)):
        every = 1 if file == "failure.json" else 4 if len(place) < 2 else 11  # in turn, so that all values are met
        for value in values[number % every :: every]:
            if not place and value in ([], {}, None, GONE) and file == "config.yaml":
                continue  # no configuration: no run's folder, which compare refuses
            write(folder, changed(content, place, value))
            try:
                said = everything(sweep, drawn=file == "layers.jsonl")
            except BrsweepError as error:
                assert "hit" in str(error), error
                continue
            tried += 1
            damaged += file in said.get("hit", "")
    assert tried > 2 * len(VALUES) or file == "failure.json"
    assert damaged or file in ("failure.json", "layers.jsonl")


@pytest.mark.parametrize("file", ["result.json", "config.yaml", "failure.json", "plan.json"])
def test_a_file_that_is_no_data_at_all_names_itself(sweep, file):
    folder = sweep / "hit"
    if file != "result.json":
        (folder / "result.json").unlink()
    for content in (b"", b"\xff\xfe", b"{", WORST.encode(), b"&a [*a, *a]", b"1" * 5000, b'"' + b"x" * 2**20):
        (folder / file).write_bytes(content)
        said = everything(sweep)["hit"]
        assert file in ("failure.json", "plan.json") or f"hit/{file}" in said
    (folder / file).unlink()
    (folder / file).mkdir()
    if file != "config.yaml":
        everything(sweep)


def test_a_manifest_from_elsewhere(sweep):
    write_sweep(sweep, [{"seed": 8}])
    path = sweep / "sweep.json"
    content = json.loads(path.read_text())
    for place in at_every_place(content):
        for value in (*VALUES, GONE, ["seed=" + "9" * 5000], ["seed=\N{SUPERSCRIPT TWO}"], "../hit", "n\0", "x" * 300):
            path.write_text(json.dumps(changed(content, place, value)))
            everything(sweep)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[" * 10**5, b"\xff\xfe{", b'{"version": 2, "runs": []}', "folder", "pipe"]
)
def test_a_manifest_that_cannot_be_read_is_one_warning_and_the_folders_are_reported(sweep, content, capsys):
    path = sweep / "sweep.json"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.mkdir() if content == "folder" else os.mkfifo(path)
    assert sorted(everything(sweep)) == ["a", "b", "hit"]
    runs, told = read_sweeps([sweep])
    assert len(runs) == 3 and len(told) == 1 and told[0].startswith(f"{path}: ")
    assert told[0].endswith("; only runs that have a folder are shown")
    status([str(sweep)])
    said = capsys.readouterr()
    assert said.err == f"warning: {told[0]}\n" and "3 runs: 3 finished" in said.out


# --- what lies elsewhere ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["result.json", "config.yaml", "metrics.jsonl", "failure.json"])
def test_a_file_that_is_a_link_out_of_the_folder_is_not_read(sweep, tmp_path, name):
    folder = sweep / "hit"
    if name != "result.json":
        (folder / "result.json").unlink()
    outside = tmp_path / "outside"
    own = folder / name
    outside.write_text(own.read_text() if own.exists() else json.dumps({"cause": "SECRET", "log": "l"}))
    own.unlink(missing_ok=True)
    own.symlink_to(outside)
    said = everything(sweep)["hit"]
    assert "SECRET" not in said
    if name != "failure.json":
        assert f"{name}: a link out of the run's folder, not read" in said


@pytest.mark.parametrize("name", ["layers.jsonl", "snapshots/br-end.npz", "snapshots"])
def test_records_of_layers_that_are_a_link_are_not_read(sweep, tmp_path, name):
    for run in ("b", "hit"):
        own = sweep / run / name
        own.rename(tmp_path / f"{run}-outside")
        own.symlink_to(tmp_path / f"{run}-outside")
    tables = [judge(cohort) for cohort in cohorts(read_sweeps([sweep])[0])]
    found = [f.why if isinstance(f, Absent) else f.caption for f in figures(tables) if f.name == "weights-w2a2"]
    assert all("a link out of the run's folder, not read" in text for text in found) and found


def test_a_link_within_the_folder_is_read(sweep):
    (sweep / "hit" / "metrics.jsonl").rename(sweep / "hit" / "kept")
    (sweep / "hit" / "metrics.jsonl").symlink_to("kept")
    assert everything(sweep)["hit"] == "finished "


def test_a_run_that_is_a_link_out_of_its_sweep_is_not_read(sweep, tmp_path):
    (sweep / "hit").rename(tmp_path / "outside")
    (tmp_path / "outside" / "console.log").write_text("SECRET")
    (sweep / "hit").symlink_to(tmp_path / "outside")
    (run,) = [run for run in read_sweeps([sweep])[0] if run.name == "hit"]
    assert run.state == DAMAGED and run.config is run.result is None and run.log_end() == ""
    assert "a link out of the sweep's folder; not read" in run.problems[0]


@pytest.mark.parametrize(
    "name", ["result.json", "config.yaml", "metrics.jsonl", "failure.json", "console.log", ".lock"]
)
def test_a_pipe_is_not_waited_for(sweep, name):
    folder = sweep / "hit"
    (folder / "result.json").unlink()
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    status_table(runs_of(sweep, pytest.fail))
    for run in read_sweeps([sweep])[0]:
        run.log_end()


# --- what acts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["=1+1", "+1+1", "-cmd|x", "@SUM(A1)", "\t=1", " =1", "=\x1b", "-inf", "+nan"])
def test_a_cell_that_would_be_a_formula_is_a_text(tmp_path, text):
    assert not inert(text).lstrip().startswith(("=", "+", "-", "@", "\t"))
    write_run(tmp_path / "s", {"precision": text}, name="a")
    write_run(tmp_path / "s", {"model._target_": text}, name="b", result={"code": text, "data": "digits-1"})
    write_run(tmp_path / "s", {"seed": 3}, name=text.replace("/", "_"), state="failed")
    tables = [judge(cohort) for cohort in cohorts(read_sweeps([tmp_path / "s"])[0])]
    cells = [cell for row in csv.reader(to_csv(tables).splitlines()) for cell in row]
    assert not [cell for cell in cells if cell.lstrip().startswith(("=", "+", "-", "@")) and not _is_number(cell)]
    lines = [line for line in to_markdown(tables, []).splitlines() if line.startswith("|")]
    assert not [cell for line in lines for cell in line.split(" | ") if cell.strip("| ") == text]


@pytest.mark.parametrize("text", ["-1", "+0.5", "-1e-3", "1", "", "digits-1", "a=b"])
def test_numbers_and_plain_words_stay(text):
    assert inert(text) == text


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("text", ["\x1b[2J", "\r", "\x07", "\x9b1m", "\u202e", "a\nb", "\u2028", "\udcff"])
def test_status_and_report_print_no_character_that_acts(tmp_path, text):
    name = f"run{text}"
    write_run(tmp_path / "s", {"seed": 1}, name="a")
    folder = write_run(tmp_path / "s", {"seed": 2}, name=name, state="stopped")
    RunFolder(folder).write_failure(f"cause {text}", "console.log")
    (folder / "failure.json").write_text(json.dumps({"cause": f"cause {text}", "log": "console.log"}))
    lines = status_table(runs_of(tmp_path / "s", pytest.fail)).splitlines()
    assert len(lines) == 4 and text not in "".join(lines) and printable(name) in lines[2]
    tables = [judge(cohort) for cohort in cohorts(read_sweeps([tmp_path / "s"])[0])]
    assert text not in to_markdown(tables, notices(tables, [])).replace("\n", "" if text != "a\nb" else "\n")


def test_texts_are_read_and_written_as_utf_8():
    """Whatever the locale: every reading and writing of text in the report and the status says so."""
    files = [*(ROOT / "brsweep" / "report").rglob("*.py"), *(ROOT / "brsweep" / "runs").glob("*.py")]
    bare = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            text = called.endswith((".read_text", ".write_text"))
            text |= called == "open" and "b" not in getattr(node.args[1], "value", "")
            if text and "encoding" not in {keyword.arg for keyword in node.keywords}:
                bare.append(f"{file.name}:{node.lineno}")
    assert len(files) > 20 and not bare
