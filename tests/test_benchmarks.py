"""The benchmark measures what it says: the textbook forms are the same mathematics, and its ratios are exact."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch

from benchmarks import epochs, neighbour, rivals, show, step
from benchmarks.precision import penalty_error
from benchmarks.step import variants
from benchmarks.textbook import TextbookLSQ, loop_penalty
from benchmarks.timing import measure, ratio
from brsweep.quant import LSQQuantizer
from brsweep.regularizers import BinRegularizer
from brsweep.stages.device import ALL_THREADS


@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize("signed", [True, False])
def test_textbook_lsq_has_our_values_and_gradients(bits, signed):
    values = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(bits))
    upstream = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(9))
    seen = []
    for kind in (LSQQuantizer, TextbookLSQ):
        quantizer, leaf = kind(bits, signed), values.clone().requires_grad_()
        quantizer.init_from(values)
        quantized = quantizer(leaf)
        quantized.backward(upstream)
        seen.append((quantized.detach(), leaf.grad, quantizer.alpha.grad))
    for ours, theirs in zip(*seen, strict=True):
        # the detach trick and the multiplications round in float32, about 1e-7 each
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 4])
def test_the_loop_has_our_penalty(bits):
    values = torch.randn(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(bits))
    alpha = torch.tensor(3 / 2**bits, dtype=torch.float64)
    ours = BinRegularizer(bits, signed=True).compute_bin_loss(values, alpha)
    loop = loop_penalty(values, alpha, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    torch.testing.assert_close(ours, loop, rtol=1e-12, atol=0)


def test_every_form_of_a_step_starts_from_the_same_loss():
    """Same weights, same batch: one step each, and the task loss before it agrees to float32's rounding."""
    found = variants("resnet20", [2], 2, torch.device("cpu"))
    found = {name: variant for name, variant in found.items() if name.split()[0] not in rivals.RIVALS}
    assert len(found) == 10
    losses = {}
    for name, variant in found.items():
        variant.step()
        totals = variant.totals.read()
        losses[name] = (totals.task_loss, totals.penalty_weight, totals.penalty_act)
    quantized = [loss[0] for name, loss in losses.items() if name != "float"]
    assert quantized == pytest.approx([quantized[0]] * 9, rel=1e-3)  # codes at a border may fall to the other side
    for column, suffix in ((1, "+BR(W)"), (2, "+BR(W+A)")):
        penalties = [loss[column] for name, loss in losses.items() if suffix in name]
        assert len(penalties) == 3 and penalties[0] > 0
        assert penalties == pytest.approx([penalties[0]] * 3, rel=1e-3)


def test_ratio_and_its_interval():
    assert ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]) == (2.0, 2.0, 2.0)
    middle, low, high = ratio([1.0, 2.0, 9.0, 2.0, 3.0], [1.0] * 5)
    assert low <= middle == 2.0 <= high and low < high


def test_each_step_runs_once_a_round_and_once_before():
    calls = {"a": 0, "b": 0}

    def take(name):
        calls[name] += 1

    seconds = measure({name: lambda name=name: take(name) for name in calls}, rounds=3)
    assert calls == {"a": 4, "b": 4} and [len(times) for times in seconds.values()] == [3, 3]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of their own imports
@pytest.mark.parametrize("name", rivals.RIVALS)
@pytest.mark.parametrize("signed", [True, False])
def test_rivals_have_our_values_and_another_mask(name, signed):
    """They round before they clamp: half a step beyond the range still counts as inside."""
    if name not in rivals.installed():
        pytest.skip(f"{name} is not installed")
    values = torch.tensor([-3.0, -2.4, -1.2, -0.3, 0.4, 1.2, 1.4, 3.2, 3.4, 5.0])
    seen = []
    for kind in (LSQQuantizer, rivals.RIVALS[name]):
        quantizer, leaf = kind(2, signed), values.clone().requires_grad_()
        quantizer.alpha.data.fill_(1.0)
        quantizer.initialised = True
        quantized = quantizer(leaf)
        quantized.sum().backward()
        seen.append((quantized.detach(), leaf.grad))
    ours, theirs = seen
    assert torch.equal(ours[0], theirs[0])
    low, high = quantizer.grid.qn, quantizer.grid.qp
    assert torch.equal(ours[1].bool(), (values > low) & (values < high))
    assert torch.equal(theirs[1].bool(), (values >= low - 0.5) & (values <= high + 0.5))


@pytest.mark.parametrize("bits", [2, 8])
def test_the_penalty_is_exact_to_the_bound_that_the_design_sets(bits):
    assert 0 < penalty_error(bits, torch.device("cpu")) < 1e-7


def test_a_whole_training_from_a_few_epochs():
    """Medians of each stage, scaled from 10,000 images to 50,000; what is beside the epochs counts once."""
    times = {"float": [6.0, 60.0, 6.0], "br": [12.0, 12.0, 1.0]}
    records = [{"stage": stage, "time_s": time} for stage, all_times in times.items() for time in all_times]
    told = epochs.row("a net", records, seconds=97.0 + 180.0, images=10_000)
    # 0.5 and 1 minutes an epoch: 150 minutes for a hundred of each, and 3 beside
    assert told == "| a net | 0.50 min | 1.00 min | 180 s | 2.5 h |"
    assert told.count("|") == epochs.HEAD.splitlines()[0].count("|")


def test_the_step_is_timed_under_the_settings_of_the_default_run(monkeypatch):
    asked = []
    monkeypatch.setattr(step, "report", lambda *given: asked.append(settings()) or RESULT)
    monkeypatch.setattr("sys.argv", ["step", "--bits", "2"])
    torch.use_deterministic_algorithms(False)
    step.main()
    assert asked == [(True, False, ALL_THREADS)]


def settings() -> tuple:
    strict, fills = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    return strict, fills, torch.get_num_threads()


def test_a_neighbours_price_is_busy_over_quiet(monkeypatch):
    """Three rounds: the choice by the work holds its limit, two threads do not; one busy process at a time."""
    beside = []

    @contextmanager
    def watched():
        beside.append(1)
        yield
        beside.pop()

    monkeypatch.setattr(neighbour, "neighbour", watched)
    monkeypatch.setattr(
        neighbour, "train", lambda threads, _: {"float": (4.0 if threads else 1.2) if beside else 1.0, "br": 2.0}
    )
    lines = neighbour.rows(neighbour.rounds(3, (0, 2), ()))
    assert lines == [
        "| by the work | float | 1.00 s | 1.20 s | 1.20 (1.20 to 1.20) holds |",
        "| by the work | br | 2.00 s | 2.00 s | 1.00 (1.00 to 1.00) holds |",
        "| 2 | float | 1.00 s | 4.00 s | 4.00 (4.00 to 4.00) |",
        "| 2 | br | 2.00 s | 2.00 s | 1.00 (1.00 to 1.00) |",
    ]


@pytest.mark.slow
def test_a_run_beside_a_busy_process():
    with neighbour.neighbour():
        seconds = neighbour.train(1, ["model=tiny", "data=synthetic"])
    assert list(seconds) == ["float", "warmup", "br"] and min(seconds.values()) > 0


RESULT = {
    "net": "resnet20", "bits": [2, 8], "batch_size": 4, "rounds": 3, "threads": 2, "kernels": "numba",
    "device": "a processor", "versions": "torch 2", "date": "2026-01-31", "penalty_error": 2.5e-8,
    "rows": {
        f"{kind}{name} {bits} bits": {
            "median_s": 0.05, "images_per_s": 80.0, "over_float": [1.5, 1.4, 1.6], "over_lsq": [1.2, 1.1, 1.3],
            "over_fewest_bits": [bits / 2, 1.0, 5.0], "saved_bytes": 100 + (name != "LSQ"),
        }
        for kind in ("", "reference ") for name in ("LSQ", "LSQ+BR(W)", "LSQ+BR(W+A)") for bits in (2, 8)
    },
}  # fmt: skip


def test_the_targets_and_what_holds():
    lines = show.targets(RESULT).splitlines()
    assert len(lines) == 2 + 8
    assert lines[2] == "| LSQ W2A2 / float | 1.15 | 1.07 | 1.5 (1.4 to 1.6) | falls short |"
    assert lines[4] == "| LSQ+BR(W+A) at 8 bits / at 2 bits | 1.35 | 1.05 | 4 (1 to 5) | undecided |"
    assert [line.split("|")[-3:-1] for line in (lines[6], lines[7], lines[9])] == [
        [" 0.01 ", " holds "], [" 1.5 (1.4 to 1.6) ", " holds "], [" 2.5e-08 ", " holds "],
    ]  # fmt: skip


def test_own_steps_alone_have_no_figures_of_the_reference():
    rows = {name: row for name, row in RESULT["rows"].items() if not name.startswith("reference")}
    own = show.targets(RESULT | {"rows": rows})
    assert own.splitlines() == [line for line in show.targets(RESULT).splitlines() if "reference" not in line]


def test_a_page_is_filled_between_its_marks_and_nowhere_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- benchmarks.step resnet20 -->\nold\n<!-- end -->\nafter\n<!-- end -->\n")
    for _ in range(2):
        show.fill(page, "benchmarks.step resnet20", "new\ntable")
        wanted = "before\n<!-- benchmarks.step resnet20 -->\n\nnew\ntable\n\n<!-- end -->\nafter\n<!-- end -->\n"
        assert page.read_text() == wanted
    with pytest.raises(SystemExit, match=r"has no marks <!-- benchmarks\.step resnet18 -->"):
        show.fill(page, "benchmarks.step resnet18", "")


def test_the_figure(tmp_path):
    show.figure(RESULT, tmp_path / "step.png")
    assert (tmp_path / "step.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_command_writes_its_table_and_its_figures(tmp_path):
    typed = ["--bits", "2", "--rounds", "2", "--batch-size", "4", "--json", str(tmp_path / "step.json")]
    done = subprocess.run([sys.executable, "-m", "benchmarks.step", *typed], capture_output=True, text=True, check=True)
    rows = json.loads((tmp_path / "step.json").read_text())["rows"]
    assert len(rows) == 11 + len(rivals.installed()) and all(f"| {name} |" in done.stdout for name in rows)
    assert rows["textbook LSQ+BR(W+A) 2 bits"]["saved_bytes"] > rows["LSQ+BR(W+A) 2 bits"]["saved_bytes"]


def test_inference_times_the_same_network_in_every_form():
    pytest.importorskip("onnxruntime")
    from benchmarks import inference
    from brsweep.models.resnet import resnet20

    networks = inference.rows(resnet20, 2)
    assert [len(networks[name].folded) for name in ("folded", "float norms", "narrow")] == [9, 0, 0]
    sizes = [len(networks[name].model.SerializeToString()) for name in ("float32", "folded", "narrow")]
    assert sizes[0] > 3 * sizes[1] > 6 * sizes[2]
    times = inference.timed(networks, 1, 1, rounds=2)
    assert times["float32"]["ratio"] == (1.0, 1.0, 1.0) and all(time["ms"] > 0 for time in times.values())


@pytest.mark.slow
def test_every_method_takes_its_step(capsys):
    """From its words to a row, LSQ first, which is its own measure."""
    from benchmarks import methods

    rows = [line for line in methods.table(rounds=1, batch=2) if line.startswith("| ") and "`" in line]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == list(methods.METHODS)
    assert rows[0].endswith("| 1.00 (1.00 to 1.00) |") and all(" ms" not in row for row in rows)
