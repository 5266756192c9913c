"""Capture whole pre-quantization activations, with their graph: for any regularizer that needs more than bin sums."""

from __future__ import annotations

from torch import Tensor, nn

from brsweep.errors import BrsweepError
from brsweep.quant.layers import QuantizedClippedReLU


class ActivationHookManager:
    """While open, keeps what each activation quantizer of `model` receives: after the ReLU and its clip.

        with ActivationHookManager(model) as hooks:
            logits = model(images)
            penalty = mine(hooks.get_pre_quant_activations())

    Each forward pass wants a fresh look: `clear` before the next one, or open it anew. A site that runs twice in
    between raises `BrsweepError`. Leaves no hook and no tensor behind when closed, whatever ended it.
    """

    def __init__(self, model: nn.Module) -> None:
        self._quantizers = {
            name: module.quantizer for name, module in model.named_modules() if isinstance(module, QuantizedClippedReLU)
        }
        self._captured: dict[str, Tensor] = {}
        self._handles: list = []

    def __enter__(self) -> ActivationHookManager:
        for name, quantizer in self._quantizers.items():
            self._handles.append(quantizer.register_forward_pre_hook(self._capture(name)))
        return self

    def __exit__(self, *_) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._captured.clear()

    def get_pre_quant_activations(self) -> dict[str, Tensor]:
        """Site name -> the tensor its quantizer received, in the order of execution, with its graph."""
        return dict(self._captured)

    def clear(self) -> None:
        """Forget the captured tensors: call it between two forward passes."""
        self._captured.clear()

    def _capture(self, name: str):
        def before(_, inputs) -> None:
            if name in self._captured:
                raise BrsweepError(f"{name}: ran twice; call clear() between forward passes, or give each place a site")
            self._captured[name] = inputs[0]

        return before
