"""Set the activations' step sizes from training batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from brsweep.errors import BrsweepError
from brsweep.quant.layers import QuantizedClippedReLU


@torch.no_grad()
def calibrate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Initialise every activation quantizer that has no step size, from `batches` of images [B, C, H, W].

    One forward pass over all batches together, batch norm in evaluation: each site, when the pass reaches it, takes
    its step size from what it receives, with everything before it quantized already. LSQ says "the first batch";
    batches are the caller's to choose. Values that are all zero give the floor. The network's mode is put back.

    Raises `BrsweepError` naming a site that runs twice in a forward pass, or one that never runs.
    """
    images = list(batches)
    if not images:
        raise BrsweepError("calibrate: no batch was given; pass at least one batch of training images")
    sites = {name: module for name, module in model.named_modules() if _quantizer_of(module) is not None}
    modes = {module: module.training for module in model.modules()}
    calls: Counter[str] = Counter()
    handles = [module.register_forward_pre_hook(_initialise(name, calls)) for name, module in sites.items()]
    try:
        model.eval()
        model(torch.cat(images))
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    for name in sites:
        if not calls[name]:
            raise BrsweepError(f"{name}: this activation did not run in the forward pass, so it has no step size")


def _quantizer_of(module: nn.Module) -> nn.Module | None:
    """The quantizer of an activation site, or of a layer's input where it has one."""
    return module.quantizer if isinstance(module, QuantizedClippedReLU) else getattr(module, "input_quantizer", None)


def _initialise(name: str, calls: Counter[str]):
    """A hook on the module around the quantizer, before which the quantizer itself has not run."""

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls[name] += 1
        if calls[name] > 1:
            raise BrsweepError(
                f"{name}: runs twice in one forward pass, so one step size would serve two distributions; give each "
                f"place a module of its own"
            )
        quantizer = _quantizer_of(module)
        if quantizer.initialised:
            return
        try:
            (module if isinstance(module, QuantizedClippedReLU) else quantizer).init_from(inputs[0])
        except BrsweepError as error:
            raise BrsweepError(f"{name}: {error}") from None
        if not quantizer.initialised:
            raise BrsweepError(f"{name}: {type(quantizer).__name__}.init_from left the step size NaN")

    return before
