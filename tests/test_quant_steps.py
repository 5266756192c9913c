"""What a traced step does with its input, held against what torch does; and which inputs count as quantized."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from brsweep.quant import quantize_model
from brsweep.quant.steps import hands_on, reads_values, shares_memory

ARGUMENTS = [
    (), (0,), (1,), (-1,), (0, 1), (1, 1), (0, 0), (2, 2), (0, 0, 1), (1, 1, 1), (1, 1, 0), ((1,),), ((0, 0),),
    ((1, 1),), ((0, 1, 2, 3),), ((2, 4, 2, 2),), ((0, 0, 0, 0),), (torch.float32,), (0.0,), (0.0, False),
    (0.5, False), (None,),
]  # fmt: skip
HOUSEKEEPING = {"module_load", "from_file", "index", "save", "compile", "set_default_device", "set_default_dtype",
                "set_num_threads", "set_num_interop_threads", "set_default_tensor_type", "manual_seed"}  # fmt: skip
"""What is no step of a network."""


def tensors(value) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors(part)


def shared(value, images: Tensor) -> bool:
    for tensor in tensors(value):
        try:
            if tensor.numel() and tensor.untyped_storage().data_ptr() == images.untyped_storage().data_ptr():
                return True
        except (RuntimeError, NotImplementedError):  # sparse and opaque tensors have no storage
            continue
    return False


def sharing_calls() -> Iterator[tuple[str, Callable, tuple]]:
    """Each function of torch with arguments for which what it returned lay in the memory of what it was given."""
    for space in (torch.Tensor, torch, F):
        for name in sorted(set(dir(space)) - HOUSEKEEPING):
            function = getattr(space, name)
            if name.startswith("_") or name.endswith("_") or not callable(function) or isinstance(function, type):
                continue
            for arguments in ARGUMENTS:
                images = torch.rand(2, 4, 2, 2)
                try:
                    found = shared(function(images, *arguments), images)
                except Exception:  # most arguments fit few functions
                    continue
                if found:
                    yield name, function, arguments
                    break


def test_every_function_of_torch_that_returns_its_inputs_memory_is_known_to():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = torch.random.get_rng_state()
        calls = list(sharing_calls())
        torch.random.set_rng_state(state)
    assert len(calls) > 100
    graph = fx.Graph()
    given = graph.placeholder("x")
    unknown = []
    for name, function, arguments in calls:
        method = getattr(torch.Tensor, name, None) is function
        target = ("call_method", name) if method else ("call_function", function)
        node = graph.create_node(*target, (given, *arguments))
        if not shares_memory(node, None):
            unknown.append(name)
    assert unknown == []


MODULES = [
    nn.Identity(), nn.Flatten(), nn.Flatten(2), nn.Unflatten(1, (2, 2)), nn.Dropout(), nn.Dropout2d(),
    nn.Dropout3d(), nn.AlphaDropout(), nn.FeatureAlphaDropout(), nn.PixelShuffle(1), nn.PixelUnshuffle(1),
    nn.ChannelShuffle(1), nn.ChannelShuffle(2), nn.ZeroPad2d(0), nn.ConstantPad2d(0, 0.0), nn.MaxPool2d(1),
    nn.Sigmoid(), nn.Upsample(scale_factor=1), nn.Hardtanh(inplace=True), nn.LeakyReLU(inplace=True), nn.SiLU(True),
    nn.ELU(), nn.GELU(), nn.Threshold(0, 0, True), nn.BatchNorm2d(4), nn.InstanceNorm2d(4), nn.GroupNorm(2, 4),
    nn.LocalResponseNorm(2),
    nn.Softmax(1), nn.AdaptiveAvgPool2d(2), nn.AdaptiveMaxPool2d(2), nn.AvgPool2d(1), nn.Hardswish(True), nn.Mish(True),
    nn.Conv2d(4, 4, 1), nn.PReLU(), nn.RReLU(inplace=True), nn.CELU(inplace=True), nn.SELU(inplace=True),
    nn.LPPool2d(1, 1), nn.ReflectionPad2d(0), nn.ReplicationPad2d(0), nn.CircularPad2d(0), nn.LayerNorm(2), nn.Tanh(),
]  # fmt: skip


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("module", MODULES, ids=repr)
def test_modules_that_return_their_inputs_memory_are_known_to(module, training):
    images = torch.rand(2, 4, 2, 2)
    found = shared(module.train(training)(images), images)
    node = fx.Graph().create_node("call_module", "m", ())
    assert shares_memory(node, module) >= found
    if isinstance(module, (nn.Conv2d, nn.BatchNorm2d, nn.GELU, nn.MaxPool2d, nn.Softmax)):
        assert not shares_memory(node, module)


def test_asking_for_a_shape_reads_no_values():
    graph = fx.Graph()
    given = graph.placeholder("x")
    assert not reads_values(graph.call_method("size", (given, 0)))
    assert not reads_values(graph.call_function(getattr, (given, "shape")))
    assert reads_values(graph.call_function(getattr, (given, "mT")))
    assert reads_values(graph.call_method("sum", (given,)))
    assert reads_values(graph.output(given))


# --- values that stay quantized --------------------------------------------------------------------------------------

HANDED_ON: dict[str, Callable[[Tensor], Tensor]] = {
    "chunk": lambda h: torch.cat(h.chunk(2, 1), 1),
    "torch.chunk": lambda h: torch.chunk(h, 2, dim=1)[1].repeat(1, 2, 1, 1),
    "split": lambda h: torch.concat((torch.split(h, 2, 1)[0], h.split(2, 1)[1]), 1),
    "unbind, stack": lambda h: torch.stack((h.unbind(1)[0], h.unbind(1)[1], h.unbind(1)[2], h.unbind(1)[3]), 1),
    "clone": lambda h: h.clone(),
    "squeeze": lambda h: h.unsqueeze(0).squeeze(0),
    "expand": lambda h: h.expand(-1, -1, -1, -1),
    "repeat": lambda h: h.repeat(1, 1, 1, 1),
    "repeat_interleave": lambda h: h.repeat_interleave(2, dim=3),
    "tile": lambda h: h.tile(1, 1, 2, 2),
    "swapaxes": lambda h: h.swapaxes(2, 3),
    "torch.swapaxes": lambda h: torch.swapaxes(h, 2, 3),
    "movedim": lambda h: torch.movedim(h, 2, 3),
    "mT": lambda h: h.mT,
    "permute": lambda h: h.permute(0, 1, 3, 2),
    "roll": lambda h: torch.roll(h, 1, 2),
    "flip": lambda h: h.flip(3),
    "narrow": lambda h: h.narrow(2, 0, 4),
    "index_select": lambda h: h.index_select(1, torch.arange(4)),
    "F.pad": lambda h: F.pad(h, (1, 1, 1, 1)),
    "F.pad, reflected": lambda h: F.pad(h, (1, 1, 1, 1), mode="reflect"),
    "F.dropout": lambda h: F.dropout(h, 0.5),
    "torch.dropout": lambda h: torch.dropout(h, 0.5, True),
    "F.dropout2d": lambda h: F.dropout2d(h),
    "F.feature_alpha_dropout": lambda h: F.feature_alpha_dropout(h),
    "F.adaptive_max_pool2d": lambda h: F.adaptive_max_pool2d(h, 4),
    "F.adaptive_avg_pool2d": lambda h: F.adaptive_avg_pool2d(h, 4),
    "F.max_pool2d": lambda h: F.max_pool2d(h, 2),
    "F.max_pool2d, indices": lambda h: F.max_pool2d(h, 2, return_indices=True)[0],
    "amax": lambda h: h.amax((2, 3), keepdim=True),
    "torch.max": lambda h: torch.max(h, dim=3, keepdim=True)[0],
    "mean": lambda h: h.mean((2, 3), keepdim=True),
    "F.interpolate": lambda h: F.interpolate(h, scale_factor=2),
    "F.interpolate, nearest": lambda h: F.interpolate(h, scale_factor=2, mode="nearest-exact"),
    "F.pixel_shuffle": lambda h: F.pixel_unshuffle(F.pixel_shuffle(h, 2), 2),
    "F.channel_shuffle": lambda h: F.channel_shuffle(h, 2),
    "float": lambda h: h.float().to(torch.float32).contiguous(),
    "getitem": lambda h: h[..., 1:],
    "named": lambda h: torch.cat(dim=1, tensors=(h, h))[:, :4],
}
HANDING_MODULES = [
    nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveMaxPool2d(2), nn.AdaptiveAvgPool2d(2), nn.FractionalMaxPool2d(2, 2),
    nn.ZeroPad2d(1), nn.ConstantPad2d(1, 0.0), nn.ReflectionPad2d(1), nn.ReplicationPad2d(1), nn.CircularPad2d(1),
    nn.Dropout(), nn.Dropout1d(), nn.Dropout2d(), nn.Dropout3d(), nn.AlphaDropout(), nn.FeatureAlphaDropout(),
    nn.Identity(), nn.ChannelShuffle(2), nn.Upsample(scale_factor=2), nn.UpsamplingNearest2d(scale_factor=2),
    nn.Sequential(nn.PixelShuffle(2), nn.PixelUnshuffle(2)), nn.Sequential(nn.Flatten(2), nn.Unflatten(2, (8, 8))),
]  # fmt: skip
COMPUTED: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "times": lambda h: 2 * h,
    "plus": lambda h: h + h.mean(),
    "in place": lambda h: h.mul_(2.0),
    "bilinear": lambda h: F.interpolate(h, scale_factor=2, mode="bilinear"),
    "silu": lambda h: F.silu(h, inplace=True),
    "cat with a float": lambda h: torch.cat((h[:, :2], h[:, 2:] * 1.5), 1),
    "softmax": lambda h: h.softmax(1),
}


class Between(nn.Module):
    """A step between a ReLU and the layer after it."""

    def __init__(self, step: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.r, self.b, self.step = nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), step

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.step(self.r(self.a(x))))


@pytest.mark.parametrize(
    "step",
    [*HANDED_ON.values(), *HANDING_MODULES],
    ids=[*HANDED_ON, *(repr(m).replace("\n", "") for m in HANDING_MODULES)],
)
def test_a_layer_behind_a_step_that_hands_values_on_has_a_quantized_input(step):
    _, done = quantize_model(Between(step), 4, 4, first_last_bits=None)
    assert (done.float_inputs, done.untraced, done.warnings) == ((), "", [])


@pytest.mark.parametrize("name", COMPUTED)
def test_a_layer_behind_a_step_that_computes_has_a_float_input(name):
    with pytest.warns(UserWarning, match=r"float inputs: b$"):
        _, done = quantize_model(Between(COMPUTED[name]), 4, 4, first_last_bits=None, inputs="relu_only")
    assert done.float_inputs == ("b",)


@pytest.mark.parametrize("name", HANDED_ON)
def test_what_hands_values_on_invents_none(name):
    """Every value that comes out is one that went in, or 0, or an average or a dropout's multiple of them."""
    torch.manual_seed(0)
    values = torch.rand(2, 4, 8, 8)
    out = HANDED_ON[name](values)
    if name not in ("mean", "F.adaptive_avg_pool2d") and "dropout" not in name:
        assert torch.isin(out, torch.cat((values.flatten(), torch.zeros(1)))).all()


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_upsampling_hands_on_where_it_takes_the_nearest(mode):
    node = fx.Graph().create_node("call_module", "up", ())
    assert hands_on(node, nn.Upsample(scale_factor=2, mode=mode)) == (mode == "nearest")
