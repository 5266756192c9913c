"""What a target may be: defined in an allowed package, of its key's kind, found without running anything."""

from __future__ import annotations

import importlib
import os
import shutil
import sys

import pytest
import torch

from brsweep import targets
from brsweep.errors import BrsweepError

KEYS = tuple(targets.HOMES)
REACHED = (
    "brsweep.sweep.local.os.system", "brsweep.sweep.local.os.popen", "brsweep.sweep.local.sys.exit",
    "brsweep.targets.build", "brsweep.targets.locate", "brsweep.targets.importlib.import_module",
    "brsweep.stages.preflight.shutil.rmtree", "brsweep.stages.preflight.shutil.copyfile",
    "brsweep.stages.preflight.tempfile.mkdtemp", "brsweep.models.tiny.nn.Module", "brsweep.models.build.torch.load",
    "brsweep.quant.convert.copy.deepcopy", "brsweep.data.images.np.load", "brsweep.data.images.np.fromfile",
    "brsweep.data.decode.Path", "brsweep.errors.BrsweepError", "brsweep.data.images.Images.__init__",
    "brsweep.quant.lsq.LSQQuantizer.forward", "brsweep.quant.lsq.LSQQuantizer.forward.__globals__",
    "torch.optim.optimizer.torch.load", "torch.optim.optimizer.torch.hub.load",
    "torch.optim.optimizer.functools.partial",
    "torch.optim.lr_scheduler.StepLR", "torch.optim.Optimizer", "torch.load", "torch.hub.load", "torch.save",
    "torch.utils.model_dump.__main__.main", "torch.serialization.load", "torch.nn.Linear",
    "torchvision.datasets.utils.download_url", "torchvision.datasets.utils.extract_archive",
    "torchvision.datasets.CIFAR10", "torchvision.models.resnet.load_state_dict_from_url",
    "torchvision.models._api.importlib.import_module", "torchvision.models.resnet.torch.load",
    "os.system", "builtins.eval", "builtins.exec", "subprocess.run", "shutil.rmtree", "pickle.loads", "runpy.run_path",
    "webbrowser.open", "hydra.utils.instantiate", "omegaconf.OmegaConf.load", "numpy.load", "numpy.f2py.main",
    "brsweep.__main__.x", "brsweep.sweep.__main__.main", "brsweep.models", "brsweep.models.tiny", "torch.optim",
)  # fmt: skip


@pytest.fixture
def nothing_runs(monkeypatch):
    """Fails the test where something of what the targets name is called."""

    def run(*given, **named):
        raise AssertionError(f"ran with {given} {named}")

    for module, name in (
        (os, "system"), (os, "popen"), (shutil, "rmtree"), (shutil, "copyfile"), (torch, "load"), (sys, "exit"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, run)
    targets.consent([])


@pytest.mark.parametrize("key", KEYS)
def test_what_is_reached_through_imports_never_runs(key, nothing_runs):
    for target in REACHED:
        with pytest.raises(BrsweepError, match=f"{key}._target_="):
            targets.build(key, {"_target_": target})


GOOD = {
    "model": ("brsweep.models.resnet.resnet20", "torchvision.models.resnet18", "torchvision.models.googlenet"),
    "data": ("brsweep.data.synthetic.Synthetic", "brsweep.data.downloads.Cifar10"),
    "quant.quantizer": ("brsweep.quant.lsq.LSQQuantizer",),
    "reg": ("brsweep.regularizers.br.BinRegularization",),
    "float_optimizer": ("torch.optim.SGD", "torch.optim.adamw.AdamW"),
    "qat_optimizer": ("torch.optim.Adam",),
    "logger": ("brsweep.tracking.csv_file.CsvFile",),
}


def test_the_parts_that_there_are_are_found():
    targets.consent([])
    for key, names in GOOD.items():
        for name in names:
            assert targets.locate(key, name).__name__ == name.rsplit(".", 1)[1]


def test_a_part_of_one_kind_is_none_of_another():
    targets.consent([])
    wrong = [(key, name) for key in KEYS for other in KEYS for name in GOOD[other] if name not in GOOD[key]]
    wrong = [(key, name) for key, name in wrong if not (key.endswith("optimizer") and name.startswith("torch.optim"))]
    for key, name in wrong:
        with pytest.raises(BrsweepError, match=f"{key}._target_="):
            targets.locate(key, name)
    assert len(wrong) > 40


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A user's package `ownparts`, whose import leaves a trace."""
    folder = tmp_path / "ownparts"
    folder.mkdir()
    (folder / "__init__.py").write_text("import pathlib\npathlib.Path(__file__).with_name('imported').touch()\n")
    (folder / "net.py").write_text(
        "import os\nfrom os import system\nfrom torch import nn\n"
        "class Net(nn.Module): pass\nclass Other: pass\ndef net(num_classes): return nn.Linear(1, num_classes)\n"
        "class Decayed(__import__('torch').optim.SGD): pass\n"
    )
    (folder / "broken.py").write_text("x = 1 / 0\n")
    (folder / "missing.py").write_text("import nosuchmodule\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    targets.consent([])
    for name in [name for name in sys.modules if name.split(".")[0] == "ownparts"]:
        del sys.modules[name]


def test_nothing_of_a_package_is_imported_before_consent(package):
    targets.consent(["another"])
    with pytest.raises(BrsweepError, match=r"allow_targets=\[ownparts\]"):
        targets.locate("model", "ownparts.net.Net")
    assert not (package / "imported").exists()


def test_consent_admits_a_packages_own_parts_and_nothing_that_it_imports(package):
    targets.consent(["ownparts"])
    assert targets.locate("model", "ownparts.net.Net").__name__ == "Net"
    assert targets.locate("model", "ownparts.net.net")(num_classes=3).out_features == 3
    assert issubclass(targets.locate("qat_optimizer", "ownparts.net.Decayed"), torch.optim.SGD)
    for key, name, why in (
        ("model", "ownparts.net.os.system", "is no class or function"),
        ("model", "ownparts.net.system", "is no class or function"),
        ("model", "ownparts.net.nn.Linear", "is defined in torch.nn"),
        ("model", "ownparts.net.Other", "is no subclass of torch.nn.Module"),
        ("qat_optimizer", "ownparts.net.Net", "is no subclass of torch.optim.Optimizer"),
        ("model", "ownparts.broken.x", "ZeroDivisionError: division by zero .*broken.py:1"),
        ("model", "ownparts.missing.x", "imports nosuchmodule, which is not installed"),
        ("model", "ownparts.nosuch.x", "there is no module ownparts.nosuch"),
    ):
        with pytest.raises(BrsweepError, match=why):
            targets.locate(key, name)


def test_consent_is_of_a_process_and_ends_with_the_next(package):
    targets.consent(["ownparts"])
    targets.consent([])
    with pytest.raises(BrsweepError, match="outside the allowed packages"):
        targets.build("model", {"_target_": "ownparts.net.Net"})


def test_every_base_class_that_is_there_is_one():
    for key, path in targets.KINDS.items():
        module, _, name = path.partition(":")
        assert isinstance(getattr(importlib.import_module(module), name), type), key
