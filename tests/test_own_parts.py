"""A user's own parts, each one Python file and one YAML in a package and a folder outside the checkout: through the
command, in a sweep beside the built-in ones, in one table. And what a part must not do fails before anything trains."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from commands import ROOT, TINY, Answer, shell

LSQ = "from brsweep.quant import LSQQuantizer, Quantizer\nimport torch\n"
QUANTIZERS = {
    "another forward on LSQ": LSQ
    + "class Mine(LSQQuantizer):\n"
    + "    def forward(self, values):\n"
    + "        return super().forward(values)\n",
    "from scratch": LSQ
    + "class Mine(Quantizer):\n"
    + "    def init_from(self, values):\n"
    + "        self.alpha.data.fill_(float(values.abs().mean()) * 2 / self.grid.qp ** 0.5)\n"
    + "    def forward(self, values):\n"
    + "        scaled = (values / self.step_size).clamp(self.grid.qn, self.grid.qp)\n"
    + "        return (scaled + (scaled.round() - scaled).detach()) * self.step_size\n",
    "with an offset": LSQ
    + "class Mine(Quantizer):\n"
    + "    def __init__(self, *args, **options):\n"
    + "        super().__init__(*args, **options)\n"
    + "        self.offset = torch.nn.Parameter(torch.zeros_like(self.alpha))\n"
    + "    def init_from(self, values):\n"
    + "        self.alpha.data.fill_(float(values.max() - values.min()) / (self.grid.bins - 1) + 1e-6)\n"
    + "        self.offset.data.fill_(float(values.min()) - self.grid.qn * float(self.alpha))\n"
    + "    def forward(self, values):\n"
    + "        scaled = ((values - self.offset) / self.step_size).clamp(self.grid.qn, self.grid.qp)\n"
    + "        return (scaled + (scaled.round() - scaled).detach()) * self.step_size + self.offset\n",
}
NO_STEP_SIZE = (
    LSQ
    + "class Mine(Quantizer):\n"
    + "    def __init__(self, *args, **options):\n"
    + "        super().__init__(*args, **options)\n"
    + "        self.alpha = None\n"
    + "    def init_from(self, values): pass\n"
    + "    def forward(self, values): return values + (values.sign() - values).detach()\n"
)
MODEL = (
    "from torch import nn\n"
    "from mine.blocks import block\n"
    "def net(num_classes, in_channels, width=4):\n"
    "    return nn.Sequential(block(in_channels, width), block(width, width), nn.AdaptiveAvgPool2d(1), nn.Flatten(),\n"
    "                         nn.Linear(width, num_classes))\n"
)
BLOCKS = (
    "from torch import nn\n"
    "def block(inner, outer):\n"
    "    return nn.Sequential(nn.Conv2d(inner, outer, 3), nn.BatchNorm2d(outer), nn.ReLU())\n"
)
DATA = (
    "import numpy as np\n"
    "from brsweep.data.images import Images, Source\n"
    "class Stripes(Source):\n"
    "    def __init__(self, count): self.count = count\n"
    "    def prepare(self): pass\n"
    "    def identity(self): return f'stripes-{self.count}'\n"
    "    def load(self):\n"
    "        labels = np.arange(self.count) % 2\n"
    "        images = np.zeros((self.count, 8, 8, 3), np.uint8)\n"
    "        images[labels == 0, ::2] = 255\n"
    "        images[labels == 1, :, ::2] = 255\n"
    "        half = self.count // 2\n"
    "        return Images(images[half:], labels[half:], images[:half], labels[:half], ('across', 'down'))\n"
)
REGULARIZER = (
    "from brsweep.regularizers import Regularizer\n"
    "class Flat(Regularizer):\n"
    "    def penalty(self, collected):\n"
    "        return (collected.values ** 4).mean()\n"
)


class Mine:
    """A package `mine` and a folder of YAML files, outside the checkout."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.package, self.conf = folder, folder / "package" / "mine", folder / "conf"
        self.package.mkdir(parents=True)
        (self.package / "__init__.py").touch()

    def write(self, name: str, source: str) -> None:
        (self.package / f"{name}.py").write_text(source)

    def option(self, group: str, text: str, name: str = "mine") -> None:
        (self.conf / group).mkdir(parents=True, exist_ok=True)
        (self.conf / group / f"{name}.yaml").write_text(text)

    def train(self, *overrides: str, consent: bool = True) -> Answer:
        keys = {o.partition("=")[0] for o in overrides}
        base = [o for o in TINY if o.partition("=")[0] not in keys]
        own = [f"hydra.searchpath=[file://{self.conf}]", *(["allow_targets=[mine]"] if consent else [])]
        multirun = ["--multirun"] if any("," in o for o in overrides) else []
        return shell(self.folder, *multirun, *base, *overrides, *own, PYTHONPATH=f"{ROOT}:{self.package.parent}")

    def results(self, sweep: str = "default") -> list[dict]:
        return [json.loads(p.read_text()) for p in sorted((self.folder / "runs" / sweep).glob("*/result.json"))]

    def stored(self, stage: str) -> set[str]:
        entries = [json.loads(p.read_text()) for p in (self.folder / "runs/store").glob("*/entry.json")]
        return {entry["signature"] for entry in entries if entry["stage"] == stage}

    def table(self, *sweeps: str) -> list[dict[str, str]]:
        out = self.folder / "report"
        answer = shell(self.folder, *(f"runs/{s}" for s in sweeps), "--out", str(out), program=("-m", "brsweep.report"))
        assert answer.code == 0, answer.err
        with open(out / "table.csv", newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def mine(tmp_path):
    return Mine(tmp_path)


def own_quantizer(mine: Mine, source: str) -> None:
    mine.write("quantizer", source)
    mine.option("quant", "defaults:\n  - w2a2\n  - _self_\nquantizer:\n  _target_: mine.quantizer.Mine\n")


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_a_quantizer_of_ones_own_trains_with_bin_regularization(mine, kind):
    own_quantizer(mine, QUANTIZERS[kind])
    refused = mine.train("quant=mine", consent=False)
    assert refused.code == 1 and "allow_targets=[mine]" in refused.err and not (mine.folder / "runs").exists()
    answer = mine.train("quant=mine", "reg.lambda_weight=0,1", "schedule.freeze_alpha=true")
    assert answer.code == 0, answer.err + answer.out
    by_lambda = {result["config"]["reg"]["lambda_weight"]: result for result in mine.results()}
    folder = mine.folder / "runs/default" / by_lambda[1]["name"]
    record = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()][-1]
    assert record["trained_penalty_weight"] > 0 and record["trained_penalty_act"] > 0
    layers = json.loads((folder / "layers.jsonl").read_text().splitlines()[-1])
    assert all(value is not None for key in ("alpha", "near", "occupancy") for value in layers[key])
    assert (folder / "snapshots" / "br-end.npz").stat().st_size > 1000


def test_a_quantizer_without_a_step_size_is_refused_by_bin_regularization_alone(mine):
    own_quantizer(mine, NO_STEP_SIZE)
    answer = mine.train("quant=mine")
    assert answer.code == 1 and answer.err.count("\n") == 1 and not (mine.folder / "runs/default").exists()
    assert "Mine has no step size" in answer.err and "BinRegularization" in answer.err
    answer = mine.train("quant=mine", "regularizer=none", "logger=csv")
    assert answer.code == 0, answer.err
    checked = shell(mine.folder, "runs/default", "--check", program=("-m", "brsweep.sweep"))
    assert checked.code == 0 and "every file is whole" in checked.out, checked.out


@pytest.mark.parametrize(
    ("source", "word"),
    [
        (LSQ + "class Mine(LSQQuantizer):\n    def __call__(self, values): return values\n", "overrides __call__"),
        ("from torch import nn\nclass Mine(nn.Module):\n    def __init__(self, bits, signed): pass\n", "Quantizer"),
        (LSQ + "class Mine(Quantizer):\n    def forward(self, values): return values\n", "init_from"),
    ],
)
def test_what_is_no_quantizer_is_refused_in_one_line(mine, source, word):
    own_quantizer(mine, source)
    answer = mine.train("quant=mine")
    assert answer.code == 1 and answer.err.count("\n") == 1 and word in answer.err, answer.err
    assert not (mine.folder / "runs/default").exists()


@pytest.mark.parametrize("part", ["quantizer", "regularizer"])
def test_a_part_that_cannot_train_is_refused_in_one_line(mine, part):
    own_quantizer(mine, LSQ + "class Mine(LSQQuantizer):\n    def forward(self, values): return values.round()\n")
    mine.write("regularizer", REGULARIZER.replace(".mean()", ""))
    mine.option("regularizer", "# @package reg\n_target_: mine.regularizer.Flat\nlambda_weight: 0.1\nlambda_act: 0.1\n")
    asked, word = {
        "quantizer": ("quant=mine", "Mine.forward: no gradient reaches its values"),
        "regularizer": ("regularizer=mine", "Flat.penalty of "),
    }[part]
    answer = mine.train(asked)
    assert answer.code == 1 and answer.err.count("\n") == 1 and word in answer.err, answer.err
    assert not (mine.folder / "runs/default").exists()


def test_a_file_without_the_head_of_its_group_is_told_so(mine):
    mine.write("regularizer", REGULARIZER)
    mine.option("regularizer", "_target_: mine.regularizer.Flat\nlambda_weight: 0.1\n")
    answer = mine.train("regularizer=mine")
    assert answer.code == 1 and answer.err.count("\n") == 1
    assert "regularizer: a file of this group begins with the line `# @package reg`" in answer.err


@pytest.mark.slow
def test_a_regularizer_of_ones_own_shares_stages_and_the_table(mine):
    mine.write("regularizer", REGULARIZER)
    mine.option("regularizer", "# @package reg\n_target_: mine.regularizer.Flat\nlambda_weight: 0.1\nlambda_act: 0.1\n")
    answer = mine.train("regularizer=none,br,mine", "seed=1,2")
    assert answer.code == 0, answer.err + answer.out
    assert len(mine.stored("float")) == len(mine.stored("warmup")) == 2, "one of each for each seed"
    rows = mine.table("default")
    assert len({(row["core"], row["data"]) for row in rows}) == 1 and len(rows) == 3
    assert [row["gap_n"] for row in rows].count("2") == 2, "both are compared with LSQ alone of the same seeds"
    before = mine.stored("float"), mine.stored("warmup")
    mine.write("regularizer", REGULARIZER.replace("** 4", "** 6"))
    answer = mine.train("regularizer=none,br,mine", "seed=1,2", "stale=retrain")
    assert answer.code == 0, answer.err + answer.out
    assert (mine.stored("float"), mine.stored("warmup")) == before
    assert answer.out.count("started ") == 2, "its own runs alone are trained again"


def test_a_regularizer_that_has_nothing_to_act_on_is_an_error(mine):
    mine.write("regularizer", REGULARIZER)
    mine.option("regularizer", "# @package reg\n_target_: mine.regularizer.Flat\nlambda_weight: 0.1\nlambda_act: 0.1\n")
    for overrides in (("regularizer=mine",), ("regularizer=br",)):
        answer = mine.train(*overrides, "quant=w2a32")
        assert answer.code == 1 and answer.err.count("\n") == 1 and not (mine.folder / "runs/default").exists()
        assert "reg.lambda_act" in answer.err and "acts on nothing" in answer.err


def test_a_models_helper_file_is_part_of_its_identity(mine):
    mine.write("model", MODEL)
    mine.write("blocks", BLOCKS)
    mine.option("model", "_target_: mine.model.net\nwidth: 6\n")
    answer = mine.train("model=mine")
    assert answer.code == 0, answer.err + answer.out
    assert "finished already" in mine.train("model=mine").out
    before = mine.stored("float")
    mine.write("blocks", BLOCKS.replace("nn.ReLU()", "nn.ReLU6()"))
    stale = mine.train("model=mine")
    assert stale.code == 1 and "finished under other training code" in stale.err
    answer = mine.train("model=mine", "reg.lambda_weight=3")
    assert answer.code == 0, answer.err + answer.out
    assert len(mine.stored("float") - before) == 1, "another lambda does not go on from the old network"


def test_a_data_set_of_ones_own(mine):
    mine.write("data", DATA)
    mine.option(
        "data",
        "_target_: mine.data.Stripes\ncount: 160\nval_fraction: 0.1\nsplit_seed: 0\ncrop_padding: 0\nflip: false\n"
        "batch_size: 16\n",
    )
    answer = mine.train("data=mine", "reg.lambda_act=0,1")
    assert answer.code == 0, answer.err + answer.out
    assert {result["data"] for result in mine.results()} == {"stripes-160"}
    assert len(mine.stored("float")) == 1 and len(mine.table("default")) == 2
