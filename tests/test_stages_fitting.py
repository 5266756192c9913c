"""Parts that can't be made, or don't fit the data, are one line before a folder is made; and what is sound begins."""

from __future__ import annotations

import copy
from itertools import product

import pytest
from small_runs import config
from torch import nn

from brsweep.errors import BrsweepError
from brsweep.models import tiny
from brsweep.quant import lsq
from brsweep.quant.convert import Conversion
from brsweep.regularizers import br
from brsweep.regularizers.br import BinRegularization
from brsweep.stages import fitting, preflight
from brsweep.sweep.plan import Point, check_grid, plan_sweep

SIZE = ("data.image_size=32",)
TORCHVISION = ("model=torchvision_resnet18", *SIZE)
WRONG = [
    ((*TORCHVISION, "model._target_=torchvision.models.googlenet", "~model.zero_init_residual",
      "+model.init_weights=false"), "googlenet"),
    (("model._target_=torchvision.models.vit_b_16", "~model.width"),
     "Wrong image height! Expected 224 but got 8!"),
    (("model._target_=torchvision.models.inception_v3", "~model.width", "+model.init_weights=false",
      "+model.aux_logits=false", *SIZE), "or images of the size that it takes"),
    (("model=vgg_small", "data.image_size=2"), "of images of 2x2: nothing to train"),
    (("model=torchvision_mobilenet_v2", "data.image_size=1", "data.batch_size=1"), "take batches of two or more"),
    (("model=torchvision_resnet18", "data.channels=1"), "takes 3 channels and the images have 1"),
    (("model=torchvision_resnet18", "+model.width_per_group=-1"), "resnet18: ValueError: BasicBlock only supports"),
    (("model=torchvision_resnet18", "+model.nosuch=1"), "nosuch"),
    (("quant.overrides={nosuch.*: 4}",), "no layer or ReLU matches 'nosuch.*'"),
    (("data.batch_size=462",), "data.batch_size=462: there are 461 training images"),
    (("data.crop_padding=8",), "images are 8x8, and a crop could miss them"),
    (("data.val_fraction=0.0001",), "of 512 images that is none for validation"),
    (("data.val_fraction=0.999",), "none left for training"),
    (("float_optimizer.momentum=0",), "float_optimizer: torch.optim.SGD: ValueError: Nesterov momentum requires"),
    (("qat_optimizer=adam", "qat_optimizer.betas=[0.9,1.5]"), "qat_optimizer: torch.optim.Adam: ValueError: Invalid"),
    (("data.train_images=100000000000000",), "do not fit into memory; choose fewer"),
    (("output_dir=/dev/null/x",), "output_dir=/dev/null/x: /dev/null can't be written"),
    (("store_dir=/proc/x",), "store_dir=/proc/x: /proc can't be written"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "says"), WRONG, ids=lambda v: str(v)[:50])
def test_what_does_not_fit_is_named(overrides, says, tmp_path):
    with pytest.raises(BrsweepError) as refused:
        preflight.check_parts(config(*overrides, tmp_path=tmp_path))
    assert says in str(refused.value) and "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


class Returns(nn.Module):
    """A network whose output is what the test says."""

    def __init__(self, num_classes, output):
        super().__init__()
        self.layer, self.output = nn.Conv2d(3, num_classes, 1), output

    def forward(self, images):
        return self.output(self.layer(images).mean((2, 3)))


def fails(_):
    raise KeyError("no such thing")


OUTPUTS = [
    (lambda logits: (logits, logits), "returns tuple in training, and one tensor of logits is wanted"),
    (lambda logits: {"logits": logits}, "returns dict in training"),
    (lambda logits: logits[:, :1], "returns [2, 1] for 2 images of 8x8; [2, 4] is wanted"),
    (lambda logits: logits.mean(), "returns [] for 2 images"),
    (lambda logits: logits[..., None], "returns [2, 4, 1]"),
    (fails, "does not take 2 images of 8x8 (KeyError: 'no such thing'"),
]


@pytest.mark.parametrize(("output", "says"), OUTPUTS, ids=[says[:30] for _, says in OUTPUTS])
def test_a_network_gives_a_logit_for_each_class(output, says, tmp_path, monkeypatch):
    def net(num_classes, width):
        return Returns(num_classes, output)

    net.__module__ = tiny.__name__
    monkeypatch.setattr(tiny, "tiny", net)
    monkeypatch.setattr(fitting, "clip_relus", lambda model, _: model)
    with pytest.raises(BrsweepError) as refused:
        preflight.check_parts(config("model.width=5", tmp_path=tmp_path))
    assert says in str(refused.value)


def with_network(monkeypatch, forward) -> list[nn.Module]:
    """Have the tiny net be one whose logits `forward(net, logits)` makes; those that were built."""
    built = []

    def net(num_classes, width):
        built.append(Returns(num_classes, lambda logits: forward(built[-1], logits)))
        return built[-1]

    net.__module__ = tiny.__name__
    monkeypatch.setattr(tiny, "tiny", net)
    monkeypatch.setattr(fitting, "clip_relus", lambda model, _: model)
    monkeypatch.setattr(fitting, "quantize_model", lambda *_, **__: (None, Conversion((), {}, (), (), 1, 1)))
    monkeypatch.setattr(BinRegularization, "check", lambda *_: None)
    return built


def test_evaluation_gives_logits_as_well(tmp_path, monkeypatch):
    with_network(monkeypatch, lambda net, logits: logits if net.training else (logits, logits))
    with pytest.raises(BrsweepError, match="returns tuple in evaluation"):
        preflight.check_parts(config("model.width=5", tmp_path=tmp_path))


def test_the_images_have_no_values_unless_the_network_looks_at_them(tmp_path, monkeypatch):
    """One that looks at a value fails on the first, and is asked again with values, in both modes."""
    devices = []

    def looks(net, logits):
        devices.append(logits.device.type)
        return logits * float(logits.sum())

    with_network(monkeypatch, lambda net, logits: devices.append(logits.device.type) or logits)
    preflight.check_parts(config("model.width=5", tmp_path=tmp_path))
    assert devices == ["meta", "meta"]
    with_network(monkeypatch, looks)
    preflight.check_parts(config("model.width=6", tmp_path=tmp_path))
    assert devices[2:] == ["meta", "cpu", "meta", "cpu"]


def test_a_grid_builds_each_network_once(tmp_path, monkeypatch):
    """Two widths, seeds, lambdas and bits in between: two networks, each quantized once at each bit-width."""
    built, quantized = [], []
    build, quantize = fitting.build_model, fitting.quantize_model
    monkeypatch.setattr(fitting, "build_model", lambda *a, **o: built.append(o["width"]) or build(*a, **o))
    monkeypatch.setattr(fitting, "quantize_model", lambda m, **o: quantized.append(o["act_bits"]) or quantize(m, **o))
    base, points = config(tmp_path=tmp_path), []
    for seed, bits, strength, width in product((1, 2), (2, 4), (0, 3), (8, 9)):
        point = copy.deepcopy(base) | {"seed": seed}
        point["quant"]["act_bits"], point["reg"]["lambda_act"] = bits, strength
        point["model"]["width"] = width
        points.append(Point((str(len(points)),), point))
    check_grid(plan_sweep(points))
    assert built == [8, 9] and quantized == [2, 4, 2, 4]


def test_a_grid_is_checked_on_each_of_its_data_sets(tmp_path):
    fits = config(tmp_path=tmp_path)
    large = fits | {"data": fits["data"] | {"batch_size": 462}}
    plan = plan_sweep([Point(("data.batch_size=64",), fits), Point(("data.batch_size=462",), large)])
    with pytest.raises(BrsweepError, match=r"^data.batch_size=462: .* \(at data.batch_size=462; nothing was started\)"):
        check_grid(plan)


@pytest.mark.parametrize("switch", ["freeze_weights.threshold=0.1", "transition_rate.factor=0.005"])
def test_a_way_to_train_with_nothing_to_do_is_found_beside_the_same_run_without_it(switch, tmp_path):
    base = ("quant.weight_bits=32", "reg.lambda_weight=0")
    sound = config(*base, tmp_path=tmp_path)
    preflight.check_parts(sound)
    idle = config(*base, switch, tmp_path=tmp_path)
    says = f"{switch.partition('=')[0]}: no weight is at the low bit-width"
    with pytest.raises(BrsweepError, match=says):
        preflight.check_parts(idle)
    with pytest.raises(BrsweepError, match=rf"{says}.* \(at {switch}; nothing was started\)"):
        check_grid(plan_sweep([Point(("seed=42",), sound), Point((switch,), idle)]))


@pytest.mark.parametrize(("module", "name"), [(lsq, "LSQQuantizer"), (br, "BinRegularization")])
def test_a_quantizer_or_regularizer_that_cannot_be_made_is_named(module, name, tmp_path, monkeypatch):
    def begin(self, *_, **__):
        raise ValueError("out of order")

    real = getattr(module, name)
    monkeypatch.setattr(module, name, type(name, (real,), {"__init__": begin, "__module__": module.__name__}))
    with pytest.raises(BrsweepError, match="out of order"):
        preflight.check_parts(config("reg.lambda_act=0.25", tmp_path=tmp_path))


def test_what_was_found_sound_is_not_made_again(tmp_path, monkeypatch):
    made = []
    real = preflight.check_together
    monkeypatch.setattr(preflight, "check_together", lambda *given: made.append(given) or real(*given))
    for overrides in (["seed=1"], ["seed=2"], ["model.width=4"], ["seed=3", "model.width=4"]):
        preflight.check_parts(config(*overrides, tmp_path=tmp_path))
    assert len(made) == 2


def test_the_check_leaves_the_generators_where_they_were(tmp_path):
    import torch

    before = torch.get_rng_state()
    preflight.check_parts(config("model.width=7", tmp_path=tmp_path))
    assert torch.equal(torch.get_rng_state(), before)


def test_kernels_that_cannot_be_had_leave_the_process_as_it_was(tmp_path, monkeypatch):
    import torch

    from brsweep.kernels import implementations
    from brsweep.stages import setup

    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    monkeypatch.setattr(implementations, "fault", lambda name: "broken here")
    monkeypatch.setattr(setup, "settle", lambda *_: pytest.fail("the process is set"))
    wanted = config(f"threads={before[0] + 1}", f"deterministic={not before[1]}".lower(), tmp_path=tmp_path)
    with pytest.raises(BrsweepError, match="broken here"):
        setup.Setup.of(wanted, None)
    after = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    assert after == before
