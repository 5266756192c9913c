"""What a report says of a sweep whose launcher looked after every seed, and of what given seeds could have seen."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats

from benchmarks.synthetic_sweep import write_run, write_sweep
from brsweep.report.figures.build import figures
from brsweep.report.figures.draw import draw
from brsweep.report.figures.seeds import seeds_until_decided
from brsweep.report.notices import notices
from brsweep.report.page import page
from brsweep.report.results import judge
from brsweep.report.rows import cohorts
from brsweep.report.runs import read_sweeps
from brsweep.report.seeds import seed_lines, seed_paths, seen_line
from brsweep.report.spread import correlation, paired
from brsweep.report.table import columns, to_csv
from brsweep.sweep.manifest import MANIFEST, add_to_manifest
from brsweep.sweep.seeds.sequential import Design, looks

DESIGN = Design(first=1, least=3, most=6, smallest=0.003, comparisons=2)
NOISE = (0.01, -0.02, 0.015, -0.01, 0.02, -0.015)
BETTER = (0.0100, 0.0101, 0.0099)


def judged(*sweeps):
    return [judge(cohort) for cohort in cohorts(read_sweeps(sweeps)[0])]


def run(sweep, strength: float, seed: int, val: float, test: float = 0.5) -> None:
    changes = {"reg.lambda_weight": 0.0, "reg.lambda_act": strength, "seed": seed}
    write_run(sweep, changes, result={"val_accuracy": val, "test_accuracy": test, "float_test_accuracy": 0.9})


@pytest.fixture
def sweep(tmp_path):
    """LSQ and lambda 10 at six seeds; lambda 1 at three, after which it was better."""
    folder = tmp_path / "s"
    for seed, noise in enumerate(NOISE, start=1):
        run(folder, 0.0, seed, 0.8 + 0.01 * seed)
        run(folder, 10.0, seed, 0.8 + 0.01 * seed + noise)
    for seed, gain in enumerate(BETTER, start=1):
        run(folder, 1.0, seed, 0.8 + 0.01 * seed + gain)
    add_to_manifest(folder, "s", "c", [], seeds=asdict(DESIGN))
    return folder


def test_the_looks_are_those_that_the_launcher_took(sweep):
    (table,) = judged(sweep)
    paths = {path.result.row.lambdas[1]: path for path in seed_paths(table)}
    assert set(paths) == {1.0, 10.0} and {path.baseline for path in paths.values()} == {"LSQ"}
    assert paths[1.0].differences == pytest.approx(BETTER) and paths[10.0].differences == pytest.approx(NOISE)
    for path in paths.values():
        assert list(path.looks) == looks(path.differences, DESIGN)
    assert [look.n for look in paths[10.0].looks] == [3, 4, 5, 6] and [look.n for look in paths[1.0].looks] == [3]


def test_a_row_that_was_decided_early_lacks_no_seed(sweep, tmp_path):
    """It wants no more than it got, beside a sweep with given seeds as well, whose rows want all of those."""
    (table,) = judged(sweep)
    rows = {result.row.lambdas[1]: result for result in table.results}
    assert rows[1.0].row.seeds == (1, 2, 3) and rows[10.0].row.seeds == (1, 2, 3, 4, 5, 6)
    assert not any(result.notes for result in table.results)
    n = next(column for column in columns(table) if column.key == "n")
    assert [n.text(result) for result in table.results] == ["6", "3", "6"]
    run(tmp_path / "given", 20.0, 1, 0.8)
    run(tmp_path / "given", 20.0, 9, 0.8)
    run(tmp_path / "given", 30.0, 1, 0.8)
    (table,) = judged(sweep, tmp_path / "given")
    notes = {result.row.lambdas[1]: result.notes for result in table.results if result.row.config}
    assert notes[30.0][0] == "no run with seed 9" and not notes[1.0] and not notes[20.0]


def test_a_line_says_which_rule_ended_each_row(sweep):
    (table,) = judged(sweep)
    first, second = seed_lines(table)
    assert first.startswith("W2A2, lambda_act 1, validation against LSQ: better at n=3: [+0.")
    assert first.endswith("points, above 0")
    assert second.startswith("W2A2, lambda_act 10, validation against LSQ: undecided at n=6: the most, [")
    told = notices([table], [])
    assert first in told and second in told and first in page("s", [table], figures([table]), told)


def test_validation_judges_whatever_the_test_set_says(tmp_path):
    for seed in (1, 2, 3):
        run(tmp_path / "s", 0.0, seed, 0.8, test=0.9)
        run(tmp_path / "s", 1.0, seed, 0.8 + BETTER[seed - 1], test=0.1 + 0.001 * seed)
    add_to_manifest(tmp_path / "s", "s", "c", [], seeds=asdict(DESIGN))
    (table,) = judged(tmp_path / "s")
    assert "better at n=3" in seed_lines(table)[0] and table.results[1].gap.verdict == "worse"


def test_a_sweep_on_its_way_is_shown_as_far_as_it_is(tmp_path):
    """Seed 2 of lambda 1 has not ended: what comes after it is not looked at yet."""
    for seed in (1, 2, 3, 4):
        run(tmp_path / "s", 0.0, seed, 0.8 + 0.01 * seed)
    for seed in (1, 3, 4):
        run(tmp_path / "s", 1.0, seed, 0.8 + 0.01 * seed + 0.01)
    add_to_manifest(tmp_path / "s", "s", "c", [], seeds=asdict(DESIGN))
    (table,) = judged(tmp_path / "s")
    assert seed_lines(table) == ["W2A2, lambda_act 1, validation against LSQ: not judged: 1 of at least 3 seeds"]
    assert seeds_until_decided(table) == []


def test_a_negative_correlation_has_a_minus_sign(tmp_path):
    for seed, (plain, own) in enumerate([(0.5, 0.6), (0.6, 0.5), (0.55, 0.56)], start=1):
        run(tmp_path / "s", 0.0, seed, 0.8, test=plain)
        run(tmp_path / "s", 1.0, seed, 0.8, test=own)
    (line,) = seen_line(judged(tmp_path / "s")[0])
    assert line.endswith("accuracies of one seed correlate by \N{MINUS SIGN}0.99")


def test_given_seeds_have_no_such_figure(tmp_path):
    write_sweep(tmp_path / "s", [{"seed": seed, "reg.lambda_act": a} for seed in (1, 2) for a in (0.0, 1.0)])
    (table,) = judged(tmp_path / "s")
    assert seed_paths(table) == [] and seeds_until_decided(table) == [] and seed_lines(table) == []


def test_the_figure_is_a_panel_for_each_row(sweep, tmp_path):
    (table,) = judged(sweep)
    (figure,) = [f for f in figures([table]) if f.name == "seeds"]
    better, undecided = figure.panels
    assert better.title == "W2A2, lambda_act 1: better at n=3"
    assert undecided.title == "W2A2, lambda_act 10: undecided at n=6"
    (series,) = undecided.series
    last = looks(list(NOISE), DESIGN)[-1]
    assert series.x == [3, 4, 5, 6] and series.y[-1] == pytest.approx(100 * last.mean)
    assert (series.low[-1], series.high[-1]) == pytest.approx((100 * last.low, 100 * last.high))
    assert series.dots[:2] == [(1, pytest.approx(1.0)), (2, pytest.approx(-2.0))]
    first, reach = looks(list(NOISE), DESIGN)[0], 100 * (last.high - last.low)
    assert 100 * first.high > series.high[0] > 100 * last.high, "the first is cut"
    assert series.high[0] - series.low[0] == pytest.approx(2 * reach)
    assert [at for at, _ in undecided.levels] == [0.0, pytest.approx(0.3), pytest.approx(-0.3)]
    assert "for all 2 rows together" in figure.caption and "±0.3 points" in figure.caption
    draw(figure, tmp_path)
    assert (tmp_path / "seeds.png").stat().st_size > 5000


def test_differences_without_spread_have_a_point_and_no_bar(tmp_path):
    for seed in (1, 2, 3):
        run(tmp_path / "s", 0.0, seed, 0.8)
        run(tmp_path / "s", 1.0, seed, 0.8)
    add_to_manifest(tmp_path / "s", "s", "c", [], seeds=asdict(DESIGN))
    (table,) = judged(tmp_path / "s")
    (figure,) = seeds_until_decided(table)
    (series,) = figure.panels[0].series
    assert series.low == series.y == series.high == [0.0] and "no spread" in seed_lines(table)[0]
    draw(figure, tmp_path)


@pytest.mark.parametrize("seeds", [{"least": 3}, asdict(DESIGN) | {"most": 10**9}, [], "auto"])
def test_a_damaged_design_is_named_and_the_rest_is_shown(seeds, sweep):
    manifest = json.loads((sweep / MANIFEST).read_text()) | {"seeds": seeds}
    (sweep / MANIFEST).write_text(json.dumps(manifest))
    (table,) = judged(sweep)
    told = notices([table], [])
    assert [line for line in told if "what it says of the seeds is damaged" in line and MANIFEST in line]
    assert seeds_until_decided(table) == [] and len(table.results) == 3


# --- what given seeds could have seen ---------------------------------------------------------------------------------


def test_the_difference_that_n_pairs_see():
    """By counting: of so many tests with that true difference 80 % find it, within five standard errors."""
    gap = paired([0.3, -0.1, 0.2, 0.05, 0.6, 0.1])
    deviation = float(np.std([0.3, -0.1, 0.2, 0.05, 0.6, 0.1], ddof=1))
    drawn = gap.sees + deviation * np.random.default_rng(0).standard_normal((40_000, 6))
    found = (stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05).mean()
    assert found == pytest.approx(0.8, abs=5 * math.sqrt(0.16 / 40_000))
    assert paired([0.1]).sees is None and paired([0.1, 0.1, 0.1]).sees is None


def test_more_pairs_of_the_same_spread_see_less():
    def sees(n: int) -> float:
        return paired([0.1, -0.1] * n).sees

    assert sees(2) > sees(3) > sees(8) > 0


def test_correlation_is_scipys_and_needs_three_pairs_with_spread():
    pairs = [(1.0, 2.0), (2.0, 1.0), (4.0, 5.0), (3.0, 3.5)]
    assert correlation(pairs) == pytest.approx(stats.pearsonr(*zip(*pairs, strict=True)).statistic)
    assert correlation(pairs[:2]) is None and correlation([(1.0, 2.0), (1.0, 3.0), (1.0, 4.0)]) is None
    assert correlation([]) is None


def test_the_report_says_what_the_seeds_could_have_seen(tmp_path):
    tests = {0.0: (0.50, 0.60, 0.70), 1.0: (0.51, 0.62, 0.72), 10.0: (0.52, 0.58, 0.73)}
    for strength, values in tests.items():
        for seed, test in enumerate(values, start=1):
            run(tmp_path / "s", strength, seed, test, test)
    (table,) = judged(tmp_path / "s")
    _, near, far = table.results
    assert near.gap.correlation == pytest.approx(stats.pearsonr(tests[0.0], tests[1.0]).statistic)
    (line,) = seen_line(table)
    sees, alike = f"{100 * near.gap.sees:.2f} to {100 * far.gap.sees:.2f}", f"{far.gap.correlation:.2f} to 1.00"
    assert line == (
        f"With these seeds (n = 3) a t test finds a difference of {sees} points in 80 % of the cases; "
        f"accuracies of one seed correlate by {alike}"
    )
    assert line in notices([table], [])
    rows = list(csv.DictReader(io.StringIO(to_csv([table]))))
    assert [row["gap_sees"] for row in rows] == ["", str(near.gap.sees), str(far.gap.sees)]
    assert float(rows[1]["gap_correlation"]) == near.gap.correlation


def test_one_seed_could_have_seen_nothing(tmp_path):
    run(tmp_path / "s", 0.0, 1, 0.5)
    run(tmp_path / "s", 1.0, 1, 0.6)
    (table,) = judged(tmp_path / "s")
    assert seen_line(table) == []
