"""What the figures show, as data, and that the renderers for files take every kind of panel."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.synthetic_sweep import ONE_BLOCK, histogram, write_run, write_sweep
from brsweep.report.figures import Absent, Figure, Heat, Panel, Series
from brsweep.report.figures.accuracy import against_lambda, bits_by_lambda, log_positions, ways_of_alpha
from brsweep.report.figures.build import figures
from brsweep.report.figures.draw import draw
from brsweep.report.figures.inside import Inside, alphas, bin_occupancy, changes, distributions
from brsweep.report.figures.pairs import pairs
from brsweep.report.results import judge
from brsweep.report.rows import cohorts
from brsweep.report.runs import read_sweeps
from brsweep.runs.folder import RunFolder

LAMBDAS = (0.0, 0.1, 10.0)
CONTROLS = ((False, False), (True, False), (False, True))
GRID = [
    {"seed": seed, "bits": bits, "reg.lambda_act": value, "reg.lambda_weight": value,
     "schedule.freeze_alpha": frozen, "reg.backprop_to_alpha": reaches}
    for seed in (1, 2) for bits in (2, 3) for value in LAMBDAS for frozen, reaches in CONTROLS
    if value or not reaches
]  # fmt: skip


def judged(sweep):
    (cohort,) = cohorts(read_sweeps([sweep])[0])
    return judge(cohort)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "made"
    write_sweep(folder, GRID, sites=ONE_BLOCK)
    return judged(folder)


@pytest.fixture(scope="module")
def inside(table):
    return Inside(pairs(table)[0])


def test_zero_stands_a_decade_left_of_the_smallest_lambda():
    assert log_positions([0.0, 0.01, 1.0]) == {0.0: -3.0, 0.01: -2.0, 1.0: 0.0}
    assert log_positions([0.0]) == {0.0: -1.0}


def test_accuracy_against_lambda_has_a_panel_per_bits_and_a_line_per_setting(table):
    figure = against_lambda(table, "reg.lambda_act")
    assert [panel.title for panel in figure.panels] == ["W2A2", "W3A3"]
    panel = figure.panels[0]
    assert [word for _, word in panel.x_ticks] == ["0", "0.1", "10"] and panel.levels[0][1] == "FP32"
    names = {series.name for series in panel.series}
    assert names == {"freeze_alpha true", *(f"backprop_to_alpha {w}, freeze_alpha false" for w in ("true", "false"))}
    line = next(series for series in panel.series if series.name == "freeze_alpha true")
    frozen = [r for r in table.results if r.row.bits == "W2A2" and r.row.settings["schedule.freeze_alpha"] is True]
    assert line.y == pytest.approx([100 * r.test.mean for r in sorted(frozen, key=lambda r: r.row.lambdas)])
    assert line.high[2] - line.y[2] == pytest.approx(100 * frozen[-1].test.sd)
    assert [value for _, value in line.dots[-2:]] == pytest.approx(
        [100 * run.number("test_accuracy") for run in frozen[-1].row.counted]
    )


def test_the_lines_are_the_other_lambda_where_both_vary_freely(tmp_path):
    points = [{"seed": 1, "reg.lambda_act": a, "reg.lambda_weight": w} for a in (0.0, 1.0) for w in (0.0, 1.0)]
    write_sweep(tmp_path / "s", points)
    table = judged(tmp_path / "s")
    lines = against_lambda(table, "reg.lambda_weight").panels[0].series
    assert [line.name for line in lines] == ["lambda_act 0", "lambda_act 1"] and all(len(line.y) == 2 for line in lines)


def test_lambdas_that_move_together_share_one_figure(table):
    assert "moves with lambda_act" in against_lambda(table, "reg.lambda_weight").why
    assert "lambda_weight moves with lambda_act" in against_lambda(table, "reg.lambda_act").caption


def test_a_figure_keeps_the_settings_that_validation_prefers(tmp_path):
    rates = [round(0.001 * i, 3) for i in range(1, 11)]
    for rate in rates:
        for value in (0.1, 1.0):
            changes = {"qat_optimizer.lr": rate, "reg.lambda_act": value}
            write_run(tmp_path / "s", changes, result={"val_accuracy": 0.5 + rate})
    figure = against_lambda(judged(tmp_path / "s"), "reg.lambda_act")
    assert [s.name for s in figure.panels[0].series] == [f"qat_optimizer.lr {rate:g}" for rate in rates[2:]]
    assert "At most 8 settings" in figure.caption


def test_the_heat_map_holds_the_means(table):
    figure = bits_by_lambda(table)
    panel = next(p for p in figure.panels if p.title == "freeze_alpha true")
    assert panel.heat.rows == ["W2A2", "W3A3"] and panel.heat.columns == ["0 / 0", "0.1 / 0.1", "10 / 10"]
    mean = next(r.test.mean for r in table.results if r.row.settings["schedule.freeze_alpha"] is True and r.row.is_lsq)
    assert panel.heat.values[0][0] == pytest.approx(100 * mean)


def test_alpha_control_compares_picked_rows_with_lsq(table):
    figure = ways_of_alpha(table)
    assert [word for _, word in figure.panels[0].x_ticks] == [
        "LSQ", "detached", "reached", "frozen",
    ]  # fmt: skip


def test_figures_without_data_say_why(tmp_path):
    write_sweep(tmp_path / "s", [{"seed": 1}])
    absent = {f.name: f.why for f in figures([judged(tmp_path / "s")]) if isinstance(f, Absent)}
    assert "one value of lambda_act" in absent["accuracy-lambda_act"]
    assert "two bit-widths" in absent["bits-lambda"] and "one way of alpha control" in absent["alpha-control"]
    assert "layers.jsonl" in absent["weights-w2a2"] and "layers.jsonl" in absent["codes"]


def test_pairs_are_of_one_seed_and_the_picked_row(table):
    for pair in pairs(table):
        (lsq, lsq_run), (br, br_run) = pair.runs
        assert (lsq, br, lsq_run.seed, br_run.seed) == ("LSQ", "LSQ + BR", 1, 1)
        (_, lsq_row), (_, br_row) = pair.rows
        assert br_row.row in [pick.result.row for pick in table.picks] and lsq_row.row.is_lsq


def test_distributions_mirror_lsq_and_br_around_the_levels(inside):
    figure = distributions(inside, "weight")
    assert len(figure.panels) == 2, "the ends, at 8 bits, are left out"
    lsq, br = figure.panels[0].series
    counts, about = histogram(2, "weight", 0.0)
    assert max(lsq.y) == 1.0 and min(lsq.y) >= 0 and min(br.y) == -1.0
    assert np.allclose(lsq.y, counts / counts.max(), atol=1e-4)
    assert lsq.x[0] == pytest.approx(about[0] + 0.5 * (about[1] - about[0]) / len(counts), abs=1e-4)
    assert [at for at, _ in figure.panels[0].marks] == [-2.0, -1.0, 0.0, 1.0]
    last = inside.epochs["LSQ + BR"][-1]
    assert figure.panels[0].title.endswith(f"→ {100 * last['near'][1]:.0f} %")


def test_the_zeros_of_activations_do_not_dwarf_the_rest(inside):
    held = inside.last["LSQ"]["stages.0.0.relu1"]
    cell = int(-held.low / (held.high - held.low) * len(held.counts))
    held.counts[cell] = 10**9
    lsq = distributions(inside, "act").panels[0].series[0]
    assert max(lsq.y) == 1.0 and sorted(lsq.y)[-10] > 0.5


def test_alpha_and_occupancy_are_those_of_the_low_sites(inside):
    lines = alphas(inside).panels[0].series
    assert [line.name for line in lines] == ["stages.0.0.conv1", "stages.0.0.conv2"]
    assert lines[0].y == [pytest.approx(0.11 + 0.001 * epoch) for epoch in (1, 2, 3)]
    heat = bin_occupancy(inside).panels[0].heat
    assert heat.columns == ["-2", "-1", "0", "1"] and heat.values == [[25.0] * 4] * 2
    assert bin_occupancy(inside).panels[2].heat.columns == ["0", "1", "2", "3"]


def test_code_changes_are_means_over_layers_and_oscillation_is_shown_where_recorded(inside):
    figure = changes([inside])
    assert figure.panels[0].series[0].y == pytest.approx([10.0, 5.0, 100 / 30])
    assert "recorded no oscillation" in figure.caption and len(figure.panels) == 3
    for records in inside.epochs.values():
        for record in records:
            record["oscillating"] = [0.02 if kind == "weight" else None for kind in record["kind"]]
    figure = changes([inside])
    assert figure.panels[1].y_label == "oscillating (%)" and figure.panels[1].series[0].y == [2.0] * 3
    assert "no oscillation" not in figure.caption


def test_stages_are_marked_in_the_curves(table):
    figure = next(f for f in figures([table]) if f.name == "training")
    assert [(at, word) for at, word in figure.panels[0].marks] == [(0.5, "float"), (2.5, "warm-up"), (3.5, "BR")]
    assert [s.name for s in figure.panels[0].series] == ["LSQ", "LSQ + BR"]
    assert len(figure.panels[0].series[0].y) == 5


def test_stages_are_those_of_the_plan_whatever_they_are_called(tmp_path, monkeypatch):
    """Marks and histograms follow the list of stages; no figure knows a name by heart."""
    names = {"FLOAT": "first", "WARMUP": "second", "REGULARIZED": "third"}
    for constant, name in names.items():
        monkeypatch.setattr(f"brsweep.stages.plan.{constant}", name)
    folder = write_run(tmp_path / "s", {"reg.lambda_weight": 0.0, "reg.lambda_act": 0.0}, sites=ONE_BLOCK)
    result = RunFolder(folder).result()
    (folder / "snapshots" / "br-end.npz").rename(folder / "snapshots" / "third-end.npz")
    for file in ("metrics.jsonl", "layers.jsonl"):
        text = (folder / file).read_text()
        for old, new in (("float", "first"), ("warmup", "second"), ("br", "third")):
            text = text.replace(f'"stage": "{old}"', f'"stage": "{new}"')
        (folder / file).unlink()
        (folder / file).write_text(text)
    RunFolder(folder).write_result(result)
    shown = {f.name: f for f in figures([judged(tmp_path / "s")])}
    assert [word for _, word in shown["training"].panels[0].marks] == ["float", "warm-up", "LSQ"]
    assert [word for _, word in shown["alpha-w2a2"].panels[0].marks] == ["warm-up", "LSQ"]
    assert isinstance(shown["weights-w2a2"], Figure)


def test_a_second_cohorts_figures_have_names_of_their_own(tmp_path):
    write_run(tmp_path / "s", {"seed": 1})
    write_run(tmp_path / "s", {"seed": 2}, result={"core": "other"})
    tables = [judge(cohort) for cohort in cohorts(read_sweeps([tmp_path / "s"])[0])]
    names = [figure.name for figure in figures(tables)]
    assert len(names) == len(set(names)) and "training" in names and "training-2" in names


def test_every_kind_of_panel_is_drawn_twice(tmp_path):
    """Gaps, a spread, logarithms, areas and heat maps with a hole."""
    gap = Series("a $ _ name", [1, 2, 3], [0.1, None, 10.0], low=[0.05, None, 9.0], high=[0.2, None, 11.0])
    points = Series("b", [1, 2], [1.0, 2.0], [0.5, 1.5], [1.5, 2.5], dots=[(1, 0.9)], color=1, markers=True)
    area = Series("c", [0, 1, 2], [0.0, 1.0, 0.0], area=True, color=9)
    lines = Figure("lines", "t", "c", [
        Panel("log", [gap], y_log=True, marks=[(1.5, "BR")]), Panel("points", [points], x_ticks=[(1, "0"), (2, "x")]),
        Panel("area", [area], y_hidden=True, levels=[(0.5, "FP32")]),
    ])  # fmt: skip
    heat = Heat(["r1", "r2"], ["c"], [[1.0], [None]], [["1.0"], [""]], "%")
    heats = Figure("heats", "t", "c", [Panel("h", heat=heat)], columns=1)
    plain = Figure("plain", "t", "c", [Panel("h", heat=Heat(["r"], ["c"], [[1.0]], None, "%"))], columns=1)
    for figure in (lines, heats, plain):
        draw(figure, tmp_path)
        assert (tmp_path / f"{figure.name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / f"{figure.name}.pdf").read_bytes().startswith(b"%PDF")


def drawn(figure: Figure, tmp_path, monkeypatch):
    """The canvas of what `draw` writes."""
    kept = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda canvas, *_, **__: kept.append(canvas))
    draw(figure, tmp_path)
    kept[0].canvas.draw()
    return kept[0], kept[0].canvas.get_renderer()


@pytest.mark.parametrize("level", [0.0000245, 0.0245, 245.0])
def test_words_beside_an_axis_are_whole_and_ticks_are_three(level, tmp_path, monkeypatch):
    """However long the ticks' words are: nothing sticks out of the file, and no stage's name meets another."""
    values = Series("s", list(range(1, 31)), [level * (1 + i / 30) for i in range(30)])
    marks = [(0.5, "float"), (26.5, "warm-up"), (27.5, "OscillationAware")]
    panels = [Panel("weights, LSQ", [values], "epoch", "alpha", y_log=log, marks=marks) for log in (True, False)]
    canvas, renderer = drawn(Figure("f", "t", "c", panels), tmp_path, monkeypatch)
    whole = canvas.bbox
    for ax in canvas.axes:
        low, high = ax.get_ylim()
        ticks = [tick for tick in ax.get_yticklabels() if low <= tick.get_position()[1] <= high]
        for text in (ax.yaxis.label, ax.xaxis.label, ax.title, *ax.texts, *ticks):
            box = text.get_window_extent(renderer)
            assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1, text
        names = [text.get_window_extent(renderer) for text in (*ax.texts, ax.title)]
        assert not any(a.overlaps(b) for i, a in enumerate(names) for b in names[:i])
        for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            assert sum(low <= tick <= high for tick in axis.get_majorticklocs()) >= 3


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("marks", [[], [(0.5, "float")], [(0.5, "float"), (0.6, "warm-up")]])
def test_titles_are_whole_with_any_number_of_stages_named_below(small, marks, tmp_path, monkeypatch):
    panels = [Panel("0.0.conv1: 1 % → 14 %", [Series("s", [0, 1], [0, 1])], "", "", marks=marks) for _ in range(6)]
    canvas, renderer = drawn(Figure("f", "t", "c", panels, columns=2, small=small), tmp_path, monkeypatch)
    for ax in canvas.axes:
        box = ax.title.get_window_extent(renderer)
        assert canvas.bbox.y0 <= box.y0 and box.y1 <= canvas.bbox.y1
        assert not any(box.overlaps(other.get_window_extent(renderer)) for other in canvas.axes if other is not ax)
