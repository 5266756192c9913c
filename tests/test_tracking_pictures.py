"""The pictures of a stage: drawn from a folder made by hand, their figures asked for what they show."""

from __future__ import annotations

import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

from brsweep.errors import BrsweepError
from brsweep.tracking import pictures as drawing
from brsweep.tracking.pictures import pictures
from brsweep.tracking.snapshots import Histogram, snapshot

SITES = {"conv1": (8, -129.5, 128.5), "a": (2, -3.5, 2.5), "relu_a": (2, -1.5, 4.5)}


def arrays(seed):
    made, draw = {}, np.random.default_rng(seed)
    for site, (bits, low, high) in SITES.items():
        made[f"{site}/counts"] = draw.integers(0, 50, int((high - low) * max(8, 128 // 2**bits)))
        made[f"{site}/about"] = np.array([low, high, 0, 0, 0.5, bits], dtype=np.float64)
    return made


@pytest.fixture
def folder(tmp_path):
    """A run whose stage br has ended, after one epoch of warm-up and two of BR."""
    (tmp_path / "snapshots").mkdir()
    np.savez_compressed(tmp_path / "snapshots" / "br-start.npz", **arrays(1))
    confusion = np.array([[3, 1], [0, 4]])
    np.savez_compressed(tmp_path / "snapshots" / "br-end.npz", **arrays(2), confusion=confusion)
    np.savez_compressed(tmp_path / "snapshots" / "float-end.npz", confusion=confusion)
    line = {
        "site": list(SITES), "kind": ["weight", "weight", "act"], "bits": [8, 2, 2], "low": [False, True, True],
        "occupancy": [[1 / 256] * 256, [0.1, 0.2, 0.3, 0.4], [0.5, 0.25, 0.25, 0.0]],
    }  # fmt: skip
    lines = [
        {"stage": stage, "epoch": epoch, **line, "alpha": [0.5, 0.5 / epoch, 0.25 * epoch]}
        for epoch, stage in ((1, "warmup"), (2, "br"), (3, "br"))
    ]
    (tmp_path / "layers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_a_quantized_stage_gives_five_pictures_a_float_one_its_confusions_and_one_that_goes_on_none(folder):
    pyplot_before = "matplotlib.pyplot" in sys.modules
    made = pictures(folder, "br")
    assert list(made) == ["weights", "activations", "alpha", "occupancy", "confusion"]
    for png in made.values():
        image = Image.open(io.BytesIO(png))
        assert image.format == "PNG" and min(image.size) > 150 and len(image.convert("RGB").getcolors(1 << 20)) > 20
    assert list(pictures(folder, "float")) == ["confusion"]
    assert pictures(folder, "warmup") == {}
    assert ("matplotlib.pyplot" in sys.modules) == pyplot_before


def test_levels_are_drawn_at_the_codes_and_layers_are_named(folder):
    before, after = (snapshot(folder, f"br-{moment}")[0] for moment in ("start", "end"))
    figure = drawing.ridges("weight", {site: (before[site], after[site]) for site in ("conv1", "a")}, "br")
    low, high = figure.axes
    assert [line.get_xdata()[0] for line in low.lines] == [-2, -1, 0, 1]
    assert [axes.get_title() for axes in (low, high)] == ["2 bits", "8 bits"]
    assert [label.get_text() for label in low.get_yticklabels()] == ["a"]
    assert high.lines[:] == []
    assert len(low.patches) == 2  # after, and before as a line over it


def test_a_curve_reaches_as_high_as_the_counts_say():
    counts = np.zeros(96, dtype=int)
    counts[[36, 37, 60]] = 30, 10, 20  # steps of 1/16: cells 18 (40 values) and 30 (20 values) of 1/8
    [axes] = drawing._figure([4], 1)[1]
    drawing._ridge(axes, 0, Histogram(counts, -3.5, 2.5, 2))
    values, edges, _ = axes.patches[0].get_data()
    assert (edges[0], edges[-1]) == (-3.5 + 36 / 16, -3.5 + 61 / 16)
    assert values[0] == pytest.approx(-0.9) and values[-1] == pytest.approx(-0.6)


def test_neighbouring_cells_add_up_and_relus_zeros_set_no_scale():
    histogram = Histogram(np.arange(1, 193), -1.5, 4.5, 2)  # 32 cells a step
    edges, counts = histogram.coarse(cells_per_step=16)
    assert counts.tolist() == [1, *(2 * i + 1 for i in range(2, 192, 2)), 192]
    assert (edges[0], edges[-1], edges[1]) == (-1.5 - 1 / 32, 4.5 + 1 / 32, -1.5 + 1 / 32)
    assert {-1 / 32, 1 / 32, 2 - 1 / 32, 2 + 1 / 32} <= set(edges.tolist())  # levels in the middle of a cell
    assert list(histogram.codes) == [0, 1, 2, 3]
    spike = np.where(edges[:-1] == -1 / 32, 1000, counts)
    assert histogram.scale(spike, edges) == counts.max()
    signed = Histogram(np.arange(1, 193), -3.5, 2.5, 2)
    assert list(signed.codes) == [-2, -1, 0, 1]
    assert signed.scale(spike, edges) == 1000


def test_alpha_is_shown_relative_to_its_first_epoch_with_the_switch_to_br(folder):
    lines = [json.loads(line) for line in (folder / "layers.jsonl").read_text().splitlines()]
    weights, acts = drawing.alpha_paths(lines).axes
    assert [list(line.get_ydata()) for line in weights.lines[:2]] == [[1, 1, 1], [1, 1 / 2, pytest.approx(1 / 3)]]
    assert [list(line.get_ydata()) for line in acts.lines[:1]] == [[1, 2, 3]]
    assert weights.lines[-1].get_xdata()[0] == 1.5


def test_occupancy_stacks_each_layers_shares(folder):
    line = json.loads((folder / "layers.jsonl").read_text().splitlines()[-1])
    weights, acts = drawing.occupancy(line).axes
    bars = [(bar.get_x(), bar.get_width()) for bar in weights.patches]
    assert bars == [pytest.approx(pair) for pair in ((0, 0.1), (0.1, 0.2), (0.3, 0.3), (0.6, 0.4))]
    assert [text.get_text() for text in weights.get_legend().get_texts()] == ["-2", "-1", "0", "1"]
    assert [text.get_text() for text in acts.get_legend().get_texts()] == ["0", "1", "2", "3"]


def test_layers_of_different_bits_share_the_codes_they_have():
    line = {
        "stage": "br", "site": ["a", "b"], "kind": ["weight", "weight"], "bits": [2, 3],
        "occupancy": [[0.0, 0.25, 0.75, 0.0], [0.5, 0, 0, 0, 0.25, 0.25, 0, 0]],
    }  # fmt: skip
    weights = drawing.occupancy(line).axes[0]
    bars = {group.get_label(): [(bar.get_x(), bar.get_width()) for bar in group] for group in weights.containers}
    assert list(bars) == [str(code) for code in range(-4, 4)]
    assert (bars["-4"], bars["-1"], bars["0"]) == (
        [(0, 0), (0, 0.5)],
        [(0, 0.25), (0.5, 0)],
        [(0.25, 0.75), (0.5, 0.25)],
    )


def test_a_net_with_float_activations_and_an_alpha_that_was_lost_are_drawn_all_the_same(folder):
    lines = [json.loads(line) for line in (folder / "layers.jsonl").read_text().splitlines()]
    lines = [{key: value[:2] if isinstance(value, list) else value for key, value in line.items()} for line in lines]
    lines[1]["alpha"][1] = None
    weights, acts = drawing.alpha_paths(lines).axes
    assert [np.isnan(y) for y in weights.lines[1].get_ydata()] == [False, True, False]
    assert len(acts.lines) == 1  # the switch to BR
    assert drawing.occupancy(lines[-1]).axes[1].get_legend() is None


def test_confusions_are_shares_of_the_true_class():
    [axes] = drawing.confusion_matrix(np.array([[3, 1], [0, 4]])).axes
    assert {(t.get_position(), t.get_text()) for t in axes.texts} == {((0, 0), "75"), ((1, 0), "25"), ((1, 1), "100")}


def test_a_damaged_snapshot_is_named_with_its_cure(folder):
    path = folder / "snapshots" / "br-end.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BrsweepError, match=r"br-end\.npz: can't be read .* force=true"):
        pictures(folder, "br")
