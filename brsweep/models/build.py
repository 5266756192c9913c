"""Build a float network for a data set: the data says how many classes and channels, the model says the rest.

A factory is any callable that takes `num_classes` and returns a module: one of this folder, one of torchvision's, or
the user's own. What the data offers beyond the classes reaches it only where its signature names it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import nn

from brsweep.errors import BrsweepError

RGB = 3


def build_model(
    factory: Callable[..., nn.Module],
    num_classes: int,
    in_channels: int,
    seed: int,
    *,
    image_size: tuple[int, int] | None = None,
    **arguments,
) -> nn.Module:
    """The module that `factory` builds on the CPU, its weights a function of `seed`; the global generator is untouched.

    seed: torch's CPU generator takes its low 32 bits.
    in_channels, image_size: passed on where the factory's signature names them. image_size is (height, width) in
        pixels; None where no data is at hand, which leaves the factory's own.
    arguments: the factory's own.

    Raises `BrsweepError` where the arguments don't fit the factory, and where images that are not RGB meet a factory
    without `in_channels`.
    """
    signature = inspect.signature(factory)
    name = f"{getattr(factory, '__module__', '')}.{getattr(factory, '__qualname__', repr(factory))}".lstrip(".")
    if "in_channels" not in signature.parameters and in_channels != RGB:
        raise BrsweepError(
            f"model={name}: takes {RGB} channels and the images have {in_channels}; "
            "choose a model whose factory takes in_channels, or RGB images"
        )
    offered = {"in_channels": in_channels} | ({} if image_size is None else {"image_size": image_size})
    arguments |= {key: value for key, value in offered.items() if key in signature.parameters}
    try:
        signature.bind(num_classes=num_classes, **arguments)
    except TypeError as error:
        takes = ", ".join(signature.parameters)
        raise BrsweepError(f"model={name}: {error}; it takes {takes}") from None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = factory(num_classes=num_classes, **arguments)
    if not isinstance(model, nn.Module):
        raise BrsweepError(f"model={name}: returns {type(model).__name__}; a factory returns a torch.nn.Module")
    return model
