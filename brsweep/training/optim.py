"""Parameter groups and the optimizer: each parameter in exactly one group.

    weights   convolution and linear weights             lr, weight_decay
    alphas    what sets the quantizers' levels           alpha_lr, alpha_weight_decay (LSQ is silent; 0 by default)
    norms     normalization parameters and all biases    lr, norm_weight_decay
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from brsweep.errors import BrsweepError
from brsweep.quant.quantizer import Quantizer

GROUP_OPTIONS = ("lr", "weight_decay", "alpha_lr", "alpha_weight_decay", "norm_weight_decay")
"""What `build_optimizer` takes for itself; everything else goes to the optimizer's constructor."""


def parameter_groups(model: nn.Module) -> dict[str, dict[str, nn.Parameter]]:
    """Group name -> parameter name -> parameter, for every parameter of the model that requires a gradient."""
    quantizers = [module for module in model.modules() if isinstance(module, Quantizer)]
    alphas = {id(parameter) for quantizer in quantizers for parameter in quantizer.level_parameters()}
    groups: dict[str, dict[str, nn.Parameter]] = {"weights": {}, "alphas": {}, "norms": {}}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            group = "alphas" if id(parameter) in alphas else "weights" if parameter.dim() > 1 else "norms"
            groups[group][name] = parameter
    return groups


def build_optimizer(
    factory: Callable[..., torch.optim.Optimizer], model: nn.Module, options: Mapping[str, Any]
) -> torch.optim.Optimizer:
    """The optimizer over the model's groups; each group carries its `name` and its base learning rate `initial_lr`."""
    rates = {"weights": options["lr"], "alphas": options["alpha_lr"], "norms": options["lr"]}
    decay = {
        "weights": options["weight_decay"],
        "alphas": options["alpha_weight_decay"],
        "norms": options["norm_weight_decay"],
    }
    groups = [
        {
            "params": list(parameters.values()),
            "lr": rates[name],
            "weight_decay": decay[name],
            "name": name,
            "initial_lr": rates[name],
        }
        for name, parameters in parameter_groups(model).items()
        if parameters
    ]
    arguments = {key: value for key, value in options.items() if key not in GROUP_OPTIONS}
    optimizer = factory(groups, lr=options["lr"], **arguments)
    check_partition(optimizer, model)
    return optimizer


def check_partition(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Raise `BrsweepError` unless the optimizer holds every trained parameter of the model exactly once."""
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    wrong = [name for key, name in names.items() if held.count(key) != 1]
    if wrong or set(held) - set(names):
        raise BrsweepError(f"optimizer: these parameters are not in exactly one group: {', '.join(wrong) or 'unknown'}")


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def freeze_alphas(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Freeze every quantizer's step size and return their names: from here on each keeps every bit.

    No gradient, no momentum and no decay reaches them: they leave the optimizer altogether.
    """
    frozen = parameter_groups(model)["alphas"]
    for parameter in frozen.values():
        parameter.requires_grad_(False)
        parameter.grad = None
        optimizer.state.pop(parameter, None)
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["name"] != "alphas"]
    return list(frozen)
