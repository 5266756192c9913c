"""Runs with parts of one's own beside the built-in ones: one table, each compared with what it is compared with."""

from __future__ import annotations

import csv

import pytest

from benchmarks.synthetic_sweep import CODE, ONE_BLOCK, write_run
from brsweep.report.compare import compare
from brsweep.report.figures import Figure
from brsweep.report.figures.build import figures
from brsweep.report.figures.pairs import pairs
from brsweep.report.notices import notices
from brsweep.report.page import page
from brsweep.report.results import judge, row_label
from brsweep.report.rows import cohorts, part_names
from brsweep.report.runs import read_sweeps
from brsweep.report.table import filled, headlines, to_csv
from brsweep.report.typeset import to_latex, to_markdown
from brsweep.runs import words
from brsweep.runs.folder import RunFolder

NONE = {"reg.lambda_weight": 0.0, "reg.lambda_act": 0.0}
SHRINK = {"reg": {"_target_": "mine.regularizer.Shrink", "lambda_weight": 0.0, "lambda_act": 1.0, "power": 4}}
SHRINK_OFF = {"reg": SHRINK["reg"] | {"lambda_act": 0.0}}
HALF = {"quant.quantizer": {"_target_": "mine.quantizer.Half", "share": 0.5}}
OWN = {"code": "c0de00000000beef"}


def judged(sweep):
    return [judge(cohort) for cohort in cohorts(read_sweeps([sweep])[0])]


def accuracy(test: float) -> dict:
    return {"test_accuracy": test, "val_accuracy": test, "float_test_accuracy": 0.9}


def cells(table, key: str) -> dict[str, str]:
    """Method -> the column's text."""
    (column,) = [column for column in filled(table) if column.key == key]
    return {result.row.method: column.text(result) for result in table.results}


def gaps(table) -> dict[str, tuple[str, float] | None]:
    return {r.row.method: r.gap and (r.baseline, round(r.gap.mean, 9)) for r in table.results}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """regularizer=none,br,mine quant=lsq,half seed=1,2, with what was recorded of the layers."""
    folder = tmp_path_factory.mktemp("runs") / "made"
    for seed in (1, 2):
        at = seed / 10
        write_run(folder, {"seed": seed} | NONE, result=accuracy(0.5 + at), sites=ONE_BLOCK)
        write_run(folder, {"seed": seed}, result=accuracy(0.52 + at), sites=ONE_BLOCK)
        write_run(
            folder, {"seed": seed} | SHRINK, result=accuracy(0.51 + at) | OWN, sites=ONE_BLOCK, name=f"own-{seed}"
        )
        write_run(folder, {"seed": seed} | HALF | NONE, result=accuracy(0.4 + at) | OWN, name=f"half-{seed}")
        write_run(folder, {"seed": seed} | HALF, result=accuracy(0.43 + at) | OWN, name=f"half-br-{seed}")
    return folder


def test_each_stands_in_one_table_and_is_compared_with_its_quantizer_alone(sweep):
    (table,) = judged(sweep)
    assert gaps(table) == {
        "LSQ": None, "LSQ + BR": ("LSQ", 0.02), "LSQ + Shrink": ("LSQ", 0.01), "Half": ("LSQ", -0.1),
        "Half + BR": ("Half", 0.03),
    }  # fmt: skip
    assert set(cells(table, "method")) == {"LSQ", "LSQ + BR", "LSQ + Shrink", "Half", "Half + BR"}
    assert not {"reg._target_", "quant.quantizer._target_"} & {column.key for column in filled(table)}
    assert (
        cells(table, "gap")["Half + BR"] == "+3.00 (to Half)" and cells(table, "gap")["Half"] == "\N{MINUS SIGN}10.00"
    )
    assert not [key for key in table.cohort.varied if key.startswith("reg.") and key not in
                ("reg._target_", "reg.lambda_weight", "reg.lambda_act")]  # fmt: skip


def test_every_output_names_the_regularizer(sweep):
    tables = judged(sweep)
    drawn = figures(tables)
    told = notices(tables, [])
    assert not [line for line in told if "kept apart" in line or "same parts" in line]
    first, others = headlines(tables[0])
    assert first[0].startswith("W2A2, LSQ + BR,") and "against LSQ +2.00 points" in first[0]
    assert [line for line in others if "LSQ + Shrink, lambda_act 1" in line and "against LSQ +1.00 points" in line]
    assert [line for line in others if line.startswith("W2A2, Half + BR,") and "against Half +3.00 points" in line]
    assert [line for line in others if line.startswith("W2A2, Half:") and "against LSQ \N{MINUS SIGN}10.00" in line]
    rows = {row["method"]: row for row in csv.DictReader(to_csv(tables).splitlines())}
    assert rows["LSQ + Shrink"]["baseline"] == "LSQ" and rows["Half + BR"]["baseline"] == "Half"
    assert {name: row["reg._target_"] for name, row in rows.items()} == {
        "LSQ": "none", "LSQ + BR": "BinRegularization", "LSQ + Shrink": "Shrink", "Half": "none",
        "Half + BR": "BinRegularization",
    }  # fmt: skip
    assert rows["LSQ + Shrink"]["code"] == OWN["code"] and rows["LSQ"]["code"] == CODE
    for text in (to_markdown(tables, told), to_latex(tables), page("made", tables, drawn, told)):
        assert "Shrink" in text and "Half" in text
    assert "mine.regularizer.Shrink" in compare(sweep / "own-1", sweep / "half-1")


def test_figures_pair_each_method_with_its_baseline(sweep):
    (table,) = judged(sweep)
    found = {tuple(pair.methods): pair.place for pair in pairs(table)}
    assert found == {
        ("LSQ", "LSQ + BR"): "w2a2-lsq-br", ("LSQ", "LSQ + Shrink"): "w2a2-lsq-shrink", ("LSQ", "Half"): "w2a2-half",
        ("Half", "Half + BR"): "w2a2-half-br",
    }  # fmt: skip
    drawn = {figure.name: figure for figure in figures([table]) if isinstance(figure, Figure)}
    shrink = drawn["weights-w2a2-lsq-shrink"]
    assert "LSQ upwards, LSQ + Shrink downwards" in shrink.caption
    assert [series.name for series in shrink.panels[0].series] == ["LSQ", "LSQ + Shrink"]
    marks = {panel.title: [word for _, word in panel.marks] for panel in drawn["training"].panels}
    assert marks["W2A2, LSQ + Shrink"][-1] == "Shrink" and marks["W2A2, LSQ + BR"][-1] == "BR"


def test_one_regularizer_of_ones_own_is_named_beside_lsq(tmp_path):
    write_run(tmp_path / "s", NONE)
    write_run(tmp_path / "s", SHRINK, result=OWN, name="own")
    (table,) = judged(tmp_path / "s")
    assert set(cells(table, "method").values()) == {"LSQ", "LSQ + Shrink"}
    assert [pair.place for pair in pairs(table)] == ["w2a2"]


@pytest.mark.parametrize("baseline", [NONE, SHRINK_OFF, {"reg": SHRINK_OFF["reg"] | {"power": 2}}])
def test_lsq_alone_is_whatever_class_has_lambda_0(tmp_path, baseline):
    write_run(tmp_path / "s", baseline, result=accuracy(0.5), name="alone")
    write_run(tmp_path / "s", {}, result=accuracy(0.6), name="br")
    write_run(tmp_path / "s", SHRINK, result=accuracy(0.7), name="own")
    (table,) = judged(tmp_path / "s")
    assert gaps(table) == {"LSQ": None, "LSQ + BR": ("LSQ", 0.1), "LSQ + Shrink": ("LSQ", 0.2)}
    assert table.results[0].row.is_lsq


def test_two_classes_at_lambda_0_are_one_row(tmp_path):
    write_run(tmp_path / "s", NONE | {"seed": 1}, name="a")
    write_run(tmp_path / "s", SHRINK_OFF | {"seed": 1}, name="b")
    write_run(tmp_path / "s", SHRINK_OFF | {"seed": 2}, name="c")
    (table,) = judged(tmp_path / "s")
    (result,) = table.results
    assert result.test.n == 2 and any("not counted twice" in note for note in result.notes)


def test_a_frozen_alpha_is_compared_with_the_free_one_of_its_quantizer(tmp_path):
    frozen = {"schedule.freeze_alpha": True}
    write_run(tmp_path / "s", HALF | NONE, result=accuracy(0.5), name="free")
    write_run(tmp_path / "s", HALF | NONE | frozen, result=accuracy(0.3), name="frozen")
    write_run(tmp_path / "s", HALF | SHRINK | frozen, result=accuracy(0.6), name="own")
    (table,) = judged(tmp_path / "s")
    found = {r.row.runs[0].name: r.gap and (r.baseline, round(r.gap.mean, 9)) for r in table.results}
    assert found == {"free": None, "frozen": None, "own": ("Half", 0.1)}


def test_models_are_compared_within_themselves(tmp_path):
    for model, base in (("mine.nets.wide", 0.5), ("brsweep.models.resnet.resnet20", 0.7)):
        for changes, gain in ((NONE, 0.0), ({}, 0.02)):
            name = f"{model}-{gain}"
            write_run(tmp_path / "s", {"model._target_": model} | changes, result=accuracy(base + gain), name=name)
    (table,) = judged(tmp_path / "s")
    (column,) = [column for column in filled(table) if column.title == "model"]
    found = [(column.text(r), r.row.method, r.gap and round(r.gap.mean, 9)) for r in table.results]
    assert sorted(found, key=str) == [
        ("resnet20", "LSQ + BR", 0.02), ("resnet20", "LSQ", None), ("wide", "LSQ + BR", 0.02), ("wide", "LSQ", None),
    ]  # fmt: skip


def test_parts_that_look_alike_show_more_of_their_path(tmp_path):
    assert part_names(["a.x.Same", "b.x.Same", "b.Other", "Same"]) == {
        "a.x.Same": "a.x.Same", "b.x.Same": "b.x.Same", "b.Other": "Other", "Same": "Same",
    }  # fmt: skip
    for target in ("mine.old.Shrink", "mine.new.Shrink", "mine.new.Grow"):
        write_run(tmp_path / "s", {"reg": SHRINK["reg"] | {"_target_": target}}, name=target)
    (table,) = judged(tmp_path / "s")
    assert {r.row.method for r in table.results} == {"LSQ + old.Shrink", "LSQ + new.Shrink", "LSQ + Grow"}
    assert {r.row.settings["reg._target_"] for r in table.results} == {"old.Shrink", "new.Shrink", "Grow"}


def test_a_result_without_core_falls_back_to_its_code(tmp_path):
    write_run(tmp_path / "s", {"seed": 1}, name="new")
    for seed, code in ((2, "old"), (3, "old"), (4, "older")):
        write_run(tmp_path / "s", {"seed": seed}, result={"core": None, "code": code})
    tables = judged(tmp_path / "s")
    assert {t.cohort.core: len(t.cohort.runs) for t in tables} == {"c04e000000000001": 1, "old": 2, "older": 1}


def test_a_part_whose_source_changed_between_two_runs_is_told(tmp_path):
    write_run(tmp_path / "s", NONE, name="lsq")
    write_run(tmp_path / "s", SHRINK | {"seed": 1}, result=OWN, name="before")
    write_run(tmp_path / "s", SHRINK | {"seed": 2}, result={"code": "c0de00000000cafe"}, name="after")
    (table,) = judged(tmp_path / "s")
    (line,) = [line for line in notices([table], []) if "same parts" in line]
    assert "c0de00000000beef: before" in line and "c0de00000000cafe: after" in line and "lsq" not in line


def test_a_name_from_elsewhere_is_no_path(tmp_path):
    write_run(tmp_path / "s", NONE, name="lsq", sites=ONE_BLOCK)
    for i, target in enumerate(("../../../tmp/x", "mine.Other")):
        write_run(tmp_path / "s", {"reg": SHRINK["reg"] | {"_target_": target}}, name=f"own-{i}", sites=ONE_BLOCK)
    names = [figure.name for figure in figures(judged(tmp_path / "s"))]
    assert not [name for name in names if set(name) & set("/.\\")]


def test_words_of_a_run():
    def config(**lambdas):
        quant = {"weight_bits": 2, "act_bits": 2, "quantizer": {"_target_": "mine.quantizer.Half"}}
        reg = {"_target_": "mine.regularizer.Shrink", "lambda_weight": 0.0, "lambda_act": 0.0} | lambdas
        return {"reg": reg, "quant": quant, "schedule": {"warmup_epochs": 1, "freeze_alpha": False}}

    assert (words.regularizer(config()), words.quantizer(config())) == (None, "half")
    assert words.tags(config(), 0) == ("w2a2", "half", "s2")
    assert words.tags(config(lambda_act=0.1), 1) == ("w2a2, 1 input float", "shrink", "s2")
    lsq = config() | {"quant": {"weight_bits": 2, "act_bits": 2, "quantizer": {"_target_": words.LSQ_QUANTIZER}}}
    assert words.tags(lsq, None) == ("w2a2, inputs unknown", "lsq", "s2")
    assert words.bits_label(lsq, 17) == "W2A2, 17 inputs float"
    named = {"model": {"_target_": "brsweep.models.tiny.tiny"}, "data": {"_target_": "a.Digits"}, "seed": 1}
    assert words.readable_name(lsq | named) == "tiny-digits-w2a2-s2-lw0-la0-s1"
    assert words.readable_name(config(lambda_act=0.1) | named) == "tiny-digits-w2a2-half-shrink-s2-lw0-la0.1-s1"
    lsq["quant"]["quantizer"] = {"_target_": "brsweep.quant.ewgs.EWGSQuantizer"}
    assert words.readable_name(lsq | named) == "tiny-digits-w2a2-ewgs-s2-lw0-la0-s1"
    lsq["quant"]["act_bits"] = 32
    assert words.bits_label(lsq, None) == "W2A32", "no input is quantized, and the label says so"


def test_lsq_alone_is_of_other_code_than_br_and_that_is_no_change(tmp_path):
    write_run(tmp_path / "s", {"seed": 1}, result={"code": "c0de00000000beef"}, name="br")
    write_run(tmp_path / "s", NONE | {"seed": 1}, result={"code": "c0de00000000cafe"}, name="lsq")
    (table,) = judged(tmp_path / "s")
    assert not [line for line in notices([table], []) if "same parts" in line]


OTHER_WAYS = {
    "frozen": {"freeze_weights.threshold": 0.1},
    "followed": {"transition_rate.factor": 0.005},
    "taught": {"distill.weight": 0.5},
    "ladder": {"schedule.ladder": [4, 3], "schedule.rung_epochs": 2},
}


def test_another_way_to_train_is_compared_with_lsq_alone_and_br_with_it_without_br(tmp_path):
    for seed in (1, 2):
        at = seed / 10
        write_run(tmp_path / "s", {"seed": seed} | NONE, result=accuracy(0.5 + at))
        for i, (name, options) in enumerate(OTHER_WAYS.items(), start=1):
            found = accuracy(0.5 + at + i / 100)
            write_run(tmp_path / "s", {"seed": seed} | options | NONE, result=found, name=f"{name}-{seed}")
        write_run(tmp_path / "s", {"seed": seed} | OTHER_WAYS["frozen"], result=accuracy(0.7 + at), name=f"br-{seed}")
    (table,) = judged(tmp_path / "s")
    gaps = sorted(round(r.gap.mean, 9) for r in table.results if r.gap)
    assert gaps == [0.01, 0.02, 0.03, 0.04, 0.19], "to LSQ; and of BR with frozen weights to frozen weights alone"
    assert [r.row.is_lsq for r in table.results].count(True) == 1
    labels = {row_label(r) for r in table.results}
    assert any("freeze_weights.threshold 0.1" in label for label in labels)
    assert any("transition_rate.factor 0.005" in label for label in labels)
    assert any("distill.weight 0.5" in label for label in labels)


def test_runs_of_a_version_that_lacked_a_switch_stand_beside_those_that_have_it_off(tmp_path):
    for seed in (1, 2, 3, 4):
        folder = write_run(tmp_path / "s", {"seed": seed} | NONE)
        if seed < 3:
            record = RunFolder(folder).result()
            del record["config"]["transition_rate"]
            RunFolder(folder).write_result(record)
    write_run(tmp_path / "s", {"seed": 1, "transition_rate.factor": 0.005} | NONE, name="followed")
    (table,) = judged(tmp_path / "s")
    assert sorted(len(result.row.runs) for result in table.results) == [1, 4]
    named = {key for key in table.results[0].row.settings if key.startswith("transition_rate")}
    assert named == {"transition_rate.factor"}
