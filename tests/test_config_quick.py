"""quick=true and data.limit: what is left of a run, and that its results stand apart from all others."""

from __future__ import annotations

import json

import numpy as np
import pytest
import small_runs
from commands import TINY, call
from stage_configs import CONFIG

from benchmarks.synthetic_sweep import write_run
from brsweep.config.quick import shortened
from brsweep.data.limit import Handful, Limited, first_of_each_class
from brsweep.data.synthetic import Synthetic
from brsweep.errors import BrsweepError
from brsweep.report.results import judge
from brsweep.report.rows import cohorts
from brsweep.report.runs import read_sweeps
from brsweep.runs.run import Run
from brsweep.runs.words import data_name, readable_name, tags
from brsweep.stages.plan import identity, plan

SOURCE = Synthetic(classes=4, train_images=512, test_images=128, image_size=8, channels=3, noise=32.0, seed=0)


def test_every_stage_has_one_epoch():
    schedule = CONFIG["schedule"] | {"ladder": [4, 3], "rung_epochs": 9, "qat_lr_warmup_epochs": 2}
    config = shortened(CONFIG | {"schedule": schedule, "quick": True})
    assert [(stage.name, stage.epochs) for stage in plan(config, "d")] == [
        ("float", 1), ("rung4", 1), ("rung3", 1), ("warmup", 1), ("br", 1),
    ]  # fmt: skip
    assert (config["schedule"]["qat_lr_warmup_epochs"], config["calibration_batches"]) == (0, 1)
    joint = shortened(CONFIG | {"schedule": schedule | {"warmup_epochs": 0, "float_epochs": 0, "ladder": []}})
    assert [(stage.name, stage.epochs) for stage in plan(joint, "d")] == [("float", 0), ("br", 1)]
    assert CONFIG["schedule"]["qat_epochs"] == 6, "the configuration given is left alone"


def test_off_they_leave_no_trace(tmp_path):
    """A run's name and signatures are those of before there were such options; a name for the data changes none."""
    config = small_runs.config(tmp_path=tmp_path)
    assert "quick" not in config and not {"limit", "name"} & config["data"].keys()
    named = small_runs.config("data.name=mine", tmp_path=tmp_path)
    assert identity(named, "d") == identity(config, "d")
    assert readable_name(named) == readable_name(config).replace("synthetic", "mine")


def test_on_they_are_part_of_what_a_run_is(tmp_path):
    runs = [Run.of(small_runs.config(*o, tmp_path=tmp_path)) for o in ((), ("data.limit=9",), ("quick=true",))]
    assert len({run.name.rpartition("-")[2] for run in runs}) == 3
    assert len({stage.signature for run in runs for stage in run.stages}) == 9
    assert [data_name(run.config) for run in runs] == ["synthetic", "synthetic-9perclass", "synthetic-quick"]
    plain, limited, quick = (run.source.identity() for run in runs)
    assert limited == f"{plain} limit=9" and quick == f"{plain} quick=256"
    assert tags(runs[2].config, 0)[-1] == "quick" and "quick" not in tags(runs[1].config, 0)


def test_an_image_keeps_its_label():
    whole, part = SOURCE.load(), Limited(SOURCE, 3).load()
    label_of = {image.tobytes(): label for image, label in zip(whole.train_images, whole.train_labels, strict=True)}
    assert len(label_of) == len(whole.train_images), "no image is there twice"
    assert [label_of[image.tobytes()] for image in part.train_images] == part.train_labels.tolist()


def test_each_class_gives_its_first_of_a_fixed_order():
    labels = np.array([2, 0, 1, 0, 0, 2, 1, 0, 0, 0])
    taken = {count: first_of_each_class(labels, count).tolist() for count in (1, 2, 9)}
    assert [np.bincount(labels[rows]).tolist() for rows in taken.values()] == [[1, 1, 1], [2, 2, 2], [6, 2, 2]]
    assert set(taken[1]) < set(taken[2]) < set(taken[9]) == set(range(10))
    assert taken[1] == sorted(taken[1])
    assert taken[1] == [0, 2, 3], "a literal: the images of a budget are the same for ever"


def test_a_limited_source_keeps_the_test_images_and_a_handful_does_not():
    whole, limited, handful = SOURCE.load(), Limited(SOURCE, 5).load(), Handful(SOURCE, 64).load()
    assert np.bincount(limited.train_labels).tolist() == [5] * 4
    assert np.array_equal(limited.test_images, whole.test_images)
    assert [len(part) for part in (handful.train_images, handful.test_labels)] == [64, 64]
    assert len(Handful(SOURCE, 1).load().train_labels) == 8, "two of each class, for training and validation"
    rows = first_of_each_class(whole.train_labels, 5)
    assert np.array_equal(limited.train_images, whole.train_images[rows])


@pytest.mark.parametrize("typed", ["data.limit=0", "data.limit=2.5", "data.name=a/b", "data.name=''", "quick=1"])
def test_values_that_mean_nothing_are_refused(typed, tmp_path):
    key = typed.partition("=")[0]
    with pytest.raises(BrsweepError, match=f"^{key}="):
        small_runs.config(typed, tmp_path=tmp_path)


@pytest.mark.slow
def test_a_quick_run_ends_with_its_report_and_stands_in_no_table_with_others(tmp_path, monkeypatch, capsys):
    """All stages on a handful of images, then a whole run of the same settings in the same sweep."""
    line = (*TINY, f"output_dir={tmp_path}", "sweep_name=s")
    answer = call(monkeypatch, capsys, *line, "quick=true", "schedule.qat_epochs=90", "schedule.warmup_epochs=30")
    assert answer.code == 0, answer.err
    assert f"report in {tmp_path}/s/report/index.html" in answer.out and "a first try" in answer.out
    (quick,) = (tmp_path / "s").glob("tiny-synthetic-quick-*/metrics.jsonl")
    assert [json.loads(record)["stage"] for record in quick.read_text().splitlines()] == ["float", "warmup", "br"]
    assert call(monkeypatch, capsys, *line).code == 0
    tables = [judge(cohort) for cohort in cohorts(read_sweeps([tmp_path / "s"])[0])]
    assert sorted(len(judged.cohort.runs) for judged in tables) == [1, 1]
    assert {judged.cohort.data.endswith("quick=256") for judged in tables} == {True, False}


def test_a_name_of_the_data_stands_in_folders_and_in_tables(tmp_path):
    folder = write_run(tmp_path / "s", {"data.name": "leaves"})
    (cohort,) = cohorts(read_sweeps([tmp_path / "s"])[0])
    assert "-leaves-" in folder.name and cohort.data == "leaves (digits-1)"
    (plain,) = cohorts(read_sweeps([write_run(tmp_path / "t", {}).parent])[0])
    assert plain.data == "digits-1"
