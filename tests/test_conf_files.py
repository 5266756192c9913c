"""Every YAML of conf/: composed, checked, its target found, its arguments bound. And each default in one place."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.plugins.launcher import Launcher
from hydra.utils import get_class
from omegaconf import OmegaConf

from brsweep import targets
from brsweep.config import schema
from brsweep.config.compose import CONF_DIR, VERSION_BASE, checked, register
from brsweep.quant.convert import quantize_model
from brsweep.quant.lsq import LSQQuantizer
from brsweep.regularizers.bin import BinRegularizer
from brsweep.regularizers.br import BinRegularization
from brsweep.stages.preflight import check_signatures

GROUPS = sorted(path.name for path in CONF_DIR.iterdir() if path.is_dir() and path.name != "hydra")
FILES = sorted(path for path in CONF_DIR.rglob("*.yaml"))
OPTIONS = [path for path in FILES if path.relative_to(CONF_DIR).parts[0] in GROUPS and path.parent != CONF_DIR]
LAUNCHERS = [path for path in FILES if path.parent.relative_to(CONF_DIR).as_posix() == "hydra/launcher"]
EXPERIMENTS = [path for path in OPTIONS if path.parent.name == "experiment"]


def composed(*overrides: str):
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_DIR), **VERSION_BASE):
        return compose("config", overrides=list(overrides))


def test_no_file_goes_untested():
    rest = [path for path in FILES if path not in (*OPTIONS, *LAUNCHERS)]
    assert sorted(path.relative_to(CONF_DIR).as_posix() for path in rest) == [
        "config.yaml", "hydra/help/brsweep.yaml", "hydra/help/search.yaml", "search.yaml",
    ]  # fmt: skip
    assert len(OPTIONS) >= 39
    assert len(EXPERIMENTS) >= 2
    assert len(LAUNCHERS) >= 1


def group(path) -> str:
    return path.parent.relative_to(CONF_DIR).as_posix()


@pytest.mark.parametrize("path", OPTIONS, ids=lambda p: f"{group(p)}={p.stem}")
def test_each_option_composes_and_its_parts_bind(path, tmp_path):
    overrides = [f"{group(path)}={path.stem}"]
    if path.stem == "image_folder":
        overrides.append(f"data.root={tmp_path}")
    config = checked(composed(*overrides), overrides)
    check_signatures(config)


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda p: p.stem)
def test_a_launchers_preset_gives_every_option_of_its_launcher(path):
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_DIR), **VERSION_BASE):
        launcher = compose("config", [f"hydra/launcher={path.stem}"], return_hydra_config=True).hydra.launcher
    plain = OmegaConf.to_container(launcher, resolve=True, throw_on_missing=True)
    target = get_class(plain["_target_"])
    assert issubclass(target, Launcher)
    assert set(plain) == {field.name for field in dataclasses.fields(OmegaConf.get_type(launcher))}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_an_experiment_says_what_it_repeats(path):
    head = path.read_text().split("defaults:")[0]
    for word in ("paper ", "command ", "time ", "expect "):
        assert f"# {word}" in head, f"{path.name}: no line '# {word}...'"


def test_the_schema_and_the_composed_keys_agree():
    config = OmegaConf.to_container(composed(), resolve=True)
    assert set(config) == {field.name for field in dataclasses.fields(schema.Config)}
    for key, shape in (("quant", schema.Quant), ("reg", schema.BinRegularization), ("schedule", schema.Schedule)):
        assert set(config[key]) == {field.name for field in dataclasses.fields(shape)}


def defaults(callable_) -> dict:
    parameters = inspect.signature(callable_).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def test_library_defaults_are_the_paper_files_values():
    quant = OmegaConf.to_container(composed("quant=lsq").quant, resolve=True)
    library = defaults(quantize_model)
    for key in ("clip_value", "first_last_bits", "input_bits", "per_channel", "overrides", "count", "inputs"):
        assert library[key] == quant[key], key
    assert defaults(LSQQuantizer)["per_channel"] == quant["per_channel"]
    reg = OmegaConf.to_container(composed("regularizer=br_paper").reg, resolve=True)
    made = BinRegularization()
    for key, value in defaults(BinRegularization).items():
        if key in ("ramp", "saturated", "unit", "reduction"):
            assert getattr(made, key) == reg[key], key
        else:
            assert value == reg[key], key
    for key in ("variance",):
        assert defaults(BinRegularizer)[key] == reg[key]
    for key in ("saturated", "unit", "reduction"):
        assert defaults(BinRegularizer)[key] == reg[key]["weight"]


METHODS = [path for path in OPTIONS if group(path) == "quant/quantizer" or path.stem in ("dampening", "kure",
           "oscillation_aware")]  # fmt: skip


@pytest.mark.parametrize("path", METHODS, ids=lambda p: p.stem)
def test_a_methods_constructor_has_the_values_of_its_file(path):
    node = OmegaConf.to_container(OmegaConf.load(path))
    part = targets.locate("reg" if group(path) == "regularizer" else "quant.quantizer", node.pop("_target_"))
    library = defaults(part)
    for key, value in node.items():
        if key == "ramp":
            assert {kind: part().ramp[kind] for kind in value} == value
        else:
            assert library[key] == value, key


def test_none_has_every_field_that_br_has():
    none, br = composed("regularizer=none").reg, composed("regularizer=br").reg
    assert set(none) == set(br) and none.lambda_weight == none.lambda_act == 0
