"""Records, arrays and snapshots with damaged bytes or foreign content: one line with its name, or what is right."""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
from pathlib import Path

import epoch_records
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsweep.errors import BrsweepError
from brsweep.tracking import jsonl, snapshots
from brsweep.tracking.layer_means import layer_means, with_layer_means
from brsweep.tracking.pictures import occupancy
from brsweep.tracking.snapshots import Histogram, layers, snapshot

EPOCHS = [{"stage": stage, "epoch": n, "lr": 0.1, "val_accuracy": None} for stage in ("float", "br") for n in (1, 2)]
LAYERS = {**epoch_records.LAYERS, "pull_over_decay": [None, 0.5, None, None, None]}


def packed(**arrays):
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


ABOUT = np.array([-3.5, 2.5, 0, 0, 0.5, 2])
ARRAYS = {"a/counts": np.arange(48), "a/about": ABOUT, "confusion": np.eye(3, dtype=int)}


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def read_all(folder):
    return jsonl.read_epochs(folder / "metrics.jsonl")


READERS = {
    "metrics.jsonl": (read_all, "".join(json.dumps(line) + "\n" for line in EPOCHS).encode()),
    "layers.jsonl": (layers, (json.dumps(LAYERS) + "\n").encode()),
    "snapshots/br-end.npz": (lambda folder: snapshot(folder, "br-end"), packed(**ARRAYS)),
}


def refused(reader, folder, path):
    with pytest.raises(BrsweepError) as caught:
        reader(folder)
    line = str(caught.value)
    assert line.startswith(str(path)) and "\n" not in line and len(line) < 600
    return line


def use(found):
    """What the readers' callers do with it, which must not fail on anything that the readers let through."""
    if isinstance(found, tuple):
        for histogram in found[0].values():
            counts, edges = histogram.coarse(16)[::-1]
            histogram.scale(counts, edges)
        return
    for line in found:
        layer_means(line if "site" in line else None)
    with_layer_means([line for line in found if "site" not in line], [])


@pytest.mark.parametrize("name", READERS)
def test_what_a_run_leaves_is_read(tmp_path, name):
    reader, content = READERS[name]
    write(tmp_path, name, content)
    found = reader(tmp_path)
    assert found == {"metrics.jsonl": EPOCHS, "layers.jsonl": [LAYERS]}.get(name, found)
    if isinstance(found, tuple):
        assert isinstance(found[0]["a"], Histogram) and found[1].tolist() == np.eye(3).tolist()


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_bytes_lead_to_one_line_or_to_what_can_be_used(name, data):
    reader, content = READERS[name]
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert", "double"]))
        if kind == "flip":
            damaged[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "cut":
            del damaged[at + 1 :]
        elif kind == "insert":
            damaged[at:at] = data.draw(
                st.binary(min_size=1, max_size=8) | st.sampled_from([b"[" * 50, b"1e999", b"9" * 400])
            )
        else:
            damaged[at:at] = damaged[at : at + 20]
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), name, bytes(damaged))
        try:
            found = reader(Path(folder))
        except BrsweepError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
        else:
            use(found)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("place", ["folder", "pipe", "loop", "unreadable", "huge"])
def test_what_is_no_readable_file_is_named(tmp_path, name, place, monkeypatch):
    reader, _ = READERS[name]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if place == "folder":
        path.mkdir()
    elif place == "pipe":
        os.mkfifo(path)
    elif place == "loop":
        path.symlink_to(path.name)
    elif place == "unreadable":
        path.write_bytes(b"")
        own = os.open
        monkeypatch.setattr(
            os,
            "open",
            lambda p, *a: own(p, *a) if p != path else (_ for _ in ()).throw(PermissionError(13, "Permission denied")),
        )
    else:
        with open(path, "wb") as file:
            file.truncate(2**40)  # sparse: no room is taken
    refused(reader, tmp_path, path)


HUGE = [
    "1e999",
    "-1e400",
    "1e308",
    "9" * 400,
    "9" * 9999,
    "NaN",
    "Infinity",
    "[" * 100_000,
    '{"a":' * 100_000,
    "[[[[1]]]]",
    '{"b":1}',
]


@pytest.mark.parametrize("value", HUGE, ids=lambda value: value[:8])
def test_a_line_of_more_than_a_record_holds_is_refused(tmp_path, value):
    path = write(tmp_path, "metrics.jsonl", b'{"stage":"br","epoch":1,"lr":%s}\n' % value.encode())
    with pytest.raises(BrsweepError, match="line 1: not a JSON object of numbers, texts and lists"):
        jsonl.read(path)


WRONG = [None, True, 0, -1, 1.5, "1", [1], [], 10**30]


@pytest.mark.parametrize("value", WRONG[:-1], ids=repr)
def test_an_epochs_record_has_its_stage_and_its_epoch(tmp_path, value):
    for key in ("stage", "epoch"):
        if (key, value) == ("stage", "1"):
            continue
        path = write(tmp_path, "metrics.jsonl", (json.dumps({**EPOCHS[0], key: value}) + "\n").encode())
        assert "line 1: not the record of an epoch" in refused(read_all, tmp_path, path)
    path = write(tmp_path, "metrics.jsonl", b'{"lr":1}\n')
    refused(read_all, tmp_path, path)


@pytest.mark.parametrize("value", ["0.5", [0.5], []], ids=repr)
def test_an_epochs_other_values_are_numbers_truth_values_or_null(tmp_path, value):
    path = write(tmp_path, "metrics.jsonl", (json.dumps({**EPOCHS[0], "lr": value}) + "\n").encode())
    assert "line 1: not the record of an epoch" in refused(read_all, tmp_path, path)
    assert jsonl.read_epochs(path, skip_damaged=True) == []


def without_step_size(line):
    """The same, of a net whose quantizers have no step size."""
    sites = len(line["site"])
    known = {"stage", "epoch", "site", "kind", "bits", "low"}
    return {key: column if key in known else [None] * sites for key, column in line.items()}


def test_layers_without_a_step_size_are_read_and_have_no_means_of_levels(tmp_path):
    line = without_step_size(LAYERS)
    write(tmp_path, "layers.jsonl", (json.dumps(line) + "\n").encode())
    assert layers(tmp_path) == [line] and layer_means(line) == {}
    mixed = {**LAYERS, "occupancy": [*LAYERS["occupancy"][:-1], None]}
    write(tmp_path, "layers.jsonl", (json.dumps(mixed) + "\n").encode())
    assert layers(tmp_path) == [mixed]
    assert layer_means(mixed)["empty_bins_act"] == 3 == layer_means(LAYERS)["empty_bins_act"] - 2
    assert [text.get_text() for text in occupancy(mixed).axes[1].get_yticklabels()] == ["relu_a"]


@pytest.mark.parametrize("shares", [[], [0.5] * 3, [0.5] * 5, ["0.5"] * 4, [None] * 4], ids=str)
def test_occupancy_has_a_number_for_each_bin(tmp_path, shares):
    line = {**LAYERS, "occupancy": [*LAYERS["occupancy"][:-1], shares]}
    path = write(tmp_path, "layers.jsonl", (json.dumps(line) + "\n").encode())
    assert "line 1: not an epoch's arrays per layer" in refused(layers, tmp_path, path)


@pytest.mark.parametrize("key", list(LAYERS))
def test_the_arrays_per_layer_have_their_types_and_one_length(tmp_path, key):
    """Each column, and the stage and epoch, with values of each other type, and with one more or one less."""
    bad = [None, True, "x", 1, [], [None], LAYERS[key] * 2 if isinstance(LAYERS[key], list) else {}]
    bad += [[{}] * 5, [[None]] * 5, [["x"]] * 5, ["x"] * 5 if key not in ("site", "kind") else [1] * 5]
    for value in bad:
        if (key, value) in (("stage", "x"), ("epoch", 1)):
            continue
        path = write(tmp_path, "layers.jsonl", (json.dumps({**LAYERS, key: value}) + "\n").encode())
        refused(layers, tmp_path, path)


@pytest.mark.parametrize("key", list(LAYERS))
def test_arrays_that_lack_a_column_are_refused_or_give_the_other_means(tmp_path, key):
    rest = {name: column for name, column in LAYERS.items() if name != key}
    path = write(tmp_path, "layers.jsonl", (json.dumps(rest) + "\n").encode())
    if key in snapshots.COLUMNS | {"stage", "epoch"}:
        refused(layers, tmp_path, path)
    else:
        means = layer_means(layers(tmp_path)[0])
        name = key.replace("clip_low", "clipped").replace("clip_high", "clipped")
        assert means == {k: v for k, v in layer_means(LAYERS).items() if not k.startswith(name)}


NAN = float("nan")


@pytest.mark.parametrize(
    "change",
    [
        {"a/about": ABOUT[:5]}, {"a/about": ABOUT * NAN}, {"a/about": np.array([2.5, -3.5, 0, 0, 0.5, 2])},
        {"a/about": np.array([-1e300, 1e300, 0, 0, 0.5, 2])}, {"a/about": np.array([-3.5, 2.5, 0, 0, 0.5, 99])},
        {"a/about": np.array(["x"] * 6)}, {"a/about": np.array(1.0)}, {"a/about": np.array([0, 0.1, 0, 0, 0.5, 2])},
        {"a/counts": np.zeros((2, 24))}, {"a/counts": np.zeros(0)}, {"a/counts": np.zeros(1)},
        {"a/counts": -np.ones(48)}, {"a/counts": np.full(48, NAN)}, {"a/counts": np.array(["x"] * 48)},
        {"a/counts": np.array([{}] * 48)}, {"b/about": ABOUT}, {"confusion": np.zeros((2, 3))},
        {"confusion": np.zeros(4)}, {"confusion": -np.eye(2)}, {"confusion": np.array([["x"]])},
        {"confusion": np.zeros((0, 0))},
    ],
    ids=str,
)  # fmt: skip
def test_a_snapshot_of_another_shape_is_refused(tmp_path, change):
    path = write(tmp_path, "snapshots/br-end.npz", packed(**{**ARRAYS, **change}))
    refused(lambda folder: snapshot(folder, "br-end"), tmp_path, path)


def test_a_snapshot_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(tmp_path):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a/about.npy", "w") as entry:
        for _ in range(snapshots.AT_MOST // 2**20 + 1):
            entry.write(bytes(2**20))
    path = write(tmp_path, "snapshots/br-end.npz", content.getvalue())
    assert "unpacks to more than 256 MiB" in refused(lambda folder: snapshot(folder, "br-end"), tmp_path, path)


def test_a_snapshot_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "snapshots").write_text("")
    with pytest.raises(BrsweepError, match=r"br-end.npz: can't be written \(.*\); make room") as raised:
        snapshots.write(tmp_path, "br-end", {"confusion": [[1]]})
    assert "\n" not in str(raised.value)
