"""Tracing a network with `torch.fx`, and what a trace, or the quantizers in it, would silently change.

A ReLU that works in place also changes its input for whoever reads that memory again, under whatever name, and a
quantizer returns a new tensor. A `torch.fx.GraphModule` holds the steps of one mode, training or evaluation, without
what goes on around them: gradients switched off for a part, hooks, methods other than `forward`. All of it is refused.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from itertools import zip_longest

import torch
import torch.nn.functional as F
from torch import fx, nn

from brsweep.errors import BrsweepError
from brsweep.quant.layers import ClippedReLU, keeps_forward, quantized_kind
from brsweep.quant.steps import IN_PLACE_OPERATORS, in_place, reads_values, shares_memory, source, works_in_place

RELU_MODULES = (nn.ReLU, nn.ReLU6, ClippedReLU)
RELU_FUNCTIONS = {F.relu: nn.ReLU, torch.relu: nn.ReLU, torch.relu_: nn.ReLU, F.relu_: nn.ReLU, F.relu6: nn.ReLU6}
RELU_METHODS = ("relu", "relu_")
BESIDE_FORWARD = ("train", "state_dict", "_save_to_state_dict", "load_state_dict", "_load_from_state_dict", "_apply")
"""Methods whose own version a GraphModule would not have."""


class Proxy(fx.Proxy):
    """Records `h += 1` as what it is; torch's own records `h + 1`, and other names of that memory would not see it."""


for _operation in IN_PLACE_OPERATORS:

    def _record(self: Proxy, other, operation: str = _operation):
        return self.tracer.create_proxy("call_function", in_place, (operation, self, other), {})

    setattr(Proxy, f"__{_operation}__", _record)


class Tracer(fx.Tracer):
    """Takes every ReLU module and every layer that can be quantized as one step, and runs no module's hooks."""

    def proxy(self, node: fx.Node) -> Proxy:
        return Proxy(node, self)

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return is_relu(module) or quantized_kind(module) is not None or super().is_leaf_module(module, name)

    def call_module(self, module: nn.Module, forward, args, kwargs):
        return super().call_module(module, module.forward, args, kwargs)

    def create_node(self, *args, **kwargs) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        autocast = [torch.is_autocast_enabled(device) for device in ("cpu", "cuda")]
        node.meta["surroundings"] = (torch.is_grad_enabled(), *autocast)
        return node


def trace(model: nn.Module) -> fx.Graph:
    """The steps of `model` in its present mode, with its optional arguments left out.

    What runs is a copy of the model: a forward pass may leave things behind.
    """
    optional = {
        name: parameter.default
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if isinstance(parameter.default, (type(None), bool, int, float, str))
    }
    return Tracer().trace(copy.deepcopy(model), optional or None)


def module_at(model: nn.Module, node: fx.Node) -> nn.Module | None:
    """The module that a `call_module` node calls; None for other nodes."""
    return model.get_submodule(node.target) if node.op == "call_module" else None


def is_relu(module: nn.Module | None) -> bool:
    """Whether the module is a ReLU, clipped or not, that computes as its class in torch does."""
    return any(isinstance(module, kind) and keeps_forward(module, kind) for kind in RELU_MODULES)


def functional_relu(node: fx.Node) -> bool:
    """Whether the node is a ReLU that is no module."""
    return (node.op == "call_function" and node.target in RELU_FUNCTIONS) or (
        node.op == "call_method" and node.target in RELU_METHODS
    )


def has_hooks(module: nn.Module) -> bool:
    return any(hooks for key, hooks in vars(module).items() if key.endswith("_hooks"))


def refuse_aliases(model: nn.Module, graph: fx.Graph) -> None:
    """Raise `BrsweepError` naming an in-place ReLU whose input's memory is read again after it.

    The memory is followed through every step that may share it, from the input back to where it came from and on to
    each view of that. Parts of one tensor count as sharing, whether they overlap or not.
    """
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        module = module_at(model, node)
        if not (is_relu(module) or functional_relu(node)) or not works_in_place(node, module):
            continue
        for other in _sharing(model, node):
            later = any(order[user] > order[node] and reads_values(user) for user in other.users)
            if later or other.op == "get_attr":
                raise BrsweepError(f"{node}: this ReLU works in place and its input is read again; use what it returns")


def _sharing(model: nn.Module, relu: fx.Node) -> set[fx.Node]:
    """The nodes whose value may lie in the memory of an in-place ReLU's input, the ReLU's own result apart."""
    found: set[fx.Node] = set()
    waiting = [source(relu)]
    while waiting:
        node = waiting.pop()
        if node in found or not isinstance(node, fx.Node):
            continue
        found.add(node)
        if node.op.startswith("call") and shares_memory(node, module_at(model, node)):
            before = source(node)
            waiting += before if isinstance(before, (list, tuple)) else [before]
        users = (user for user in node.users if user is not relu and user.op.startswith("call"))
        waiting += [user for user in users if shares_memory(user, module_at(model, user))]
    return found


def refuse_losses(model: nn.Module, graph: fx.Graph) -> None:
    """Raise `BrsweepError` with the first thing that the network would lose as a `torch.fx.GraphModule`."""
    _refuse_modes(model)
    surroundings = [node.meta["surroundings"] for node in graph.nodes]
    for node in graph.nodes:
        if node.meta["surroundings"] != surroundings[0]:
            _refuse(f"the torch.no_grad, enable_grad or autocast around {node}", "give each place a ReLU module")
    steps = {node.target for node in graph.nodes if node.op == "call_module"}
    for name, module in model.named_modules():
        if name in steps:
            continue
        if has_hooks(module):
            _refuse(f"the hooks of {_called(name)}", "remove them, or give each place a ReLU module")
        for method in BESIDE_FORWARD:
            if getattr(type(module), method) is not getattr(nn.Module, method) or method in vars(module):
                _refuse(f"the method {method} of {_called(name)}", "give each place a ReLU module")


def _refuse(what: str, cure: str) -> None:
    raise BrsweepError(f"tracing, which a network that shares ReLUs needs, would lose {what}; {cure}")


def _called(name: str) -> str:
    return name or "the network itself"


def _refuse_modes(model: nn.Module) -> None:
    modes = {module: module.training for module in model.modules()}
    steps = []
    for mode in (True, False):
        for module in modes:
            module.training = mode
        steps.append(list(_steps(trace(model))))
    for module, training in modes.items():
        module.training = training
    for one, other in zip_longest(*steps):
        if one != other:
            raise BrsweepError(
                f"tracing, which a network that shares ReLUs needs, would fix training or evaluation at {one or other};"
                f" give each place a ReLU module, or use modules for what differs between the two"
            )


def _steps(graph: fx.Graph) -> Iterator[str]:
    for n in graph.nodes:
        yield f"{n.op} {getattr(n.target, '__name__', n.target)} {n.args} {dict(n.kwargs)}"
