"""The store's size report and its clean-up: what an unfinished run needs stays, whatever else goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import shell
from small_runs import config

from brsweep.errors import BrsweepError
from brsweep.runs.folder import RunFolder
from brsweep.runs.run import Run
from brsweep.stages.store import MARKER, Store, os_lock
from brsweep.sweep import cleanup
from brsweep.sweep.__main__ import main as status
from brsweep.sweep.manifest import MANIFEST, add_to_manifest

A, B, C, D, E = (letter * 16 for letter in "abcde")


def stored(output: Path, *names: str) -> Store:
    store = Store(output / "store")
    for name in names:
        folder = store.root / name
        folder.mkdir(parents=True)
        (folder / "state.pt").write_bytes(bytes(2**20))
        (folder / "entry.json").write_text(json.dumps({"stage": "float"}))
    with store.lock("0" * 16):
        return store


def sweep(output: Path, name: str, needs: list[str], finished: bool) -> None:
    run = {"name": f"run-{name}", "overrides": [], "epochs": 6, "stages": needs}
    add_to_manifest(output / name, name, "command", [run])
    if finished:
        folder = RunFolder(output / name / f"run-{name}")
        folder.path.mkdir()
        folder.write_result({"status": "finished"})


def left(store: Store) -> list[str]:
    return sorted(path.name for path in store.root.iterdir() if path.name not in ("locks", MARKER))


def test_only_what_no_unfinished_run_needs_is_removed(tmp_path, capsys):
    store = stored(tmp_path, A, B, C, C + ".partial", D + ".partial", A + ".damaged", C + "-cuda", D + "-cuda")
    sweep(tmp_path, "one", [A, C], finished=False)
    sweep(tmp_path, "two", [B], finished=True)
    cleanup.main([str(tmp_path)])
    said = capsys.readouterr().out
    assert "8 entries, 8.0 MiB; 4.0 MiB needed by no unfinished run" in said
    assert len(left(store)) == 8, "nothing without --remove"
    cleanup.main([str(tmp_path), "--remove"])
    assert "removed 4 entries, 4.0 MiB" in capsys.readouterr().out
    assert left(store) == [A, C, C + "-cuda", C + ".partial"]


def test_each_entry_says_what_it_is_a_stage_of(tmp_path, capsys):
    """By the specifications of a real run's stages; an entry that holds none is shown by its hash alone."""
    run = Run.of(config("data.limit=9", "quant=w4a2", "seed=7", tmp_path=tmp_path))
    for stage in run.stages[:-1]:
        stored(tmp_path, stage.signature)
        entry = tmp_path / "store" / stage.signature / "entry.json"
        entry.write_text(json.dumps({"stage": stage.name, "spec": stage.spec}))
    stored(tmp_path, A)
    cleanup.main([str(tmp_path)])
    lines = {line.split()[0]: line.split()[1:-5] for line in capsys.readouterr().out.splitlines()[:3]}
    told = ["tiny", "synthetic-1", "limit=9"]
    assert lines == {
        run.stages[0].signature: ["float", *told, "float", "seed", "7", "1.0"],
        run.stages[1].signature: ["warmup", *told, "w4a2", "seed", "7", "1.0"],
        A: ["float", "1.0"],
    }


def test_what_is_being_trained_stays(tmp_path):
    store = stored(tmp_path, D + ".partial")
    with os_lock(store.root / "locks" / D):
        cleanup.main([str(tmp_path), "--remove"])
    assert left(store) == [D + ".partial"]


def test_a_run_without_a_sweep_counts_by_its_plan(tmp_path):
    run = Run.of(config(tmp_path=tmp_path))
    floating, warmup = (stage.signature for stage in run.stages[:2])
    store = stored(tmp_path, floating, warmup, E)
    run.folder.begin(run.config, [floating, warmup])
    cleanup.main([str(tmp_path), "--remove"])
    assert left(store) == sorted([floating, warmup])


@pytest.mark.parametrize("name", [MANIFEST, "run/config.yaml"])
def test_where_it_can_not_be_told_nothing_is_removed(tmp_path, name):
    store = stored(tmp_path, A)
    path = tmp_path / "s" / name
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(SystemExit) as end:
        cleanup.main([str(tmp_path), "--remove"])
    assert str(path) in str(end.value) and str(end.value).startswith("error: ")
    assert left(store) == [A]


def test_no_folder_is_one_line(tmp_path):
    with pytest.raises(BrsweepError, match="no such folder"):
        cleanup.entries(Store(tmp_path / "store"), [tmp_path / "nowhere"])
    answer = shell(tmp_path, "nowhere", program=("-m", "brsweep.sweep"))
    assert answer.code == 1 and answer.err.startswith("error: nowhere: no such folder") and answer.err.count("\n") == 1


def test_the_status_table_shows_what_each_run_is_apart_by(tmp_path, capsys):
    for name, value in (("a", "0"), ("b", "10")):
        run = {"name": name, "overrides": ["model=tiny", f"reg.lambda_act={value}"], "epochs": 6, "stages": []}
        add_to_manifest(tmp_path, "s", "command", [run])
    RunFolder(tmp_path / "a").write_failure("out of luck", "console.log")
    status([str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["state", "epoch", "validation", "test", "left", "run"],
        ["failed", "0/6", "a", "out", "of", "luck"],
        ["missing", "0/6", "b", "reg.lambda_act=10"],
    ]
    assert lines[3] == "2 runs: 1 failed, 1 missing"


def test_one_long_name_makes_one_long_line(tmp_path, capsys):
    names = [f"run-{i}" for i in range(4)] + ["x" * 90]
    runs = [{"name": name, "overrides": [f"seed={i}"], "epochs": 6, "stages": []} for i, name in enumerate(names)]
    add_to_manifest(tmp_path, "s", "command", runs)
    status([str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert len({line.index("seed=") for line in lines[1:5]}) == 1
    assert max(len(line) for line in lines[:5]) < 60 < len(lines[5])
