"""The means over the layers: closed forms, and what is left out."""

from __future__ import annotations

import math

from brsweep.tracking.layer_means import layer_means, with_layer_means

LINE = {
    "stage": "br", "epoch": 5,
    "site": ["conv1", "a", "b", "relu_a", "relu_b"],
    "kind": ["weight", "weight", "weight", "act", "act"],
    "bits": [8, 2, 2, 2, 2],
    "low": [False, True, True, True, True],
    "alpha": [9.0, 0.5, 2.0, 0.25, 0.0],
    "occupancy": [[0.0] * 256, [0.0, 0.25, 0.75, 0.0], [0.25] * 4, [1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]],
    "near": [9.0, 0.25, 0.75, 0.5, None],
    "clip_low": [9.0, 0.125, 0.0, 0.0, 0.0],
    "clip_high": [9.0, 0.125, 0.25, 0.5, 0.25],
    "changed": [9.0, 0.5, 0.0, None, None],
    "oscillating": [9.0, 0.125, 0.0, None, None],
    "pull_over_decay": [None, 0.5, math.nan, None, None],
}  # fmt: skip


def test_each_mean_is_over_the_low_sites_of_its_kind_and_over_what_was_measured():
    assert layer_means(LINE) == {
        "alpha_weight": 1.0,
        "near_weight": 0.5,
        "clipped_weight": 0.25,
        "empty_bins_weight": 2,
        "changed_weight": 0.25,
        "oscillating_weight": 0.0625,
        "pull_over_decay_weight": 0.5,
        "alpha_act": 0.0,
        "near_act": 0.5,
        "clipped_act": 0.375,
        "empty_bins_act": 5,
    }


def test_a_float_epoch_and_a_net_without_low_sites_have_none():
    assert layer_means(None) == layer_means({}) == {}
    assert layer_means(LINE | {"low": [False] * 5}) == {}


def test_records_find_their_line_by_stage_and_epoch():
    records = [{"stage": "warmup", "epoch": 5, "lr": 1.0}, {"stage": "br", "epoch": 5, "lr": 0.5}]
    assert with_layer_means(records, [LINE]) == [records[0], records[1] | layer_means(LINE)]


def test_a_line_from_before_oscillation_was_recorded_has_the_rest():
    older = {key: column for key, column in LINE.items() if key != "oscillating"}
    wanted = {key: mean for key, mean in layer_means(LINE).items() if key != "oscillating_weight"}
    assert layer_means(older) == wanted
