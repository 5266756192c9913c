"""Which of torch's operators have no deterministic form on CUDA, and which layers of a network call one.

In deterministic mode such an operator raises there, and only there: most of them in the backward pass, so that a
network trains on a CPU and stops on a GPU. The table follows the documentation of
`torch.use_deterministic_algorithms` (a test holds it to that of the installed torch), less what `torch.nn.functional`
itself replaces in that mode: linear, bilinear and trilinear interpolation. Operators are watched on the CPU, by a
dispatch mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

DIFFERENTIATED = {
    "avg_pool3d": "AvgPool3d",
    "_adaptive_avg_pool2d": "AdaptiveAvgPool2d",
    "_adaptive_avg_pool3d": "AdaptiveAvgPool3d",
    "adaptive_max_pool2d": "AdaptiveMaxPool2d",
    "fractional_max_pool2d": "FractionalMaxPool2d",
    "fractional_max_pool3d": "FractionalMaxPool3d",
    "upsample_bicubic2d": "interpolate",
    "_upsample_bilinear2d_aa": "interpolate",
    "_upsample_bicubic2d_aa": "interpolate",
    "reflection_pad1d": "ReflectionPad1d",
    "reflection_pad2d": "ReflectionPad2d",
    "reflection_pad3d": "ReflectionPad3d",
    "_ctc_loss": "CTCLoss",
    "_embedding_bag": "EmbeddingBag",
    "grid_sampler_2d": "grid_sample",
    "grid_sampler_3d": "grid_sample",
}
"""Operator -> its name in torch's documentation: those whose backward raises. Adaptive pooling to 1x1 is a mean, and
none of them."""

CALLED = {
    "max_unpool2d": "MaxUnpool2d",  # that of one dimension calls it as well
    "max_unpool3d": "MaxUnpool3d",
    "nll_loss2d_forward": "NLLLoss",  # of images; that of [batch, classes] is deterministic
    "put": "put_",
    "put_": "put_",
    "histc": "histc",
    "bincount": "bincount",
    "median": "median",
    "nanmedian": "median",
    "cumsum": "cumsum",
    "scatter_reduce": "scatter_reduce",
    "scatter_reduce_": "scatter_reduce",
}
"""Operator -> its name there: those that raise when they are called, some of them with some arguments alone."""

MAX_BAGS = 2
"""The mode of an embedding bag that takes the largest."""


class Watch(TorchDispatchMode):
    """Notes the operators that run, by name, and of those that raise on CUDA (name, layer), in order."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.raising: dict[tuple[str, str], None] = {}
        self.layers: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, kwargs = function.overloadpacket.__name__, kwargs or {}
        self.names.add(name)
        if raises_on_cuda(name, function, args, kwargs):
            self.raising[name, next((layer for layer in reversed(self.layers) if layer), "")] = None
        return function(*args, **kwargs)

    @contextmanager
    def inside(self, model: nn.Module) -> Iterator[Watch]:
        """Watch calls of the model, with the names of its layers."""
        handles = []
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(lambda *_, name=name: self.layers.append(name)))
            handles.append(module.register_forward_hook(self._leave, always_call=True))
        try:
            with self:
                yield self
        finally:
            self.layers.clear()
            for handle in handles:
                handle.remove()

    def _leave(self, *_: Any) -> None:
        self.layers.pop()

    def words(self) -> str:
        """`pool (AdaptiveAvgPool2d)`, for each layer with an operator that raises; empty for none."""
        documented = DIFFERENTIATED | CALLED
        found = {f"{layer or 'outside of layers'} ({documented[name]})": None for name, layer in self.raising}
        return ", ".join(found)


def raises_on_cuda(name: str, function: Any, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether CUDA has no deterministic form of this call, or of its gradient where one is kept."""
    stem = name.removesuffix("_backward")
    if stem in DIFFERENTIATED:
        if stem == "_embedding_bag" and MAX_BAGS not in args[4:5]:
            return False
        return stem != name or (torch.is_grad_enabled() and any(_needs_gradient(given) for given in args))
    if name == "cumsum":
        return args[0].is_floating_point()
    if name == "bincount":
        return (len(args) > 1 and args[1] is not None) or kwargs.get("weights") is not None
    if name in ("median", "nanmedian"):
        return len(function._schema.returns) > 1
    if name.startswith("scatter_reduce"):
        return "prod" in (*args, kwargs.get("reduce"))
    return name in CALLED


def _needs_gradient(given: Any) -> bool:
    return isinstance(given, Tensor) and given.requires_grad
