"""Quantized layers: each kind computes with its weight's levels, keeps what the float layer was, and trains."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from brsweep.errors import BrsweepError
from brsweep.quant import QuantConv2d, QuantLinear, layers, quantize_model
from brsweep.quant.layers import KINDS, quantize_layer, quantized_kind
from brsweep.quant.lsq import LSQQuantizer

LAYERS = {
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3, groups=2, padding="same", padding_mode="reflect"), (2, 4, 9)),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), (2, 4, 7, 7)),
    "Conv3d": (lambda: nn.Conv3d(4, 6, (1, 2, 3), dilation=2), (2, 4, 5, 5, 7)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1, groups=2), (2, 4, 7)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 6, 3, padding=1, dilation=2), (2, 4, 7, 7)),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(4, 6, 2, bias=False), (2, 4, 3, 3, 3)),
    "Linear": (lambda: nn.Linear(4, 6), (2, 3, 4)),
}


def seeded(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(2)
    make, shape = LAYERS[name]
    return make(), torch.randn(*shape)


def test_the_table_holds_every_kind():
    assert {kind.__name__ for kind in KINDS} == LAYERS.keys()
    assert {quantized.__name__ for quantized in KINDS.values()} == {f"Quant{name}" for name in LAYERS}


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_computes_with_its_weights_levels(name, per_channel):
    layer, values = seeded(name)
    axis = 1 if "Transpose" in name else 0
    quantized = KINDS[type(layer)].from_float(layer, 3, per_channel)
    latent, alpha = layer.weight.detach(), quantized.weight_quantizer.alpha.detach()
    assert alpha.shape == ((layer.weight.shape[axis],) if per_channel else ())
    if per_channel:
        shape = [1] * latent.dim()
        shape[axis] = -1
        means = latent.abs().double().movedim(axis, 0).flatten(1).mean(1)
        torch.testing.assert_close(alpha, (2 * means / 3**0.5).float())
        alpha = alpha.view(shape)
    reference = copy.deepcopy(layer)
    reference.weight.data = (latent / alpha).clamp(-4, 3).round() * alpha
    assert torch.equal(quantized(values), reference(values))
    assert torch.equal(quantized.weight, latent)
    assert quantized.weight is not layer.weight
    assert list(quantized.state_dict()) == [*layer.state_dict(), "weight_quantizer.alpha"]


@pytest.mark.parametrize("name", [name for name in LAYERS if "Transpose" in name])
def test_a_transposed_layer_takes_an_output_size(name):
    make = getattr(nn, name)
    layer = make(2, 2, 3, stride=2)
    values = torch.randn(1, 2, *(3,) * (layer.weight.dim() - 2))
    size = [8] * (layer.weight.dim() - 2)
    quantized = KINDS[make].from_float(layer, 8)
    assert quantized(values, output_size=size).shape == layer(values, output_size=size).shape == (1, 2, *size)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_made_by_its_constructor_is_the_one_made_from_a_float_one(name):
    layer, values = seeded(name)
    made = KINDS[nn.Linear](4, 6, bits=3) if name == "Linear" else None
    if made is None:
        options = {key: getattr(layer, key) for key in ("stride", "padding", "dilation", "groups", "padding_mode")}
        options |= {"output_padding": layer.output_padding} if "Transpose" in name else {}
        bias = layer.bias is not None
        made = KINDS[type(layer)](4, 6, layer.kernel_size, bias=bias, bits=3, **options)
    quantized = KINDS[type(layer)].from_float(layer, 3)
    made.load_state_dict(quantized.state_dict())
    assert torch.equal(made(values), quantized(values))


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_those_of_the_quantizer_and_of_the_float_layer(name):
    layer, values = seeded(name)
    quantized = KINDS[type(layer)].from_float(layer, 3)
    quantized(values).square().sum().backward()
    levels = quantized.weight_quantizer(quantized.weight).detach()
    reference = copy.deepcopy(layer)
    reference.weight.data = levels
    reference(values).square().sum().backward()
    weight = quantized.weight.detach().requires_grad_()
    again = copy.deepcopy(quantized.weight_quantizer)
    again.alpha.grad = None
    again(weight).backward(reference.weight.grad)
    assert torch.equal(quantized.weight.grad, weight.grad)
    assert torch.equal(quantized.weight_quantizer.alpha.grad, again.alpha.grad)
    assert layer.bias is None or torch.equal(quantized.bias.grad, reference.bias.grad)


@pytest.mark.parametrize("name", LAYERS)
def test_a_copy_and_a_compiled_layer_compute_the_same(name):
    layer, values = seeded(name)
    quantized = KINDS[type(layer)].from_float(layer, 3)
    copied = copy.deepcopy(quantized)
    assert type(copied) is type(quantized)
    assert torch.equal(copied(values), quantized(values))
    torch.compiler.reset()
    compiled = torch.compile(quantized, backend="eager")
    assert torch.equal(compiled(values), quantized(values))


class Named(nn.Conv2d):
    """A subclass that computes as `nn.Conv2d` does."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 1)
        self.kept = "kept"

    def train(self, mode: bool = True) -> nn.Module:
        return super().train(False)


def test_a_subclass_that_computes_alike_is_quantized_and_keeps_its_methods():
    net = nn.Sequential(Named(3), nn.ReLU(), Named(3), nn.ReLU())
    model, done = quantize_model(net, 2, 2, first_last_bits=None)
    assert [s.name for s in done.sites] == ["0", "1", "2", "3"]
    assert isinstance(model[0], QuantConv2d)
    assert isinstance(model[0], Named)
    assert type(model[0]) is type(model[2])
    assert type(model[0]).__name__ == "QuantNamed"
    assert model[0].kept == "kept"
    model.train()
    assert (model[0].training, model[1].training) == (False, True)
    assert torch.equal(copy.deepcopy(model)[0].weight, net[0].weight)


def test_what_makes_a_layer_one_that_can_be_quantized():
    class Twice(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    assert quantized_kind(nn.Linear(2, 2)) is QuantLinear
    assert quantized_kind(Twice(2, 2)) is None
    assert quantized_kind(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))) is None
    assert quantized_kind(nn.Bilinear(2, 2, 2)) is None
    patched = nn.Linear(2, 2)
    patched.forward = Twice.forward.__get__(patched)
    assert quantized_kind(patched) is None
    with pytest.raises(BrsweepError, match="QuantConv2d: a Linear is no layer of this kind"):
        QuantConv2d.from_float(nn.Linear(2, 2), 2)


def test_a_layer_in_place_stays_the_object_with_its_parameters():
    layer = nn.Linear(4, 4).double().eval()
    weight, bias = layer.weight, layer.bias
    quantize_layer(layer, 2, False, LSQQuantizer)
    assert (type(layer), layer.weight, layer.bias) == (QuantLinear, weight, bias)
    assert layer.weight_quantizer.alpha.dtype == torch.float64
    assert not layer.weight_quantizer.training


def test_public_names():
    import brsweep.quant

    assert {cls.__name__ for cls in KINDS.values()} <= set(brsweep.quant.__all__)
    assert brsweep.quant.QuantConvTranspose2d is layers.QuantConvTranspose2d
