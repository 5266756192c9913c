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
    quantizers = _activation_quantizers(model)
    modes = {module: module.training for module in model.modules()}
    calls: Counter[str] = Counter()
    handles = [q.register_forward_pre_hook(_initialise(name, q, calls)) for name, q in quantizers.items()]
    try:
        model.eval()
        model(torch.cat(images))
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    for name in quantizers:
        if not calls[name]:
            raise BrsweepError(f"{name}: this activation did not run in the forward pass, so it has no step size")


def _activation_quantizers(model: nn.Module) -> dict[str, nn.Module]:
    """The quantizer of each activation site, and of each layer's input where it has one, by the module's name."""
    quantizers = {}
    for name, module in model.named_modules():
        if isinstance(module, QuantizedClippedReLU):
            quantizers[name] = module.quantizer
        elif getattr(module, "input_quantizer", None) is not None:
            quantizers[name] = module.input_quantizer
    return quantizers


def _initialise(name: str, quantizer: nn.Module, calls: Counter[str]):
    def before(_, inputs):
        calls[name] += 1
        if calls[name] > 1:
            raise BrsweepError(
                f"{name}: runs twice in one forward pass, so one step size would serve two distributions; give each "
                f"place a module of its own"
            )
        if not quantizer.initialised:
            try:
                quantizer.init_from(inputs[0])
            except BrsweepError as error:
                raise BrsweepError(f"{name}: {error}") from None

    return before
