"""The check on a device: its page, its order, what fails and what is left out; and its dry form, every line of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.device import __main__ as check
from benchmarks.device import card, steps, trainings
from benchmarks.device.__main__ import Part

ROOT = Path(__file__).parents[1]
ORDER = ["machine", "tests", "runs", "steps", "images", "workers"]


def test_the_order_is_that_of_what_matters():
    assert [part.name for part in check.parts()] == ORDER


def test_a_part_that_fails_stops_no_other_and_each_result_is_on_disk_at_once(tmp_path, monkeypatch, capsys):
    seen = []

    def fails(budget):
        assert json.loads((tmp_path / "out" / "result.json").read_text())["parts"].keys() == {"first"}
        raise ValueError("no\nsuch thing")

    def last(budget):
        seen.append(budget.left)
        return {"n": 3}

    made = [
        Part("first", 0.1, lambda budget: seen.append(budget.left) or {"n": 1}, lambda found: [f"n {found['n']}"]),
        Part("second", 0.1, fails, lambda found: [str(found)]),
        Part("third", 1.0, last, lambda found: [f"n {found['n']}"]),
    ]
    monkeypatch.setattr(check, "parts", lambda: made)
    with pytest.raises(SystemExit, match=r"^error: 1 parts failed; .*result.json says which"):
        check.main(["--device", "cpu", "--minutes", "1", "--out", str(tmp_path / "out")])
    assert 5 < seen[0] <= 6 and 50 < seen[1] <= 60
    told = (tmp_path / "out" / "page.md").read_text()
    assert told in capsys.readouterr().out
    assert told.startswith("# brsweep on cpu, 1 minutes\n")
    assert "n 1\n" in told and "n 3\n" in told and "FAILED: ValueError: no such thing\n" in told


def test_a_part_without_time_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(check, "parts", lambda: [Part("all", 1.0, pytest.fail, lambda found: [str(found)])])
    check.main(["--device", "cpu", "--minutes", "0", "--out", str(tmp_path)])
    assert "no time left" in (tmp_path / "page.md").read_text()


def test_what_is_not_installed_is_named_first(tmp_path, monkeypatch):
    there = check.find_spec
    monkeypatch.setattr(
        check, "find_spec", lambda name: None if name in ("sklearn", "triton", "numba") else there(name)
    )
    assert check.missing("cuda") == ["scikit-learn", "triton"] and check.missing("cpu") == ["scikit-learn", "numba"]
    with pytest.raises(SystemExit, match=r"^error: not installed: pip install scikit-learn numba"):
        check.main(["--device", "cpu", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_pages_say_what_was_found():
    row = {"test_accuracy_last": 0.9, "float_test_accuracy": 0.95, "time_s": 10.0, "epoch_time_s": 8.0}
    told = trainings.runs_lines(
        {"float32": row, "killed once": row | {"equal": False}, "bf16": {"left_out": "no time"}}
    )
    assert told[2:] == [
        "| float32 | 90.00% | 95.00% | 10.0 s | 8.0 s |  |",
        "| killed once | 90.00% | 95.00% | 10.0 s | 8.0 s | other bits |",
        "| bf16 | no time |",
    ]
    rows = {
        "float eager": {"median_s": 0.01, "first_s": 1.0},
        "LSQ+BR(W+A) 2 bits eager": {"median_s": 0.012, "first_s": 2.0},
    }
    rows |= {
        "float compiled": {"median_s": 0.005, "first_s": 9.0},
        "LSQ 2 bits textbook": {"median_s": 0.05, "first_s": 1.0},
    }
    rows |= {"LSQ+BR(W+A) 2 bits compiled": {"median_s": 0.006, "first_s": 9.0}}
    op = {"2 bits": {"forward": 1e12, "forward_over_copy": 0.5, "backward": 2e12, "backward_over_copy": 1.0}}
    cases = [{"case": "a net", "rows": rows}, {"case": "another", "rows": {"error": "no compiler"}}]
    told = steps.lines({"kernels": "triton", "op": op, "cases": cases, "no_time_for": ["a third"]})
    assert "| 2 bits | 1000 GB/s | 0.50 | 2000 GB/s | 1.00 |" in told
    assert "| LSQ+BR(W+A) 2 bits eager | 12.00 | 1.20 | 2.0 s |" in told
    assert "| LSQ+BR(W+A) 2 bits compiled | 6.00 | 1.20 | 9.0 s |" in told
    assert "| LSQ 2 bits textbook | 50.00 | 5.00 | 1.0 s |" in told
    assert told[-1] == "no time left for: a third" and "FAILED: no compiler" in told
    told = trainings.workers_lines({"1": {"epochs_per_s": 2.0}, "2": {"left_out": "no epoch"}, "seconds": 3.0})
    assert told[2:] == ["| 1 | 2.00 |", "| 2 | no epoch |"]


def test_the_tests_of_a_device_are_found():
    marked = {path.name for path in (ROOT / "tests").glob("*.py") if card.MARK in path.read_text()}
    assert {"test_kernels_cuda.py", "test_kernels_steps.py"} <= marked


def image_folder(root: Path) -> Path:
    draw = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 2)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(256, size=(32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


@pytest.mark.slow
def test_the_dry_form(tmp_path):
    """On a CPU, with a folder of images: every part runs to its end, and what was killed goes on to equal bits."""
    data, out = image_folder(tmp_path / "images"), tmp_path / "out"
    typed = ["--device", "cpu", "--minutes", "8", "--data", str(data), "--out", str(out)]
    done = subprocess.run([sys.executable, "-m", "benchmarks.device", *typed], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((out / "result.json").read_text())["parts"]
    assert list(found) == ORDER and done.stdout.endswith((out / "page.md").read_text() + "\n")
    assert found["machine"]["copy_bytes_per_s"] > 0
    assert any("skipped" in line or "passed" in line for line in found["tests"]["said"])
    assert found["runs"]["killed once"]["equal"] is True and found["runs"]["killed once"]["broken_off"] is True
    assert {"float32", "bf16"} < found["runs"].keys()
    assert [len(case["rows"]) for case in found["steps"]["cases"]] == [5, 3] and not found["steps"]["no_time_for"]
    assert found["images"]["epochs"] == 6
    assert all(found["workers"][count]["epochs_per_s"] > 0 for count in ("1", "2"))
