"""The files for `wandb sweep`: what its agent would call composes, and asks for the same runs as the preset."""

from __future__ import annotations

import functools
import itertools
import re
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from brsweep.config.compose import CONF_DIR, VERSION_BASE, checked, register
from brsweep.tracking.workspace import RESULTS

pytest.importorskip("wandb")
FOLDER = Path(__file__).parents[1] / "scripts" / "wandb"
FILES = sorted(FOLDER.glob("*.yaml"))
PRESETS = sorted((CONF_DIR / "sweep").glob("*.yaml"))
SETTINGS = (
    "quant.weight_bits", "quant.act_bits", "quant.clip_value", "reg.lambda_weight", "reg.lambda_act",
    "reg.backprop_to_alpha", "schedule.freeze_alpha", "seed",
)  # fmt: skip


def agents_command(sweep: dict, point: dict) -> list[str]:
    """As wandb.wandb_agent puts it together, by W&B's own parts."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    filled = create_sweep_command_args({"args": {key: {"value": value} for key, value in point.items()}})
    filled["env"] = ["/usr/bin/env"]
    words = []
    for word in create_sweep_command(list(sweep["command"])):
        words += filled[word[2:-1]] if word.startswith("${") else [word]
    return words


def grid(parameters: dict) -> list[dict]:
    axes = {key: axis.get("values", [axis.get("value")]) for key, axis in parameters.items()}
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


@functools.cache
def config(*overrides: str) -> dict:
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_DIR), **VERSION_BASE):
        return checked(compose("config", overrides=list(overrides)), overrides)


def value(config: dict, key: str):
    for part in key.split("."):
        config = config[part]
    return config


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_an_agent_calls_is_what_hydra_takes(path):
    sweep = yaml.safe_load(path.read_text())
    points = grid(sweep["parameters"])
    seeds = sweep["parameters"]["seed"]["values"]
    assert seeds == [42, 43, 44] and list(sweep["parameters"])[-1] == "seed"
    for point in points[:: len(seeds)]:
        command = agents_command(sweep, point)
        assert command[:4] == ["/usr/bin/env", "python", "-m", "brsweep.train"]
        composed = config(*command[4:])
        assert composed["sweep_name"] == path.stem == sweep["name"]
        for key, wanted in point.items():
            if key == "quant":
                assert f"w{composed['quant']['weight_bits']}a{composed['quant']['act_bits']}" == wanted
            elif key == "regularizer":
                assert bool(composed["reg"]["lambda_act"]) == (wanted == "br")
            else:
                assert value(composed, key) == (None if wanted == "null" else wanted)
    assert sweep["metric"]["name"] in RESULTS


def test_there_are_five_files():
    names = {path.stem for path in FILES}
    assert names == {"lambda_weights", "lambda_acts", "bits", "alpha_control", "clip"}


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_each_preset_has_a_file_for_the_same_runs_or_a_reason(preset):
    path = FOLDER / preset.name
    if not path.exists():
        assert f"`{preset.stem}` has no file" in (FOLDER / "README.md").read_text()
        return
    plan = yaml.safe_load(preset.read_text())["hydra"]["sweeper"]
    params = {k: {"values": v if isinstance(v, list) else [v]} for k, v in plan["params"].items()}
    params["seed"]["values"] = params["seed"]["values"][:1]
    wanted = [{**point, **row} for point in grid(params) for row in plan.get("rows") or [{}]]
    sweep = yaml.safe_load(path.read_text())
    assert plan["params"]["seed"] == sweep["parameters"]["seed"]["values"]
    given = [config(*agents_command(sweep, point)[4:]) for point in grid(sweep["parameters"] | {"seed": {"value": 42}})]
    assert {tuple(value(job, key) for key in SETTINGS) for job in given} == {settings(point) for point in wanted}


def settings(point: dict) -> tuple:
    """What the default run has at the point's settings, by name."""
    bits = re.fullmatch(r"w(\d)a(\d)", point.get("quant", "w2a2")).groups()
    named = dict(zip(("quant.weight_bits", "quant.act_bits"), map(int, bits), strict=True)) | point
    return tuple(named.get(key, value(config("seed=42"), key)) for key in SETTINGS)
