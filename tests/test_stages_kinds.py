"""Kinds of stages beside float, warm-up and BR: the rungs of a ladder, and a teacher's soft labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import small_runs
import torch
from stage_configs import CONFIG, changed
from torch import nn

from brsweep.runs.words import readable_name, schedule, settings_lines
from brsweep.stages.plan import WAYS_TO_TRAIN, canonical, identity, outline, plan
from brsweep.stages.setup import Setup
from brsweep.stages.source import data_source
from brsweep.training.checkpoint import load
from brsweep.training.step import Learner, Totals, distilled_loss, soft_labels, train_step

DATA = "made-up-1"
LADDER = {"schedule__ladder": [3, 4, 8], "schedule__rung_epochs": 5}
CLIMB = ("schedule.ladder=[4,3]", "schedule.rung_epochs=1")
STEP = "brsweep.training.loop:train_step"


def signatures(config) -> dict[str, str]:
    return {stage.name: stage.signature for stage in plan(config, DATA)}


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_a_ladder_is_climbed_from_many_bits_to_few_before_the_warm_up():
    stages = outline(changed(**LADDER))
    assert [(s.name, s.first, s.last, s.lr_epochs, s.bits) for s in stages] == [
        ("float", 0, 4, 4, None),
        ("rung8", 0, 5, 5, (8, 8)),
        ("rung4", 0, 5, 5, (4, 4)),
        ("rung3", 0, 5, 5, (3, 3)),
        ("warmup", 0, 2, 6, (2, 2)),
        ("br", 2, 6, 6, (2, 2)),
    ]
    assert [s.quantized for s in stages] == [False, *[True] * 5]
    mixed = outline(changed(**LADDER, quant__weight_bits=4, quant__act_bits=32))
    assert [s.bits for s in mixed[1:]] == [(8, 32), (4, 32), (4, 32)], "no rung lies above 4 bits but that of 8"


def test_a_grid_of_bits_and_lambdas_climbs_one_ladder():
    one = signatures(changed(**LADDER))
    for fields in ({"quant__weight_bits": 3, "quant__act_bits": 3}, {"reg__lambda_act": 9.0}, {"reg__lambda_act": 0}):
        other = signatures(changed(**LADDER, **fields))
        assert {name for name in one if name.startswith("rung") and name in other and one[name] != other[name]} == set()
        assert one["float"] == other["float"]
    assert signatures(changed(**LADDER, quant__weight_bits=3, quant__act_bits=3))["warmup"] != one["warmup"]
    longer = signatures(changed(schedule__ladder=[3, 4, 8], schedule__rung_epochs=6))
    assert {name for name in one if one[name] != longer[name]} == {"rung8", "rung4", "rung3", "warmup", "br"}


def test_rungs_that_do_not_lie_above_the_runs_bits_are_no_part_of_it():
    four = {"quant__weight_bits": 4, "quant__act_bits": 4}
    plain, with_rungs = changed(**four), changed(**four, schedule__ladder=[4, 3], schedule__rung_epochs=7)
    assert identity(plain, DATA) == identity(with_rungs, DATA)
    assert signatures(plain) == signatures(with_rungs)
    assert canonical(with_rungs)["schedule"]["rung_epochs"] == 0


def test_the_temperature_counts_only_where_there_is_a_teacher():
    assert identity(changed(distill__temperature=2.0), DATA) == identity(CONFIG, DATA)
    taught = changed(distill__weight=0.5, distill__temperature=2.0)
    other = changed(distill__weight=0.5, distill__temperature=3.0)
    one, two = signatures(taught), signatures(other)
    assert {name for name in one if one[name] != two[name]} == {"warmup", "br"}
    assert [stage.distilled for stage in outline(taught)] == [False, True, True]


def test_names_say_what_comes_to_the_schedule():
    assert schedule(CONFIG) == "s2"
    both = changed(**LADDER, distill__weight=0.5)
    assert schedule(both) == "s2-ladder-distill"
    assert "-s2-ladder-distill-" in readable_name(both)
    every = changed(**{f"{group}__{way.switch}": 0.1 for group, way in WAYS_TO_TRAIN.items()})
    assert schedule(every) == "s2-distill-freezing-transitions"


def test_options_of_a_way_to_train_that_is_off_are_told(tmp_path):
    config = small_runs.config(tmp_path=tmp_path)
    assert {group: {way.switch: 0.0, **way.options} for group, way in WAYS_TO_TRAIN.items()} == {
        group: config[group] for group in WAYS_TO_TRAIN
    }
    setup = Setup.of(config, data_source(config))
    assert not any("has no effect" in line for line in settings_lines(config, setup, outline(config)))
    for group, way in WAYS_TO_TRAIN.items():
        for key in way.options:
            options = {**config[group], key: 0.5}
            line = f"{group}.{key}=0.5 has no effect: {group}.{way.switch} is 0"
            assert line in settings_lines(config | {group: options}, setup, outline(config))
            on = config | {group: options | {way.switch: 0.1}}
            assert line not in settings_lines(on, setup, outline(config))


def of_command(*overrides: str) -> dict[str, str]:
    """The signatures of a run's stages."""
    return signatures(small_runs.config(*overrides, tmp_path=Path("runs")))


def test_methods_share_what_they_have_in_common_with_lsq():
    lsq = of_command("regularizer=none")
    for method in ("br", "br_paper", "dampening", "kure", "oscillation_aware"):
        other = of_command(f"regularizer={method}")
        assert (other["float"], other["warmup"]) == (lsq["float"], lsq["warmup"]) and other["br"] != lsq["br"], method
    for quantizer in ("lsq_plus", "ewgs", "pact"):
        other = of_command("regularizer=none", f"quant/quantizer={quantizer}")
        assert other["float"] == lsq["float"] and other["warmup"] != lsq["warmup"], quantizer


# --- a ladder ---------------------------------------------------------------------------------------------------------


def test_each_stage_begins_with_the_latent_weights_of_the_one_before(tmp_path):
    """A learning rate of 0 moves nothing but batch norm: so every rung ends with the float stage's weights, its step
    sizes those of its own bits."""
    still = ("qat_optimizer.lr=0", "qat_optimizer.alpha_lr=0")
    result = small_runs.train(*CLIMB, *still, "regularizer=none", tmp_path=tmp_path)
    records = small_runs.lines(small_runs.folder(result) / "metrics.jsonl")
    assert [r["stage"] for r in records] == ["float"] * 2 + ["rung4", "rung3"] + ["warmup"] * 2 + ["br"] * 2
    assert [r["epoch"] for r in records] == [1, 2, 1, 1, 1, 2, 3, 4]
    states = {}
    for entry in (tmp_path / "store").glob("*/entry.json"):
        states[json.loads(entry.read_text())["stage"]] = load(entry.parent / "state.pt")["model"]
    weights = [name for name in states["float"] if name.endswith("weight") and states["float"][name].dim() > 1]
    for stage in ("rung4", "rung3", "warmup"):
        assert all(torch.equal(states[stage][name], states["float"][name]) for name in weights), stage
    # LSQ's first step size is 2 mean|w| / sqrt(Qp), Qp = 7, 3, 1; the ends stay at 8 bits
    inner = [name for name in weights if f"{name}_quantizer.alpha" in states["warmup"]][1:-1]
    assert inner
    for name in inner:
        alphas = [states[stage][f"{name}_quantizer.alpha"].item() for stage in ("rung4", "rung3", "warmup")]
        mean = states["float"][name].abs().double().mean().item()
        assert alphas == pytest.approx([2 * mean / qp**0.5 for qp in (7, 3, 1)], rel=1e-6)


def test_a_second_run_takes_the_rungs_from_the_store(tmp_path, capsys):
    small_runs.train(*CLIMB, tmp_path=tmp_path)
    small_runs.train(*CLIMB, "quant=w3a3", tmp_path=tmp_path)
    assert "reused from the store: float (2 epochs), rung4 (1 epochs)" in capsys.readouterr().out


@pytest.mark.parametrize("steps", [2 * small_runs.STEPS + 3, 3 * small_runs.STEPS + 3, 7 * small_runs.STEPS + 3])
def test_a_ladder_with_a_teacher_goes_on_bit_for_bit(tmp_path, steps):
    options = (*CLIMB, "distill.weight=0.5")
    whole = small_runs.outcome(small_runs.folder(small_runs.train(*options, tmp_path=tmp_path / "whole")))
    small_runs.kill_at(STEP, steps, False, *options, tmp_path=tmp_path / "killed")
    again = small_runs.train(*options, tmp_path=tmp_path / "killed")
    assert small_runs.outcome(small_runs.folder(again)) == whole


# --- a teacher --------------------------------------------------------------------------------------------------------


def learner(**options) -> Learner:
    torch.manual_seed(0)
    model, teacher = nn.Linear(4, 3), nn.Linear(4, 3).eval().requires_grad_(False)
    return Learner(model, torch.optim.SGD(model.parameters(), lr=0.1), teacher=teacher, **options)


@pytest.mark.parametrize(("weight", "temperature"), [(0.3, 1.0), (1.0, 4.0), (0.5, 0.5)])
def test_the_loss_is_the_mean_of_cross_entropy_and_divergence(weight, temperature):
    taught = learner(distill_weight=weight, temperature=temperature)
    images, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    logits, theirs = taught.model(images).double(), taught.teacher(images).double()
    own, soft = (logits / temperature).softmax(1), (theirs / temperature).softmax(1)
    divergence = (soft * (soft.log() - own.log())).sum(1).mean() * temperature**2
    entropy = -logits.softmax(1)[range(5), labels].log().mean()
    loss = distilled_loss(taught, logits, labels, soft_labels(taught, images))
    # the teacher's log-probabilities are float32, and what is left of their difference counts temperature^2 times
    expected = (1 - weight) * entropy + weight * divergence
    assert loss.item() == pytest.approx(expected.item(), abs=1e-7 * temperature**2)


def test_the_teacher_learns_nothing_and_a_student_that_agrees_has_no_divergence():
    taught = learner(distill_weight=1.0)
    before = [p.clone() for p in taught.teacher.parameters()]
    images, labels = torch.randn(8, 4), torch.arange(8) % 3
    train_step(taught, images, labels, {}, Totals(torch.device("cpu")), 0)
    assert all(torch.equal(p, b) for p, b in zip(taught.teacher.parameters(), before, strict=True))
    taught.model.load_state_dict(taught.teacher.state_dict())
    loss = distilled_loss(taught, taught.model(images), labels, soft_labels(taught, images))
    assert abs(loss.item()) < 1e-6


def test_every_quantized_stage_is_taught_by_the_float_stages_network(tmp_path):
    result = small_runs.train("distill.weight=0.9", "distill.temperature=2", tmp_path=tmp_path)
    entries = {json.loads(p.read_text())["stage"]: p.parent for p in (tmp_path / "store").glob("*/entry.json")}
    trained, taught = load(entries["float"] / "state.pt")["model"], load(entries["warmup"] / "state.pt")["teacher"]
    assert trained.keys() == taught.keys() and all(torch.equal(trained[key], taught[key]) for key in trained)
    plain = small_runs.train(tmp_path=tmp_path)
    one, other = (small_runs.outcome(small_runs.folder(r))["last.pt"] for r in (result, plain))
    assert one != other
