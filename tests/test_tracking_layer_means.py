"""The means over the layers: closed forms, and what is left out."""

from __future__ import annotations

from epoch_records import LAYERS

from brsweep.tracking.layer_means import layer_means, with_layer_means


def test_each_mean_is_over_the_low_sites_of_its_kind_and_over_what_was_measured():
    assert layer_means(LAYERS) == {
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
    assert layer_means(LAYERS | {"low": [False] * 5}) == {}


def test_records_find_their_line_by_stage_and_epoch():
    records = [{"stage": "warmup", "epoch": 5, "lr": 1.0}, {"stage": "br", "epoch": 5, "lr": 0.5}]
    assert with_layer_means(records, [LAYERS]) == [records[0], records[1] | layer_means(LAYERS)]


def test_a_line_from_before_oscillation_was_recorded_has_the_rest():
    older = {key: column for key, column in LAYERS.items() if key != "oscillating"}
    wanted = {key: mean for key, mean in layer_means(LAYERS).items() if key != "oscillating_weight"}
    assert layer_means(older) == wanted
