"""build_model, the model YAMLs, and the repaired torchvision import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from brsweep import torchvision_import
from brsweep.errors import BrsweepError
from brsweep.models.build import build_model
from brsweep.models.tiny import tiny
from brsweep.models.vgg import vgg_small

ROOT = Path(__file__).parents[1]
MODELS = sorted((ROOT / "conf" / "model").glob("*.yaml"))


def test_weights_are_a_function_of_the_seed_and_the_generator_is_untouched():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = (build_model(tiny, 4, 3, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.conv1.weight, other.conv1.weight)


def test_channels_and_size_go_where_the_signature_names_them():
    assert build_model(tiny, 4, 1, 0, image_size=(8, 8), width=4).conv1.weight.shape == (4, 1, 3, 3)
    assert build_model(vgg_small, 4, 1, 0, image_size=(8, 16)).fc.in_features == 512 * 1 * 2

    def silent(num_classes, **others):
        assert not others  # catch-all arguments do not name anything
        return nn.Linear(1, num_classes)

    assert build_model(silent, 4, 3, 0, image_size=(8, 8)).out_features == 4


@pytest.mark.parametrize(
    ("factory", "channels", "arguments", "words"),
    [
        (tiny, 3, {"widht": 4}, ["tiny", "widht", "width"]),
        (lambda num_classes: nn.Linear(1, num_classes), 1, {}, ["3 channels", "have 1", "in_channels"]),
        (lambda num_classes: "model", 3, {}, ["str", "torch.nn.Module"]),
        (lambda classes: nn.Linear(1, 1), 3, {}, ["missing", "'classes'"]),
    ],
)
def test_what_does_not_fit_is_one_line(factory, channels, arguments, words):
    with pytest.raises(BrsweepError) as caught:
        build_model(factory, 4, channels, 0, **arguments)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_every_model_file_builds(path):
    from omegaconf import OmegaConf

    torchvision_import.import_torchvision()
    node = OmegaConf.to_container(OmegaConf.load(path))
    module, _, name = node.pop("_target_").rpartition(".")
    __import__(module)
    model = build_model(getattr(sys.modules[module], name), 10, 3, 0, image_size=(32, 32), **node).eval()
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_the_model_files_are_all_here():
    assert {path.stem for path in MODELS} >= {
        *("resnet20", "resnet32", "resnet56", "resnet18", "vgg_small", "tiny"),
        *("torchvision_resnet18", "torchvision_mobilenet_v2"),
    }


def test_torchvision_imports_in_a_fresh_process_without_a_word():
    code = (
        "from brsweep.torchvision_import import import_torchvision as f; t = f(); assert f() is t\n"
        "import torchvision.transforms.v2, torchvision.datasets\n"
        "print(t.models.resnet18(num_classes=3).fc.out_features)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


@pytest.mark.parametrize("loads", [True, False])
def test_schemas_are_declared_only_where_the_extension_cannot_load(monkeypatch, loads):
    declared = []

    def load_library(path):
        assert Path(path).name.startswith("_C")
        if not loads:
            raise OSError("undefined symbol")

    monkeypatch.setattr(torch.ops, "load_library", load_library)
    monkeypatch.setattr(torch.library, "define", lambda name, schema: declared.append(name))
    monkeypatch.setattr(torchvision_import, "UNDECLARED", ("an_operator_that_nobody_declared",))
    monkeypatch.setattr(torchvision_import.importlib.util, "find_spec", lambda name: _Spec())
    torchvision_import._declare_missing()
    assert declared == ([] if loads else ["torchvision::an_operator_that_nobody_declared"])


class _Spec:
    def __init__(self):
        import importlib.machinery

        self.submodule_search_locations = importlib.machinery.PathFinder.find_spec(
            "torchvision"
        ).submodule_search_locations


@pytest.mark.parametrize(
    "line", ["import torchvision.ops", "from torchvision import models", "import torch, torchvision"]
)
def test_a_part_that_imports_torchvision_itself_can_be_imported(tmp_path, line):
    (tmp_path / "part.py").write_text(f"{line}\n", encoding="utf-8")
    code = (
        "import sys; from brsweep.torchvision_import import make_importable\n"
        "make_importable(); make_importable(); assert not {'torch', 'torchvision'} & set(sys.modules)\n"
        "before = len(sys.meta_path); import part; assert len(sys.meta_path) == before - 1\n"
        "make_importable(); assert len(sys.meta_path) == before - 1; print(part.__name__)"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "part\n", "")


def test_without_torchvision_nothing_is_declared_and_the_error_is_pythons(tmp_path):
    code = (
        "import sys; from brsweep.torchvision_import import make_importable; make_importable()\n"
        "sys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n"
        "try: import torchvision\n"
        "except ModuleNotFoundError as error: print(error.name, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("torchvision False\n", "")
