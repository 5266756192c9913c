"""A user's own parts: one Python file and one YAML each, in a package and a folder outside the checkout."""

from __future__ import annotations

import json

import pytest
from commands import ROOT, TINY, shell

PARTS = {
    "model": (
        "from torch import nn\n"
        "def net(num_classes, in_channels, width=4):\n"
        "    return nn.Sequential(nn.Conv2d(in_channels, width, 3), nn.BatchNorm2d(width), nn.ReLU(),\n"
        "                         nn.Conv2d(width, width, 3), nn.BatchNorm2d(width), nn.ReLU(),\n"
        "                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))\n",
        "model/mine.yaml",
        "_target_: mine.model.net\nwidth: 6\n",
        ["model=mine"],
    ),
    "data": (
        "import numpy as np\n"
        "from brsweep.data.images import Images\n"
        "class Stripes:\n"
        "    def __init__(self, count): self.count = count\n"
        "    def prepare(self): pass\n"
        "    def identity(self): return f'stripes-{self.count}'\n"
        "    def load(self):\n"
        "        labels = np.arange(self.count) % 2\n"
        "        images = np.zeros((self.count, 8, 8, 3), np.uint8)\n"
        "        images[labels == 0, ::2] = 255\n"
        "        images[labels == 1, :, ::2] = 255\n"
        "        half = self.count // 2\n"
        "        return Images(images[half:], labels[half:], images[:half], labels[:half], ('across', 'down'))\n",
        "data/mine.yaml",
        "_target_: mine.data.Stripes\ncount: 160\nval_fraction: 0.1\nsplit_seed: 0\ncrop_padding: 0\nflip: false\n"
        "batch_size: 16\n",
        ["data=mine"],
    ),
    "quantizer": (
        "from brsweep.quant.lsq import LSQQuantizer\n"
        "class Half(LSQQuantizer):\n"
        "    def init_from(self, values):\n"
        "        super().init_from(values)\n"
        "        self.alpha.data.mul_(0.5)\n",
        "quant/mine.yaml",
        "defaults:\n  - w2a2\n  - _self_\nquantizer:\n  _target_: mine.quantizer.Half\n",
        ["quant=mine"],
    ),
    "regularizer": (
        "from contextlib import nullcontext\n"
        "class Shrink:\n"
        "    def __init__(self, lambda_weight, lambda_act): self.strength = lambda_weight\n"
        "    def collect(self, sites):\n"
        "        self.sites = sites\n"
        "        return nullcontext({})\n"
        "    def penalties(self, seen):\n"
        "        return {'weight': sum(s.quantizer.alpha.double() ** 2 for s in self.sites)}\n"
        "    def lambdas(self, progress): return {'weight': self.strength, 'act': 0.0}\n",
        "regularizer/mine.yaml",
        "# @package reg\n_target_: mine.regularizer.Shrink\nlambda_weight: 0.1\nlambda_act: 0.0\n",
        ["regularizer=mine"],
    ),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_one_file_and_one_yaml(part, tmp_path):
    source, yaml_name, yaml, choice = PARTS[part]
    package, conf = tmp_path / "package" / "mine", tmp_path / "conf"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / f"{part}.py").write_text(source)
    (conf / yaml_name).parent.mkdir(parents=True)
    (conf / yaml_name).write_text(yaml)
    base = [o for o in TINY if o.partition("=")[0] != choice[0].partition("=")[0]]
    arguments = [*base, *choice, f"hydra.searchpath=[file://{conf}]"]
    path = {"PYTHONPATH": f"{ROOT}:{tmp_path / 'package'}"}

    refused = shell(tmp_path, *arguments, **path)
    assert refused.code == 1 and "allow_targets=[mine]" in refused.err and not (tmp_path / "runs").exists()
    done = shell(tmp_path, *arguments, "allow_targets=[mine]", **path)
    assert done.code == 0, done.err
    (result,) = (tmp_path / "runs" / "default").glob("*/result.json")
    assert json.loads(result.read_text())["status"] == "finished"

    (package / f"{part}.py").write_text(source + "CHANGED = 1\n")
    stale = shell(tmp_path, *arguments, "allow_targets=[mine]", **path)
    assert stale.code == 1 and "finished under other training code" in stale.err
