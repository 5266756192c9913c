"""A copy of a float network that computes what it does, or one line that names what can't be copied."""

from __future__ import annotations

import copy
from types import FunctionType

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from brsweep.errors import BrsweepError


def copy_network(model: nn.Module) -> nn.Module:
    """A deep copy: equal weights, shared with nobody, tied ones tied again, in their memory format, hooks on modules.

    Raises `BrsweepError` naming a weight that hooks compute, a tensor that autograd made, a `forward` set
    on an object, a parameter with hooks of its own (a copy would have none) or without values.
    """
    for name, module in model.named_modules():
        at = name or type(module).__name__
        for key, value in vars(module).items():
            if isinstance(value, Tensor) and (key == "weight" or value.grad_fn is not None):
                by = ", ".join(type(hook).__name__ for hook in module._forward_pre_hooks.values()) or "its own code"
                raise BrsweepError(
                    f"{at}: its {key} is no parameter but computed ({by}), which can't be copied; remove that first "
                    f"(remove_weight_norm, remove_spectral_norm, prune.remove) or use torch.nn.utils.parametrizations"
                )
        made_again = "__getstate__" in vars(type(module))  # as in torch.compile's wrapper
        if isinstance(vars(module).get("forward"), FunctionType) and not made_again:
            raise BrsweepError(
                f"{at}: its forward is a function set on the object, which a copy would call with the original's "
                f"weights; bind it (types.MethodType) or make it a class"
            )
        for key, parameter in module.named_parameters(recurse=False):
            if isinstance(parameter, UninitializedParameter):
                raise BrsweepError(f"{at}: its {key} has no values yet; run the network once before it is converted")
            if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
                raise BrsweepError(f"{at}: hooks on its {key} can't be copied; register them on the converted network")
    return copy.deepcopy(model)
