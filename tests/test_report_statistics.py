"""Means, paired gaps and Holm's correction by hand-worked numbers; what is compared, and which lambda is picked."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.synthetic_sweep import config, write_run, write_sweep
from brsweep.report.notices import notices
from brsweep.report.results import chosen, judge
from brsweep.report.rows import NO_EFFECT, cohorts
from brsweep.report.runs import ReportedRun, read_sweeps
from brsweep.report.spread import Paired, corrected, paired, spread
from brsweep.report.table import headlines
from brsweep.runs.folder import RunFolder
from brsweep.runs.status import RunStatus
from brsweep.runs.words import final_values
from brsweep.sweep.manifest import add_to_manifest


def judged(*sweeps):
    return [judge(cohort) for cohort in cohorts(read_sweeps(sweeps)[0])]


def accuracy(test: float, val: float | None = None) -> dict:
    return {"test_accuracy": test, "val_accuracy": test if val is None else val, "float_test_accuracy": 0.9}


LSQ = {"reg.lambda_weight": 0.0, "reg.lambda_act": 0.0}


def test_mean_and_sample_deviation():
    assert spread([0.8, None, 0.9, 1.0]).mean == pytest.approx(0.9)
    assert spread([0.8, 0.9, 1.0]).sd == pytest.approx(0.1)
    assert spread([0.8]).sd is None and spread([None]) is None


def test_paired_t_is_scipys():
    differences = [0.01, 0.03, 0.035, -0.002]
    mine, theirs = paired(differences), stats.ttest_1samp(differences, 0)
    interval = theirs.confidence_interval(0.95)
    assert (mine.p, mine.low, mine.high) == pytest.approx((theirs.pvalue, interval.low, interval.high))


def test_differences_without_spread_are_never_certain():
    """Accuracies are counts over few images, so two equal differences are common; p = 0 would be an artefact."""
    for equal in ([0.0028, 0.0028], [0.0, 0.0, 0.0], [0.5]):
        (gap,) = corrected([paired(equal)])
        assert (gap.p, gap.low, gap.verdict) == (None, None, "undecided")
    assert paired([]) is None


def test_holm_by_hand():
    ps = [0.04, 0.001, 0.012, None, 0.03]
    found = [c.holm for c in corrected([Paired(3, 1.0, p=p) for p in ps])]
    assert found[3] is None
    assert [found[i] for i in (1, 2, 4, 0)] == pytest.approx([0.004, 0.036, 0.06, 0.06])


def test_the_verdict_needs_holms_p_and_has_the_gaps_sign():
    assert Paired(3, -0.1, p=0.001, holm=0.004).statement() == "worse at n=3"
    assert Paired(5, 0.1, p=0.001, holm=0.004).statement() == "better at n=5"
    assert Paired(3, 0.1, p=0.04, holm=0.06).statement() == "undecided at n=3"


def test_gaps_to_lsq_are_paired_by_seed(tmp_path):
    """The seeds differ by ten points, the differences hardly: unpaired, nothing could be said."""
    sweep = tmp_path / "s"
    for seed, base, gain in ((1, 0.6, 0.020), (2, 0.7, 0.021), (3, 0.8, 0.022)):
        write_run(sweep, LSQ | {"seed": seed}, result=accuracy(base))
        write_run(sweep, {"reg.lambda_act": 2.0, "seed": seed}, result=accuracy(base + gain))
    (table,) = judged(sweep)
    lsq, br = table.results
    assert lsq.row.is_lsq and lsq.gap is None
    assert br.gap.mean == pytest.approx(0.021) and br.gap.verdict == "better"
    reach = stats.t.ppf(0.975, 2) * 0.001 / math.sqrt(3)
    assert (br.gap.low, br.gap.high) == pytest.approx((0.021 - reach, 0.021 + reach))
    assert br.gap_float.mean == pytest.approx(0.721 - 0.9) and br.test.sd == pytest.approx(0.101)


def test_only_seeds_that_both_have_are_paired(tmp_path):
    for seed in (1, 2):
        write_run(tmp_path / "s", LSQ | {"seed": seed}, result=accuracy(0.5))
    for seed in (2, 3):
        write_run(tmp_path / "s", {"seed": seed}, result=accuracy(0.6))
    (table,) = judged(tmp_path / "s")
    assert (table.results[1].gap.n, table.results[1].gap.verdict) == (1, "undecided")
    assert "no run with seed 1" in table.results[1].notes and "no run with seed 3" in table.results[0].notes


def test_lsq_partners_share_all_but_the_regularizer(tmp_path):
    """Bits and learning rate must agree; a frozen alpha is compared with LSQ whose alpha trains on."""
    sweep = tmp_path / "s"
    write_run(sweep, LSQ | {"bits": 4}, result=accuracy(0.5))
    write_run(sweep, {"bits": 2}, result=accuracy(0.6))
    write_run(sweep, LSQ | {"bits": 4, "schedule.freeze_alpha": True}, result=accuracy(0.3))
    write_run(sweep, {"bits": 4, "schedule.freeze_alpha": True}, result=accuracy(0.7))
    write_run(sweep, {"bits": 4, "qat_optimizer.lr": 0.5}, result=accuracy(0.8))
    (table,) = judged(sweep)
    gaps = {r.test.mean: r.gap and round(r.gap.mean, 6) for r in table.results}
    assert gaps == {0.5: None, 0.6: None, 0.3: -0.2, 0.7: 0.2, 0.8: None}


def test_rows_show_what_varies_and_no_value_without_effect(tmp_path):
    write_run(tmp_path / "s", LSQ | {"reg.ramp.act": "cosine"})
    write_run(tmp_path / "s", {"reg.ramp.act": "cosine"})
    write_run(tmp_path / "s", {"reg.ramp.act": "constant", "threads": 7})
    (table,) = judged(tmp_path / "s")
    assert set(table.cohort.varied) == {"reg.lambda_weight", "reg.lambda_act", "reg.ramp.act"}
    assert [r.row.settings["reg.ramp.act"] for r in table.results] == [NO_EFFECT, "constant", "cosine"]


def test_lambda_is_picked_on_validation_and_the_test_set_chooses_nothing(tmp_path):
    for strength, val, test in ((0.1, 0.8, 0.70), (1.0, 0.9, 0.60), (10.0, 0.7, 0.99)):
        for seed in (1, 2):
            write_run(tmp_path / "s", {"reg.lambda_act": strength, "seed": seed}, result=accuracy(test, val))
    (table,) = judged(tmp_path / "s")
    assert [r.row.lambdas[1] for r in table.results if r.picked] == [1.0]
    assert table.picks[0].result.test.mean == pytest.approx(0.6) and table.picks[0].candidates == 3


def write_lambda(sweep, strength: float, vals: dict[int, float]) -> None:
    for seed, val in vals.items():
        write_run(sweep, {"reg.lambda_act": strength, "seed": seed}, result=accuracy(0.5, val))


def test_a_pick_stands_when_seeds_are_added_to_one_lambda(tmp_path):
    """Over the seeds that all lambdas have, 0.1 is better; what the added seeds of 1.0 reach changes nothing."""
    write_lambda(tmp_path / "s", 0.1, {1: 0.81, 2: 0.83})
    write_lambda(tmp_path / "s", 1.0, {1: 0.71, 2: 0.73})
    (before,) = judged(tmp_path / "s")
    write_lambda(tmp_path / "s", 1.0, {3: 0.99, 4: 0.99, 5: 0.99})
    write_run(tmp_path / "s", {"reg.lambda_act": 1.0, "seed": 6}, state="stopped")
    (after,) = judged(tmp_path / "s")
    for table in (before, after):
        (pick,) = table.picks
        assert (pick.result.row.lambdas[1], pick.candidates, pick.incomplete, pick.seeds) == (0.1, 2, 0, (1, 2))
        assert [r.row.lambdas[1] for r in table.results if r.picked] == [0.1]
        (line,), _ = headlines(table)
        assert "best on validation of 2 lambdas, 82.00 ± 1.41 % over the 2 seeds that all have" in line


def test_lambdas_without_a_seed_in_common_are_not_compared(tmp_path):
    write_lambda(tmp_path / "s", 0.1, {1: 0.8})
    write_lambda(tmp_path / "s", 1.0, {2: 0.9})
    (table,) = judged(tmp_path / "s")
    assert not table.picks and not any(r.picked for r in table.results) and headlines(table) == ([], [])
    assert "W2A2: none of 2 lambdas is picked, they have no finished seed in common" in notices([table], [])


def test_settings_are_ranked_over_the_seeds_that_all_have(tmp_path):
    """The frozen setting reaches more on a seed that the free one was not given, and less on the one that both have."""
    for frozen, vals in ((False, {1: 0.8}), (True, {1: 0.7, 2: 0.99})):
        for seed, val in vals.items():
            changes = {"schedule.freeze_alpha": frozen, "seed": seed}
            write_run(tmp_path / "s", changes, result=accuracy(0.5, val))
    (table,) = judged(tmp_path / "s")
    first, others = headlines(table)
    assert len(first) == len(others) == 1 and "freeze_alpha false" in first[0]
    assert "(of 2 settings over the one seed that all have)" in first[0] and "settings" not in others[0]


def in_memory(frozen: bool, strength: float, seed: int, val: float | None) -> ReportedRun:
    """A finished run, or a stopped one where `val` is None."""
    changes = {"schedule.freeze_alpha": frozen, "reg.lambda_act": strength, "seed": seed}
    name = f"{frozen}-{strength}-{seed}"
    result = None if val is None else accuracy(0.5, val) | {"core": "c", "code": "c", "data": "d"}
    status = RunStatus(name, Path(name), "stopped" if val is None else "finished")
    return ReportedRun(status, "s", config(changes), result, ())


def what_is_picked(values: dict[tuple[bool, float], dict[int, float | None]]) -> tuple:
    """Per setting its pick, and which of the settings is the first."""
    runs = [in_memory(*row, seed, val) for row, of in values.items() for seed, val in of.items()]
    (table,) = [judge(cohort) for cohort in cohorts(runs)]
    picks = [(p.result.row.config["schedule"]["freeze_alpha"], p.result.row.lambdas, p.seeds) for p in table.picks]
    first = [p.result.row.settings for p in chosen(table)]
    return picks, first, [(r.row.lambdas, r.picked) for r in table.results]


ROWS = [(frozen, strength) for frozen in (False, True) for strength in (0.1, 1.0, 10.0)]
ROW_VALUES = st.dictionaries(st.integers(1, 4), st.integers(0, 100).map(lambda of: of / 100), min_size=1)


@settings(max_examples=60, deadline=None)
@given(values=st.fixed_dictionaries(dict.fromkeys(ROWS, ROW_VALUES)), grown=st.sampled_from(ROWS),
       added=st.dictionaries(st.integers(1, 9), st.sampled_from([None, 0.0, 1.0]), min_size=1))  # fmt: skip
def test_seeds_added_to_one_row_change_no_choice(values, grown, added):
    """Whatever the results are, and whatever state the added runs are in, as long as the seeds that all candidates of
    the setting have stay the ones that they were: a seed that the row alone was waiting for is news of all of them."""
    others = [of for row, of in values.items() if row[0] == grown[0] and row != grown]
    waited_for = set.intersection(*map(set, others))
    new = {seed: val for seed, val in added.items() if seed not in values[grown]}
    new = {seed: val for seed, val in new.items() if val is None or seed not in waited_for}
    assert what_is_picked(values | {grown: values[grown] | new}) == what_is_picked(values)


def test_the_figures_of_a_run_are_those_that_a_tracker_is_told(tmp_path):
    """One direction: negative where quantization costs accuracy."""
    folder = write_run(tmp_path / "s", {}, result=accuracy(0.75, 0.8))
    told = final_values(RunFolder(folder).result())
    (table,) = judged(tmp_path / "s")
    (row,) = table.results
    report = {"val_accuracy": row.val, "test_accuracy": row.test, "test_accuracy_last": row.test_last,
              "float_test_accuracy": row.floating, "gap_to_float": row.gap_float}  # fmt: skip
    assert {key: of.mean for key, of in report.items()} == {k: v for k, v in told.items() if k != "best_epoch"}
    assert told["gap_to_float"] == row.gap_float.mean == 0.75 - 0.9


def test_each_setting_picks_its_own_lambda_over_the_seeds_that_all_have_finished(tmp_path):
    sweep = tmp_path / "s"
    for frozen, strength, val in ((False, 0.1, 0.8), (False, 1.0, 0.7), (True, 0.1, 0.5), (True, 1.0, 0.6)):
        changes = {"schedule.freeze_alpha": frozen, "reg.lambda_act": strength}
        for seed in (1, 2):
            write_run(sweep, changes | {"seed": seed}, result=accuracy(0.5, val))
    for strength, val in ((10.0, 0.99), (100.0, 0.1)):
        write_run(sweep, {"reg.lambda_act": strength, "seed": 1}, result=accuracy(0.5, val))
        write_run(sweep, {"reg.lambda_act": strength, "seed": 2}, state="stopped")
    write_run(sweep, {"reg.lambda_act": 1000.0, "seed": 1}, state="stopped")
    (table,) = judged(sweep)
    picked = {(r.row.settings["schedule.freeze_alpha"], r.row.lambdas[1]) for r in table.results if r.picked}
    assert picked == {(False, 10.0), (True, 1.0)}
    (free,) = [pick for pick in table.picks if pick.setting["schedule.freeze_alpha"] is False]
    assert (free.candidates, free.incomplete, free.seeds) == (4, 1, (1,))
    (line, *_), _ = headlines(table)
    assert "over the one seed that all have" in line and "Left aside: 1 lambda without a finished seed" in line


def test_no_lambda_is_picked_without_a_validation_split(tmp_path):
    for strength in (0.1, 1.0):
        write_run(tmp_path / "s", {"reg.lambda_act": strength}, result={"val_accuracy": None})
    (table,) = judged(tmp_path / "s")
    assert not table.picks and not any(r.picked for r in table.results)


def test_one_pretrained_checkpoint_is_told(tmp_path):
    """And runs that begin at other checkpoints are other rows, but for a checkpoint of each seed."""
    files = [str(tmp_path / name) for name in ("one.pt", "two.pt")]
    for number, file in enumerate(files):
        (tmp_path / file).write_bytes(bytes([number]))
    for seed, own in ((1, files[0]), (2, files[1])):
        write_run(tmp_path / "shared", {"seed": seed, "pretrained": files[0]})
        write_run(tmp_path / "shared", {"seed": seed})
        write_run(tmp_path / "own", {"seed": seed, "pretrained": own})
    (shared,), (own,) = judged(tmp_path / "shared"), judged(tmp_path / "own")
    told = {r.row.settings["pretrained"]: any("leaves pre-training out" in n for n in r.notes) for r in shared.results}
    assert told == {None: False, files[0]: True}
    assert [(r.test.n, r.notes) for r in own.results] == [(2, ())]


def test_other_code_or_data_is_another_cohort_and_never_compared(tmp_path):
    for seed in (1, 2):
        write_run(tmp_path / "old", LSQ | {"seed": seed})
        write_run(tmp_path / "new", {"seed": seed}, result={"core": "c04e2"})
        write_run(tmp_path / "new", {"seed": seed, "bits": 4}, result={"data": "cifar10-1"})
    tables = judged(tmp_path / "old", tmp_path / "new")
    assert [(t.cohort.core, t.cohort.data) for t in tables] == [
        ("c04e000000000001", "digits-1"), ("c04e2", "digits-1"), ("c04e000000000001", "cifar10-1"),
    ]  # fmt: skip
    assert all(r.gap is None for t in tables for r in t.results)


def test_a_run_of_two_sweeps_counts_once(tmp_path):
    write_run(tmp_path / "a", {}, result=accuracy(0.5))
    write_run(tmp_path / "b", {}, result=accuracy(0.5))
    runs, twice = read_sweeps([tmp_path / "a", tmp_path / "b"])
    assert len(runs) == 1 and "counted once" in twice[0]


def test_equal_configuration_and_seed_counts_once(tmp_path):
    write_run(tmp_path / "a", {}, result=accuracy(0.5))
    write_run(tmp_path / "a", {"threads": 2}, result=accuracy(0.5), name="again")
    (table,) = judged(tmp_path / "a")
    assert table.results[0].test.n == 1 and any("not counted twice" in note for note in table.results[0].notes)


def test_unfinished_runs_stand_in_their_rows_and_in_no_average(tmp_path):
    sweep = tmp_path / "s"
    write_sweep(sweep, [{"seed": 1}, {"seed": 2}], result=accuracy(0.5))
    write_run(sweep, {"seed": 3}, state="failed")
    write_run(sweep, {"seed": 4}, state="stopped")
    add_to_manifest(sweep, "s", "c", [{"name": "to-come", "overrides": ["seed=5"], "epochs": 5, "stages": []}])
    (table,) = judged(sweep)
    (result,) = table.results
    assert result.test.n == 2 and result.row.seeds == (1, 2, 3, 4, 5)
    assert result.notes == ("seed 3: failed (no memory left)", "seed 4: stopped", "seed 5: missing")
    (pick,) = table.picks
    assert (pick.seeds, pick.candidates) == ((1, 2), 1), "seeds to come change nothing of those that are there"
