"""ONNX files, run by ONNX Runtime at each optimization level: the trained network's codes, and integer convolutions."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from export_networks import images, network
from torch import nn

from brsweep.errors import BrsweepError
from brsweep.export.check import OPTIMIZATIONS, TestImages, check_onnx, session, trained_codes
from brsweep.export.levels import levels_of
from brsweep.export.qdq import Form, to_onnx
from brsweep.export.write import export
from brsweep.models.mobilenet import mobilenet_v2
from brsweep.models.resnet import resnet18, resnet20
from brsweep.models.tiny import tiny
from brsweep.torchvision_import import import_torchvision

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def exported(of, **form):
    return to_onnx(of, levels_of(of), Form(**form))


def some(of, count: int = 48) -> TestImages:
    pixels = images(count, of.preprocess.size[0], of.preprocess.channels)
    return TestImages(pixels, np.zeros(count, np.int64))


def operators(found, tmp_path) -> Counter:
    """What the runtime made of the graph."""
    session(found, optimized=str(tmp_path / "optimized.onnx"))
    return Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)


def assert_equal_codes(of, found, share: float = 0.0) -> None:
    checks = check_onnx(of, found, some(of))
    assert list(checks) == list(OPTIMIZATIONS)
    for level, check in checks.items():
        acts = [site.name for site in of.conversion.sites if site.kind == "act"]
        assert list(check.differing) == acts and check.worst <= share, (level, check.line())


@pytest.mark.parametrize("bits, folded", [(2, 9), (4, 9), (8, 0)])
def test_a_resnet_20_has_the_trained_codes_and_integer_convolutions(bits, folded, tmp_path):
    """Of each block the first convolution is between two sites; the second one's output is added before it is
    quantized. At 8 bits no whole bias keeps every code, so batch norm stays float."""
    of = network(resnet20(4), bits)
    found = exported(of)
    # finer levels have borders that float sums in another order pass: here one code in 10,000 at the first such site
    share = 0.0 if bits == 2 else 0.02
    assert (len(found.folded), len(found.kept), found.inexact) == (folded, 9 - folded, ())
    assert_equal_codes(of, found, share)
    checks = check_onnx(of, found, some(of)).values()
    assert all(check.first is None or check.differing[check.first] < 1e-4 for check in checks)
    seen = operators(found, tmp_path)
    assert (seen["QLinearConv"], seen["Conv"], seen["BatchNormalization"]) == (folded, 19 - folded, 19 - folded)


def test_8_bits_fold_to_the_nearest_where_that_is_asked(tmp_path):
    """8-bit weights on 8-bit inputs: uint8 with the zero point 128, so that no runtime's int16 sums overflow."""
    of = network(resnet20(4), 8)
    for site in of.conversion.sites:
        if site.kind == "weight":
            site.quantizer.alpha.data *= 0.3  # codes up to the ends of the grid
    found = exported(of, fold="nearest")
    assert found.inexact == found.folded and len(found.folded) == 9
    assert operators(found, tmp_path)["QLinearConv"] == 9
    kinds = {t.name: t.data_type for t in found.model.graph.initializer}
    assert {kinds[f"{name}.weight"] for name in found.folded} == {onnx.TensorProto.UINT8}
    checks = check_onnx(of, found, some(of))
    first = found.folded[0].replace("conv1", "relu1")
    for check in checks.values():
        assert check.first == first and 0 < check.differing[first] < 0.01  # the bias is half a sum away at most


def test_resnet_18_folds_its_eight_blocks(tmp_path):
    of = network(resnet18(4), 2)
    found = exported(of)
    assert len(found.folded) == 8 and operators(found, tmp_path)["QLinearConv"] == 8
    checks = check_onnx(of, found, some(of, 4))
    assert {check.worst for check in checks.values()} == {0.0}


@pytest.mark.parametrize(
    "options, form",
    [
        ({"per_channel": True}, {}),
        ({"clip_value": 1.0}, {}),
        ({"input_bits": 8}, {}),
        ({"first_last_bits": None}, {}),
        ({"overrides": {"fc": 32, "stages.1.0.conv1": 4}}, {}),
        ({}, {"fold": "none"}),
        ({}, {"pixels": True}),
        ({}, {"weights": "int4"}),
        ({}, {"weights": "int2"}),
        ({"per_channel": True}, {"weights": "int2"}),
    ],
    ids=str,
)
def test_every_form_has_the_trained_codes(options, form):
    of = network(tiny(4), **options)
    found = exported(of, **form)
    assert_equal_codes(of, found)
    logits, _ = trained_codes(of, images(16))
    values = images(16) if form.get("pixels") else of.preprocess(images(16)).numpy()
    for level in OPTIMIZATIONS:
        run = session(found, level)
        # equal codes, so the logits differ by the roundings of one mean and one product
        assert np.allclose(run.run(None, {"images": values})[0], logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bits", [2, 4])
def test_layers_with_a_site_for_their_own_input(bits, tmp_path):
    """Behind a linear bottleneck codes are signed: int8, clipped where they have fewer bits."""
    of = network(mobilenet_v2(4, width=0.25), bits, size=16)
    own = [site.name for site in of.conversion.sites if site.name.endswith(".input")]
    found = exported(of)
    assert len(own) == 17 and set(own) <= set(found.codes)
    assert_equal_codes(of, found, share=1e-3)  # float sums in another order pass a border now and then
    assert operators(found, tmp_path)["QLinearConv"] == len(found.folded) > 30


def test_integers_stand_in_the_type_that_is_asked():
    of, kinds = network(tiny(4)), onnx.TensorProto
    for form, low, high in (
        ("int8", kinds.INT8, kinds.INT8),
        ("int4", kinds.INT4, kinds.INT8),
        ("int2", kinds.INT2, kinds.INT8),
    ):
        found = exported(of, weights=form, fold="none")
        types = {t.name: t.data_type for t in found.model.graph.initializer}
        assert (types["stages.1.0.conv1.weight"], types["conv1.weight"]) == (low, high)
    sizes = [
        len(exported(of, weights=form, fold="none").model.SerializeToString()) for form in ("int8", "int4", "int2")
    ]
    low = sum(
        s.quantizer.grid.bits == 2 and of.model.get_submodule(s.name).weight.numel()
        for s in of.conversion.sites
        if s.kind == "weight"
    )
    assert sizes[0] - sizes[1] == pytest.approx(low / 2, abs=64) and sizes[1] - sizes[2] == pytest.approx(
        low / 4, abs=64
    )


def test_folded_weights_are_the_codes_times_a_whole_number():
    of = network(resnet20(4), 4)
    found, levels = exported(of), levels_of(of)
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in found.model.graph.initializer}
    multipliers = set()
    for name in found.folded:
        codes, weight = levels["weight", name].codes.numpy(), stored[f"{name}.weight"]
        for mine, theirs in zip(codes, weight, strict=True):
            ratio = {int(b) // int(a) for a, b in zip(mine.ravel(), theirs.ravel(), strict=True) if a}
            assert len(ratio) == 1 and np.array_equal(mine.astype(int) * next(iter(ratio)), theirs)
            multipliers |= ratio
    assert max(multipliers) > 1 and min(multipliers) < 0


def test_the_file_says_what_it_is():
    of = network(tiny(4))
    plain, pixels = exported(of), exported(of, pixels=True)
    said = {prop.key: prop.value for prop in plain.model.metadata_props}
    assert json.loads(said["classes"]) == list(of.classes) and said["run"] == "sweep/run"
    assert json.loads(said["images"])["normalised_inside"] is False
    shapes = [
        [d.dim_param or d.dim_value for d in m.model.graph.input[0].type.tensor_type.shape.dim] for m in (plain, pixels)
    ]
    assert shapes == [["N", 3, 8, 8], ["N", 8, 8, 3]]


# --- torch's operators -----------------------------------------------------------------------------------------------


class Uses(nn.Module):
    """A network whose middle is `middle`, a function of 6 channels of 8x8."""

    def __init__(self, middle, features: int) -> None:
        super().__init__()
        self.conv, self.relu, self.fc = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Linear(features, 4)
        self.middle = middle

    def forward(self, x):
        return self.fc(self.middle(self.relu(self.conv(x))).flatten(1))


MIDDLES = {
    "max pool": (nn.MaxPool2d(3, 2, 1, ceil_mode=True), 6 * 25),
    "average pool": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), 6 * 16),
    "adaptive pool": (nn.AdaptiveAvgPool2d(4), 6 * 16),
    "global pool": (nn.AdaptiveAvgPool2d(1), 6),
    "spread": (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d(3)), 54),
    "mean": (lambda x: x.mean((2, 3), keepdim=True), 6),
    "sigmoid": (nn.Sigmoid(), 384), "hardswish": (nn.Hardswish(), 384), "hardsigmoid": (nn.Hardsigmoid(), 384),
    "silu": (nn.SiLU(), 384), "gelu": (nn.GELU(), 384), "tanh gelu": (nn.GELU("tanh"), 384), "tanh": (nn.Tanh(), 384),
    "hardtanh": (nn.Hardtanh(), 384), "clamp": (lambda x: x.clamp(max=0.5), 384),
    "softmax": (nn.Softmax(1), 384), "layer norm": (nn.LayerNorm([8, 8]), 384),
    "squeeze and excite": (lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True) - 0.3), 384),
    "scalars": (lambda x: (x * 2 - 1) / 3 + 0.5, 384),
    "pad": (lambda x: F.pad(x, (1, 2, 0, 1), value=0.5), 6 * 9 * 11),
    "slice": (lambda x: x[:, 1:5, ::2, -3:], 4 * 4 * 3),
    "cat": (lambda x: torch.cat([x, x * 2], 1), 768),
    "shuffle": (lambda x: x.view(x.size(0), 2, 3, 8, 8).transpose(1, 2).reshape(x.size(0), 6, 8, 8), 384),
    "chunk": (lambda x: torch.cat(x.chunk(2, 1)[::-1], 1), 384),
    "split": (lambda x: x.split([1, 5], 1)[1], 320),
    "permute": (lambda x: x.permute(0, 2, 3, 1).contiguous(), 384),
    "transposed convolution": (nn.ConvTranspose2d(6, 4, 3, 2, 1, 1, groups=2), 4 * 256),
    "grouped, dilated": (nn.Conv2d(6, 4, 3, (1, 2), 2, 2, groups=2, bias=False), 4 * 8 * 4),
    "batch norm without weights": (nn.BatchNorm2d(6, affine=False), 384),
    "tokens": (nn.Sequential(nn.Flatten(2), nn.Linear(64, 5)), 30),
    "matmul": (lambda x: x.flatten(2) @ x.flatten(2).transpose(1, 2), 36),
}  # fmt: skip


@pytest.mark.parametrize("name", MIDDLES)
def test_an_operator_computes_what_torchs_does(name):
    torch.manual_seed(0)
    middle, features = MIDDLES[name]
    of = network(Uses(middle, features), 8)
    found = exported(of)
    logits, _ = trained_codes(of, images(8))
    run = session(found, "none")
    for count in (8, 3):  # any number of images
        got = run.run(None, {"images": of.preprocess(images(8)[:count]).numpy()})[0]
        # float32 sums of up to 1,024 terms in another order
        assert np.allclose(got, logits[:count], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["mobilenet_v2", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5", "vgg11_bn"]
)
@pytest.mark.slow
def test_torchvisions_networks(name):
    torch.manual_seed(0)
    of = network(getattr(import_torchvision().models, name)(num_classes=4), 4, 32)
    assert_equal_codes(of, exported(of), share=1e-3)


@pytest.mark.parametrize(
    "middle, says",
    [
        (lambda x: torch.cumsum(x, 1), r"onnx: the operator aten.cumsum.default"),
        (nn.Conv2d(6, 6, 3, padding="same"), r"aten.conv2d.padding in middle .*padding='same'"),
        (nn.AdaptiveAvgPool2d(3), r"adaptive_avg_pool2d.* from \(8, 8\) to \(3, 3\)"),
        (nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6, track_running_stats=False)), "the batch's own statistics"),
        (lambda x: x * x.mean(), "mixes the images"),
    ],
)
def test_what_has_no_form_is_named_and_nothing_is_written(middle, says, tmp_path):
    features = 54 if isinstance(middle, nn.AdaptiveAvgPool2d) else 384
    of = network(Uses(middle, features))
    with pytest.raises(BrsweepError, match=says) as caught:
        export(of, tmp_path / "out", check=0)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


# --- the check finds -------------------------------------------------------------------------------------------------


def damaged(found, name: str, change) -> None:
    for tensor in found.model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(onnx.numpy_helper.from_array(change(onnx.numpy_helper.to_array(tensor)), name))


def test_the_check_finds_one_wrong_weight_and_names_the_first_site_after_it():
    of = network(resnet20(4), 4)
    found = exported(of)
    name = found.folded[4]

    def change(weight):
        weight = weight.copy()
        weight[0, 0, 1, 1] += 40
        return weight

    damaged(found, f"{name}.weight", change)
    for check in check_onnx(of, found, some(of)).values():
        assert check.first == name.replace("conv1", "relu1") and 0 < check.differing[check.first] < 0.2
        before = list(check.differing)[: list(check.differing).index(check.first)]
        assert len(before) == 9 and not any(check.differing[site] for site in before)


def test_a_wrong_step_size_is_beyond_the_bound(tmp_path, monkeypatch):
    from brsweep.export import write

    of = network(tiny(4))
    found = exported(of)
    damaged(found, "relu1.step", lambda step: (step * 1.01).astype(np.float32))
    monkeypatch.setattr(write, "to_onnx", lambda *_: found)
    monkeypatch.setattr(write, "test_images", lambda *_: some(of))
    with pytest.raises(BrsweepError, match=r"onnx, optimization .* not the trained network: first at relu1") as caught:
        export(of, tmp_path / "out")
    assert "--check 0" in str(caught.value) and not (tmp_path / "out").exists()
    assert export(of, tmp_path / "out", bound=1.0)["onnx"]["check"]["all"]["first"] == "relu1"
