"""A quantized network as plain torch: integer weights with their step sizes, activations as divide, clamp and round.

No module and no operator of brsweep's is left where tensors are computed, so `torch.export` writes a program that
loads anywhere. For a translation into another form, each site is one marked operator instead, `brsweep::site`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from brsweep.errors import BrsweepError
from brsweep.export.levels import ActivationLevels, Levels, WeightLevels
from brsweep.export.load import Network
from brsweep.quant.convert import INPUT
from brsweep.targets import in_a_line


class PlainWeight(nn.Module):
    """int8 codes -> float32 levels."""

    def __init__(self, levels: WeightLevels) -> None:
        super().__init__()
        shape = [1] * levels.codes.dim()
        if levels.steps.dim():
            shape[levels.axis] = -1
        self.register_buffer("step", levels.steps.reshape(shape if levels.steps.dim() else ()))

    def forward(self, codes: Tensor) -> Tensor:
        return codes.to(self.step.dtype) * self.step


class PlainActivation(nn.Module):
    """Values -> levels; a ReLU and its clip are in the clamp."""

    def __init__(self, levels: ActivationLevels) -> None:
        super().__init__()
        self.lowest, self.highest = levels.lowest, levels.highest
        self.register_buffer("step", levels.step.clone())

    def forward(self, input: Tensor) -> Tensor:
        return (input / self.step).clamp(self.lowest, self.highest).round() * self.step


@torch.library.custom_op("brsweep::site", mutates_args=())
def marked(values: Tensor, site: int) -> Tensor:
    """The `site`-th site's levels, of which only the shape and type are computed."""
    return torch.empty_like(values, dtype=torch.float32)


@marked.register_fake
def _(values: Tensor, site: int) -> Tensor:
    return torch.empty_like(values, dtype=torch.float32)


class Marked(nn.Module):
    """`brsweep::site` in the place of a site."""

    def __init__(self, site: int) -> None:
        super().__init__()
        self.site = site

    def forward(self, input: Tensor) -> Tensor:
        return torch.ops.brsweep.site(input, self.site)


def plain_network(network: Network, levels: Mapping[tuple[str, str], Levels]) -> nn.Module:
    """The network in plain modules, float32, on the CPU, in evaluation mode; its integer weights are int8."""
    return _rebuilt(network, levels, lambda index, of: (PlainWeight if _is_weight(of) else PlainActivation)(of))


def marked_network(network: Network, levels: Mapping[tuple[str, str], Levels]) -> nn.Module:
    """The same with a marked operator at each site, which counts in the order of `levels`."""
    return _rebuilt(network, levels, lambda index, of: Marked(index))


def exported(model: nn.Module, network: Network) -> ExportedProgram:
    """`torch.export` of a network of this room, for float32 images [N, C, H, W] of any N.

    Raises `BrsweepError` where the network can't be exported.
    """
    preprocess = network.preprocess
    images = torch.zeros(2, preprocess.channels, *preprocess.size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of its deprecated parts
        try:
            return torch.export.export(model, (images,), dynamic_shapes=({0: Dim("N", min=1)},))
        except Exception as error:  # a network's forward may stop the tracer in any way
            raise BrsweepError(f"{network.folder}: torch.export can't take this network: {in_a_line(error)}") from None


def _is_weight(levels: Levels) -> bool:
    return isinstance(levels, WeightLevels)


@torch.no_grad()
def _rebuilt(
    network: Network, levels: Mapping[tuple[str, str], Levels], make: Callable[[int, Levels], nn.Module]
) -> nn.Module:
    model = copy.deepcopy(network.model).cpu().to(memory_format=torch.contiguous_format)
    for index, ((kind, name), of) in enumerate(levels.items()):
        if kind == "weight":
            layer = model.get_submodule(name)
            layer.weight = nn.Parameter(of.codes, requires_grad=False)
            layer.weight_quantizer = make(index, of)
        elif (layer := _holder(model, name)) is not None:
            layer.input_quantizer = make(index, of)
        else:
            _replace(model, name, make(index, of))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()


def _holder(model: nn.Module, site: str) -> nn.Module | None:
    """The layer whose own input the site is; None for a ReLU's."""
    name, _, last = site.rpartition(".")
    layer = dict(model.named_modules()).get(name) if last == INPUT else None
    return layer if getattr(layer, "input_quantizer", None) is not None else None


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Everywhere where the module at `name` stands."""
    old = model.get_submodule(name)
    for holder in model.modules():
        for key, child in holder.named_children():
            if child is old:
                setattr(holder, key, module)
