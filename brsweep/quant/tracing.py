"""Tracing a network with `torch.fx`, and the two things that a trace, or the quantizers in it, would silently change.

A ReLU that works in place also changes its input for whoever reads that again, and a quantizer returns a new tensor;
a trace holds the steps of one mode, training or evaluation. Both are refused.
"""

from __future__ import annotations

from itertools import zip_longest

import torch
import torch.nn.functional as F
from torch import fx, nn

from brsweep.errors import BrsweepError
from brsweep.quant.layers import ClippedReLU

RELU_MODULES = (nn.ReLU, nn.ReLU6, ClippedReLU)
RELU_FUNCTIONS = {F.relu: nn.ReLU, torch.relu: nn.ReLU, torch.relu_: nn.ReLU, F.relu_: nn.ReLU, F.relu6: nn.ReLU6}
RELU_METHODS = ("relu", "relu_")


class Tracer(fx.Tracer):
    """Takes every ReLU module as one step, a clipped one too."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, RELU_MODULES) or super().is_leaf_module(module, name)


def module_at(model: nn.Module, node: fx.Node) -> nn.Module:
    """The module that a `call_module` node calls."""
    return model.get_submodule(node.target)


def functional_relu(node: fx.Node) -> bool:
    """Whether the node is a ReLU that is no module."""
    return (node.op == "call_function" and node.target in RELU_FUNCTIONS) or (
        node.op == "call_method" and node.target in RELU_METHODS
    )


def source(node: fx.Node):
    """A node's first argument, by position or by name: a node, or a list of them for `torch.cat`."""
    return node.args[0] if node.args else node.kwargs.get("input", node.kwargs.get("tensors"))


def refuse_aliases(model: nn.Module, graph: fx.Graph) -> None:
    """Raise `BrsweepError` naming an in-place ReLU whose input is read again after it."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if _in_place(model, node) and any(order[user] > order[node] for user in source(node).users):
            raise BrsweepError(f"{node}: this ReLU works in place and its input is read again; use what it returns")


def refuse_modes(model: nn.Module) -> None:
    """Raise `BrsweepError` with the first step that differs between training and evaluation."""
    modes = {module: module.training for module in model.modules()}
    steps = [_steps(Tracer().trace(model.train(mode))) for mode in (True, False)]
    for module, training in modes.items():
        module.training = training
    for one, other in zip_longest(*steps):
        if one != other:
            raise BrsweepError(
                f"tracing, which a network that shares ReLUs needs, would fix training or evaluation at {one or other};"
                f" give each place a ReLU module, or use modules for what differs between the two"
            )


def _steps(graph: fx.Graph) -> list[str]:
    return [f"{n.op} {getattr(n.target, '__name__', n.target)} {n.args} {dict(n.kwargs)}" for n in graph.nodes]


def _in_place(model: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        module = module_at(model, node)
        return isinstance(module, RELU_MODULES) and getattr(module, "inplace", False)
    name = getattr(node.target, "__name__", str(node.target))
    return functional_relu(node) and (name.endswith("_") or bool(node.kwargs.get("inplace")))
