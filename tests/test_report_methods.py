"""Methods from one float stage, as the preset sweep=method_table has them: what each is called, and that every word of
its figures can be read."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from benchmarks.synthetic_sweep import ONE_BLOCK, STAGES, write_run
from brsweep.config.compose import CONF_DIR, VERSION_BASE, checked, register
from brsweep.report.figures import Absent, Figure, Heat, Panel, Series
from brsweep.report.figures.accuracy import against_lambda, bits_by_lambda, ways_of_alpha
from brsweep.report.figures.build import figures
from brsweep.report.figures.differences import MOST_ROWS, against_baseline
from brsweep.report.figures.draw import draw
from brsweep.report.figures.forest import heights_of_panels
from brsweep.report.figures.pairs import pairs
from brsweep.report.page import page
from brsweep.report.results import judge, row_label
from brsweep.report.rows import LAMBDAS, Row, cohorts
from brsweep.report.runs import read_sweeps
from brsweep.report.table import columns, filled, headlines, to_csv
from brsweep.report.typeset import to_latex, to_markdown

NONE = {"reg.lambda_weight": 0.0, "reg.lambda_act": 0.0}
FREEZING, DISTILL = {"freeze_weights.threshold": 0.1}, {"distill.weight": 0.5}
RUNGS = {"float": 2, "rung4": 1, "rung3": 1, "warmup": 1, "br": 2}
W2A2 = ("EWGSQuantizer", "LSQ + ladder", "LSQ + freezing", "LSQ + distill", "LSQ + transitions", "LSQ + BR",
        "LSQ + Dampening", "LSQ + KURE")  # fmt: skip


def preset_rows() -> list[dict]:
    """What each row of the preset sets, as groups of the whole configuration."""
    preset = yaml.safe_load((CONF_DIR / "sweep" / "method_table.yaml").read_text())
    register()
    GlobalHydra.instance().clear()
    rows = []
    with initialize_config_dir(str(CONF_DIR), **VERSION_BASE):
        for row in preset["hydra"]["sweeper"]["rows"]:
            overrides = ["experiment=cifar10_resnet20_short", "logger=none", "output_dir=runs"]
            overrides += [f"{key}={value}" for key, value in row.items()]
            whole = checked(compose("config", overrides=overrides), overrides)
            groups = ("quant", "reg", "schedule", "distill", "freeze_weights", "transition_rate")
            rows.append({group: whole[group] for group in groups})
    return rows


def judged(sweep):
    (cohort,) = cohorts(read_sweeps([sweep])[0])
    return judge(cohort)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "method_table"
    for number, groups in enumerate(preset_rows()):
        for seed in (1, 2):
            level = 0.5 + number / 100 + seed / 1000
            result = {"test_accuracy": level, "val_accuracy": level, "float_test_accuracy": 0.9}
            stages = RUNGS if groups["schedule"]["ladder"] else STAGES
            write_run(folder, groups | {"seed": seed}, result=result, sites=ONE_BLOCK, stages=stages)
    return judged(folder)


@pytest.fixture(scope="module")
def shown(table):
    return {figure.name: figure for figure in figures([table])}


def test_each_method_has_a_name_and_stands_beside_lsq(table, shown):
    of_w2a2 = [pair for pair in pairs(table) if pair.title.startswith("W2A2")]
    assert [tuple(pair.methods) for pair in of_w2a2] == [("LSQ", method) for method in W2A2]
    assert {pair.place for pair in of_w2a2} >= {
        "w2a2-lsq-ladder", "w2a2-lsq-freezing", "w2a2-lsq-distill", "w2a2-lsq-transitions",
    }  # fmt: skip
    for pair in of_w2a2:
        weights = shown[f"weights-{pair.place}"]
        assert f"LSQ upwards, {pair.methods[1]} downwards" in weights.caption
        assert [series.name for series in weights.panels[0].series] == ["LSQ", pair.methods[1]]
        for name in ("activations", "alpha", "occupancy"):
            assert isinstance(shown[f"{name}-{pair.place}"], Figure)
    for name in ("training", "codes"):
        drawn = {tuple(series.name for series in panel.series) for panel in shown[name].panels}
        assert drawn == {("LSQ", method) for method in W2A2}


def test_a_regularizer_or_a_quantizer_beside_another_way_to_train_is_named_too(tmp_path):
    half = {"quant.quantizer": {"_target_": "mine.quantizer.Half"}}
    write_run(tmp_path / "s", NONE)
    write_run(tmp_path / "s", NONE | FREEZING)
    write_run(tmp_path / "s", FREEZING, sites=ONE_BLOCK)
    write_run(tmp_path / "s", NONE | half | DISTILL | FREEZING)
    table = judged(tmp_path / "s")
    assert {tuple(pair.methods) for pair in pairs(table)} == {
        ("LSQ", "LSQ + freezing"), ("LSQ + freezing", "LSQ + BR + freezing"), ("LSQ", "Half + distill + freezing"),
    }  # fmt: skip
    (training,) = (figure for figure in figures([table]) if figure.name == "training")
    last = {panel.title.partition(", ")[2]: panel.marks[-1][1] for panel in training.panels}
    assert last == {
        "LSQ + freezing": "freezing", "LSQ + BR + freezing": "BR + freezing",
        "Half + distill + freezing": "distill + freezing",
    }  # fmt: skip


def test_stages_are_those_of_the_run_that_is_shown(shown):
    marks = {panel.title: [word for _, word in panel.marks] for panel in shown["training"].panels}
    assert marks["W2A2, LSQ + freezing"] == ["float", "warm-up", "freezing"]
    assert marks["W2A2, LSQ + ladder"] == ["float", "W4A4", "W3A3", "warm-up", "LSQ"]
    alpha = {panel.title: [word for _, word in panel.marks] for panel in shown["alpha-w2a2-lsq-br"].panels}
    assert alpha["weights, LSQ"] == ["warm-up", "LSQ"] and alpha["weights, LSQ + BR"] == ["warm-up", "BR"]
    codes = {panel.title: [word for _, word in panel.marks] for panel in shown["codes"].panels}
    assert codes["W2A2, LSQ + distill, weights"] == ["warm-up", "distill"]


def test_a_label_says_what_is_on(table):
    labels = [row_label(result) for result in table.results]
    assert len(set(labels)) == len(labels)
    assert labels[:6] == [
        "W2A2, LSQ", "W2A2, EWGSQuantizer", "W2A2, LSQ + ladder, ladder [4, 3], rung_epochs 4",
        "W2A2, LSQ + freezing, freeze_weights.threshold 0.1", "W2A2, LSQ + distill, distill.weight 0.5",
        "W2A2, LSQ + transitions, transition_rate.factor 0.005, transition_rate.gain 8",
    ]  # fmt: skip
    assert "W2A2, LSQ + Dampening, lambda_weight 0.1, ramp.weight cosine" in labels
    assert "W4A4, LSQ" in labels
    for text in (*labels, *(line for lines in headlines(table) for line in lines)):
        assert "ladder []" not in text and "LSQQuantizer" not in text
        assert not [word for word in text.split(", ") if word.endswith(" 0")]


def test_where_all_is_off_the_label_is_the_method_or_its_lambda(tmp_path):
    write_run(tmp_path / "a", {})
    write_run(tmp_path / "a", FREEZING)
    assert [row_label(r) for r in judged(tmp_path / "a").results] == [
        "W2A2, LSQ + BR", "W2A2, LSQ + BR + freezing, freeze_weights.threshold 0.1",
    ]  # fmt: skip
    write_run(tmp_path / "b", {"reg.lambda_act": 0.0, "reg.lambda_weight": 1.0})
    write_run(tmp_path / "b", {"reg.lambda_act": 1.0, "reg.lambda_weight": 1.0})
    assert [row_label(r) for r in judged(tmp_path / "b").results] == ["W2A2, lambda_act 0", "W2A2, lambda_act 1"]


def test_the_table_names_the_method_of_each_row(table, shown):
    (column,) = [column for column in filled(table) if column.key == "method"]
    assert {column.text(r) for r in table.results if r.row.bits == "W2A2"} == {"LSQ", *W2A2}
    texts = to_markdown([table], []), to_latex([table]), page("made", [table], list(shown.values()), [])
    assert "| W2A2 | LSQ + freezing |" in texts[0] and "W2A2 & LSQ + freezing &" in texts[1]
    assert "LSQ + transitions" in texts[2]


def test_a_table_of_one_way_to_train_has_no_column_of_methods(tmp_path):
    write_run(tmp_path / "s", NONE)
    write_run(tmp_path / "s", {"reg.ramp.weight": "constant"})
    write_run(tmp_path / "s", {})
    keys = [column.key for column in columns(judged(tmp_path / "s"))]
    assert keys[:5] == ["bits", "reg.lambda_weight", "reg.lambda_act", "reg.ramp.weight", "n"]


def test_what_single_methods_have_stands_in_words_and_what_all_have_in_columns(table, tmp_path):
    keys = [column.key for column in filled(table)]
    assert keys[:5] == ["bits", "method", *LAMBDAS, "settings"] and len(keys) < 16
    (said,) = [column for column in filled(table) if column.key == "settings"]
    words = {(result.row.bits, result.row.method): said.text(result) for result in table.results}
    assert words["W2A2", "LSQ"] == words["W2A2", "EWGSQuantizer"] == "\N{EN DASH}"
    assert words["W2A2", "LSQ + transitions"] == "transition_rate.factor 0.005, transition_rate.gain 8"
    assert words["W2A2", "LSQ + ladder"] == "ladder [4, 3], rung_epochs 4"
    write_run(tmp_path / "s", NONE | {"gradient_clip": 1.0})
    write_run(tmp_path / "s", FREEZING | {"gradient_clip": 5.0, "reg.ramp.act": "constant"})
    write_run(tmp_path / "s", {"gradient_clip": 5.0})
    other = judged(tmp_path / "s")
    shown = [column for column in columns(other) if column.key not in ("bits", "method")][:4]
    assert [column.title for column in shown] == ["lambda_weight", "lambda_act", "gradient_clip", "Settings"]
    assert [[column.text(result) for column in shown] for result in other.results] == [
        ["0", "0", "1", "\N{EN DASH}"],
        ["1", "1", "5", "ramp.act constant, freeze_weights.threshold 0.1"],
        ["1", "1", "5", "ramp.act cosine"],
    ]


def test_a_row_that_never_began_is_told_by_its_overrides(tmp_path):
    write_run(tmp_path / "s", NONE | FREEZING)
    write_run(tmp_path / "s", NONE)
    known = judged(tmp_path / "s")
    missing = Row("\N{EN DASH}", {"overrides": "quant=w3a3 regularizer=br"}, (), (), None)
    unknown = replace(known.results[0], row=missing)
    (said,) = [c for c in columns(replace(known, results=(*known.results, unknown))) if c.key == "settings"]
    assert said.text(unknown) == "quant=w3a3 regularizer=br"
    (row,) = csv.DictReader(to_csv([replace(known, results=(unknown,))]).splitlines())
    assert row["overrides"] == "quant=w3a3 regularizer=br"


def test_lines_over_lambda_are_named_once_and_what_is_left_out_is_said(table):
    figure = against_lambda(table, "reg.lambda_weight")
    names = {series.name for panel in figure.panels for series in panel.series}
    assert "LSQ + KURE, ramp.weight constant" in names and len(names) == 5
    assert not [name for name in names if "[]" in name or " 0," in f"{name}," or "LSQQuantizer" in name]
    assert "Left out: 5 settings with one value of lambda_weight." in figure.caption
    for panel in (*figure.panels, *against_lambda(table, "reg.lambda_act").panels):
        lines = [set(series.y) for series in panel.series]
        assert not any(a <= b for a in lines for b in lines if a is not b), "none is drawn on another"
    of_acts = {panel.title: panel.series for panel in against_lambda(table, "reg.lambda_act").panels}
    assert [series.name for series in of_acts["W4A4"] if len(series.y) == 1] == ["LSQ"]
    assert "LSQ" not in [series.name for series in of_acts["W2A2"]]
    colors = {(series.name, series.color) for line in of_acts.values() for series in line}
    assert len(colors) == len({name for name, _ in colors}) == len({color for _, color in colors})


def test_the_heat_map_leaves_out_what_has_one_lambda(table):
    figure = bits_by_lambda(table)
    assert len(figure.panels) == 4 and all(panel.title.startswith("LSQ + ") for panel in figure.panels)
    assert "Left out, with one lambda each: EWGSQuantizer; LSQ + ladder, ladder [4, 3]" in figure.caption
    assert figure.caption.count("freeze_weights.threshold") == 1


def test_where_every_setting_has_one_lambda_there_is_no_line(tmp_path):
    for rate, value in ((0.1, 0.5), (0.2, 1.0)):
        write_run(tmp_path / "s", {"qat_optimizer.lr": rate, "reg.lambda_act": value})
    figure = against_lambda(judged(tmp_path / "s"), "reg.lambda_act")
    why = "none of its settings has two values of lambda_act at one bit-width"
    assert isinstance(figure, Absent) and figure.why == why
    for bits, value in ((2, 0.5), (4, 1.0)):
        write_run(tmp_path / "bits", {"bits": bits, "reg.lambda_act": value})
    figure = against_lambda(judged(tmp_path / "bits"), "reg.lambda_act")
    assert isinstance(figure, Absent) and figure.why == why


def test_a_setting_that_is_left_out_has_no_panel_no_tick_and_no_line(tmp_path):
    for bits, rate, value in ((2, 0.1, 0.5), (2, 0.1, 1.0), (4, 0.2, 100.0)):
        write_run(tmp_path / "s", {"bits": bits, "qat_optimizer.lr": rate, "reg.lambda_act": value})
    figure = against_lambda(judged(tmp_path / "s"), "reg.lambda_act")
    (panel,) = figure.panels
    assert (panel.title, [series.name for series in panel.series]) == ("W2A2", ["qat_optimizer.lr 0.1"])
    assert [word for _, word in panel.x_ticks] == ["0.5", "1"]
    assert "Left out: 1 setting with one value of lambda_act." in figure.caption


def test_where_a_bit_width_has_lsq_alone_its_points_are_called_so(tmp_path):
    for rate in (0.1, 0.2):
        for changes in (NONE, {}, FREEZING):
            write_run(tmp_path / "s", {"qat_optimizer.lr": rate} | changes)
        write_run(tmp_path / "s", {"qat_optimizer.lr": rate, "bits": 4} | NONE)
    panels = {panel.title: panel for panel in against_lambda(judged(tmp_path / "s"), "reg.lambda_act").panels}
    named = {bits: [series.name for series in panel.series] for bits, panel in panels.items()}
    assert named["W4A4"] == ["LSQ, qat_optimizer.lr 0.1", "LSQ, qat_optimizer.lr 0.2"]
    assert named["W2A2"] == ["LSQ + BR, qat_optimizer.lr 0.1", "LSQ + BR, qat_optimizer.lr 0.2"]


def test_differences_are_those_of_equal_seeds(tmp_path):
    """BR gains 1, 2 and -1 points: mean 2/3, sample deviation 1.527525, and t at 0.975 with 2 degrees 4.302653."""
    tests = {1: (0.60, 0.61, 0.5), 2: (0.62, 0.64, 0.5), 3: (0.64, 0.63, None)}
    half = {"quant.quantizer": {"_target_": "mine.quantizer.Half"}}
    for seed, values in tests.items():
        for changes, test in zip((NONE, {}, half), values, strict=True):
            if test is not None:
                result = {"test_accuracy": test, "val_accuracy": test}
                write_run(tmp_path / "s", changes | {"seed": seed}, result=result)
    write_run(tmp_path / "s", half | NONE | {"seed": 1}, result={"test_accuracy": 0.45, "val_accuracy": 0.4})
    (panel,) = against_baseline(judged(tmp_path / "s")).panels
    found = dict(zip(panel.forest.rows, range(3), strict=True))
    br, own, alone = (found[name] for name in ("LSQ + BR, lambda_weight 1, lambda_act 1",
                      "Half + BR, lambda_weight 1, lambda_act 1 (to Half)", "Half"))  # fmt: skip
    assert panel.forest.dots[br] == pytest.approx([1, 2, -1]) and panel.forest.dots[own] == pytest.approx([5])
    assert panel.forest.dots[alone] == pytest.approx([-15])
    width = 4.302653 * 1.527525 / 3**0.5
    ends = panel.forest.lows[br], panel.forest.means[br], panel.forest.highs[br]
    assert ends == pytest.approx((2 / 3 - width, 2 / 3, 2 / 3 + width), rel=1e-6)
    assert panel.forest.lows[own] is panel.forest.highs[own] is None and panel.title == "W2A2"
    assert panel.forest.texts[br] == "+0.67 [\N{MINUS SIGN}3.13, +4.46]" and set(panel.forest.verdicts) == {"undecided"}


def test_differences_keep_the_rows_that_validation_prefers(tmp_path):
    write_run(tmp_path / "s", NONE, result={"val_accuracy": 0.5})
    for i in range(1, MOST_ROWS + 3):
        write_run(tmp_path / "s", {"reg.lambda_act": i / 4}, result={"val_accuracy": 0.5 + i / 100})
    figure = against_baseline(judged(tmp_path / "s"))
    rows = figure.panels[0].forest.rows
    assert rows == [f"lambda_weight 1, lambda_act {i / 4:g}" for i in range(3, MOST_ROWS + 3)]
    assert f"At most {MOST_ROWS} rows a bit-width, the best on validation: 2 left out." in figure.caption


def test_an_interval_of_two_seeds_is_cut_off_and_rows_of_lsq_are_named(tmp_path):
    frozen = NONE | {"schedule.freeze_alpha": True}
    for seed, values in {1: (0.50, 0.51, 0.49), 2: (0.52, 0.54, 0.53)}.items():
        for changes, test in zip((NONE, frozen, {}), values, strict=True):
            result = {"test_accuracy": test, "val_accuracy": None}
            write_run(tmp_path / "s", changes | {"seed": seed}, result=result)
    figure = against_baseline(judged(tmp_path / "s"))
    forest = figure.panels[0].forest
    assert forest.rows == ["LSQ, freeze_alpha true", "lambda_weight 1, lambda_act 1, freeze_alpha false"]
    assert forest.lows == pytest.approx([1.5 - 12.7062 * 0.5, -6], rel=1e-5) and forest.highs == pytest.approx([6, 6])
    assert forest.texts[0] == "+1.50 [\N{MINUS SIGN}4.85, +7.85]"
    assert "Intervals are cut off at 3 times the largest difference." in figure.caption


def test_a_panel_of_differences_is_as_high_as_its_rows(table, tmp_path, monkeypatch):
    figure, kept = against_baseline(table), []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda canvas, *_, **__: kept.append(canvas))
    draw(figure, tmp_path)
    heights = [ax.get_position().height * kept[0].get_figheight() for ax in kept[0].axes]
    assert heights == pytest.approx(heights_of_panels(figure)) and len(set(heights)) > 1


def test_equal_accuracies_have_a_place_on_the_scale(tmp_path, monkeypatch):
    for changes in (NONE, {}):
        write_run(tmp_path / "s", changes, result={"test_accuracy": 0.1})
    figure = against_baseline(judged(tmp_path / "s"))
    assert figure.panels[0].forest.means == [0.0] and faults(figure, tmp_path, monkeypatch) == []


@pytest.mark.parametrize("target", ["mine.$x^$", "mine._Half", "mine.LSQ"])
def test_parts_of_any_name_are_drawn_and_told_from_ours(target, tmp_path, monkeypatch):
    half = {"quant.quantizer": {"_target_": target}}
    for seed in (1, 2):
        for changes in (NONE, half | NONE, half, half | {"reg.lambda_act": 0.5}):
            write_run(tmp_path / "s", changes | {"seed": seed}, sites=ONE_BLOCK)
    table = judged(tmp_path / "s")
    name = target if target == "mine.LSQ" else target.removeprefix("mine.")
    assert [result.row.method for result in table.results] == ["LSQ", name, f"{name} + BR", f"{name} + BR"]
    drawn = {figure.name: figure for figure in figures([table]) if isinstance(figure, Figure)}
    for shown in ("differences", "accuracy-lambda_act", "training"):
        assert faults(drawn[shown], tmp_path, monkeypatch) == []


def test_lsq_alone_is_one_method(tmp_path):
    for rate in (0.1, 0.2):
        write_run(tmp_path / "s", NONE | {"qat_optimizer.lr": rate})
    table = judged(tmp_path / "s")
    assert [column.key for column in columns(table)][:3] == ["bits", "qat_optimizer.lr", "n"]
    labels = [row_label(result) for result in table.results]
    assert labels == ["W2A2, qat_optimizer.lr 0.1", "W2A2, qat_optimizer.lr 0.2"]


def test_without_a_baseline_there_are_no_differences(tmp_path):
    write_run(tmp_path / "s", {"seed": 1})
    write_run(tmp_path / "s", NONE | {"seed": 2})
    figure = against_baseline(judged(tmp_path / "s"))
    assert isinstance(figure, Absent) and "baseline of its seed" in figure.why


def test_alpha_control_wants_two_ways_of_one_method(shown):
    assert isinstance(shown["alpha-control"], Absent) and "freeze_alpha" in shown["alpha-control"].why


def test_alpha_control_has_a_panel_for_each_method_that_has_two_ways(tmp_path, monkeypatch):
    shrink = {"reg": {"_target_": "mine.regularizer.Shrink", "lambda_weight": 0.0, "lambda_act": 1.0}}
    other = {"reg": shrink["reg"] | {"_target_": "mine.regularizer.WithALongerNameThanMost"}}
    frozen = {"schedule.freeze_alpha": True}
    write_run(tmp_path / "s", NONE)
    for name, changes in {"br": {}, "brf": frozen, "s": shrink, "sf": shrink | frozen, "o": other}.items():
        write_run(tmp_path / "s", changes, name=name)
    write_run(tmp_path / "s", {"reg.backprop_to_alpha": True})
    write_run(tmp_path / "s", {"reg.backprop_to_alpha": True, "reg.alpha_grad_scale": "lsq"})
    figure = ways_of_alpha(judged(tmp_path / "s"))
    ticks = {panel.title: {word for _, word in panel.x_ticks} for panel in figure.panels}
    assert ticks == {
        "W2A2, LSQ + BR": {"LSQ", "detached", "reached", "scaled", "frozen"},
        "W2A2, LSQ + Shrink": {"LSQ", "free", "frozen"},
    }  # fmt: skip
    assert figure.caption.endswith("Left out, with one way each: W2A2, LSQ + WithALongerNameThanMost.")
    colors = {(series.name, series.color) for panel in figure.panels for series in panel.series}
    assert len(colors) == len({name for name, _ in colors}), "one name has one colour in all panels"
    assert faults(figure, tmp_path, monkeypatch) == []


def faults(figure: Figure, folder, monkeypatch) -> list[str]:
    """Words of the drawn figure that stick out of it, or lie over others, and names that its legend lacks."""
    kept = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda canvas, *_, **__: kept.append(canvas))
    draw(figure, folder)
    kept[0].canvas.draw()
    renderer, whole = kept[0].canvas.get_renderer(), kept[0].bbox
    words = [text for legend in kept[0].legends for text in legend.get_texts()]
    told = {text.get_text().replace("\n", " ") for text in words}
    lacks = {series.name for panel in figure.panels for series in panel.series} - told if told else set()
    for ax in kept[0].axes:
        if ax.axison:
            words += [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts]
            for axis, ends, side in ((ax.xaxis, ax.get_xlim(), 0), (ax.yaxis, ax.get_ylim(), 1)):
                ticks = [t for t in axis.get_ticklabels() if min(ends) <= t.get_position()[side] <= max(ends)]
                words += [text for text in ticks if text.get_visible()]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in words if text.get_text().strip()]
    out = [word for word, b in boxes if b.x0 < whole.x0 or whole.x1 < b.x1 or b.y0 < whole.y0 or whole.y1 < b.y1]
    over = [f"{a} over {b}" for i, (a, box) in enumerate(boxes) for b, other in boxes[:i] if box.overlaps(other)]
    return [f"{figure.name}: {fault}" for fault in (*out, *over, *lacks)]


def test_every_word_of_its_figures_can_be_read(shown, tmp_path, monkeypatch):
    drawn = [figure for figure in shown.values() if isinstance(figure, Figure)]
    alike = {figure.name.partition("-w2a2")[0]: figure for figure in drawn if "-w3a3" not in figure.name}
    assert {"differences", "accuracy-lambda_weight", "accuracy-lambda_act", "bits-lambda", "training"} <= alike.keys()
    for figure in alike.values():
        assert faults(figure, tmp_path, monkeypatch) == []


@pytest.mark.parametrize("small", [True, False])
def test_long_names_and_titles_are_wrapped(small, tmp_path, monkeypatch):
    words = ", ".join(f"an_option_of_some_length_{number} value" for number in range(6))
    series = [Series(f"{words}, {number}", [0.0, 1.0], [0.0, 1.0], color=number) for number in range(3)]
    lines = Figure("lines", "t", "c", [Panel(word, series, y_hidden=small) for word in (words, "w")], small=small)
    assert faults(lines, tmp_path, monkeypatch) == []
    heat = Heat(["row"], ["a", "b"], [[1.0, 2.0]], [["1.0", "2.0"]], "accuracy (%)")
    assert faults(Figure("heat", "t", "c", [Panel(words, heat=heat)], columns=1), tmp_path, monkeypatch) == []
    scale = Heat(["row"], ["a", "b"], [[1.0, 2.0]], None, "share of values (%)")
    panels = [Panel("weights", heat=scale), Panel("activations", heat=scale)]
    assert faults(Figure("scale", "t", "c", panels, columns=1), tmp_path, monkeypatch) == []
