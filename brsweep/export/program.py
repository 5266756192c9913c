"""The exported program of a network with its sites marked: what a translation and a table of costs walk over."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, fx

from brsweep.export.levels import ActivationLevels, Levels, WeightLevels
from brsweep.export.load import Network
from brsweep.export.plain import exported, marked_network

SITE = "brsweep.site.default"
PRODUCTS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear")
KEEPS_LEVELS = frozenset((
    "max_pool1d", "max_pool2d", "max_pool3d", "flatten", "view", "reshape", "permute", "transpose", "slice", "pad",
    "unsqueeze", "squeeze", "contiguous", "clone", "dropout", "alias", "detach", "detach_", "cat",
))  # fmt: skip
"""Operators that move values or choose among them, zeros of a border included: what was a level stays one."""


class Program:
    """nodes: in the order of execution. tensors: placeholder's name -> (name in the network, value)."""

    def __init__(self, network: Network, levels: Mapping[tuple[str, str], Levels]) -> None:
        program = exported(marked_network(network, levels), network)
        self.levels = list(levels.values())
        self.nodes = list(program.graph.nodes)
        signature = program.graph_signature
        values = {**program.state_dict, **program.constants}
        self.tensors: dict[str, tuple[str, Tensor]] = {
            spec.arg.name: (spec.target, values[spec.target]) for spec in signature.input_specs if spec.target
        }
        self.input = next(iter(signature.user_inputs))
        self.output = signature.user_outputs[0]

    @property
    def steps(self) -> Iterator[fx.Node]:
        return (node for node in self.nodes if node.op == "call_function")

    def level(self, node: fx.Node) -> Levels | None:
        """The levels of the site that a node marks; None for any other node."""
        return self.levels[node.args[1]] if str(node.target) == SITE else None

    def value(self, node: fx.Node) -> Tensor | None:
        """The tensor that a placeholder stands for; None for a computed one."""
        return self.tensors[node.name][1] if node.name in self.tensors else None

    def activation_before(self, node: fx.Node) -> ActivationLevels | None:
        """The site whose levels a node's values are, whatever moved them since; None where they are none, or those of
        several sites."""
        level = self.level(node)
        if isinstance(level, ActivationLevels):
            return level
        if node.op != "call_function" or operator_of(node) not in KEEPS_LEVELS:
            return None
        sources = node.args[0] if isinstance(node.args[0], Sequence) else [node.args[0]]
        before = {id(found): found for found in map(self.activation_before, sources)}
        return next(iter(before.values())) if len(before) == 1 else None

    def products(self) -> Iterator[tuple[fx.Node, str, WeightLevels | None, Tensor]]:
        """Each layer of weights: its node, its name, its levels or None where it stays float, and its codes or
        values."""
        for node in self.steps:
            if operator_of(node) not in PRODUCTS:
                continue
            weight = node.args[1]
            level = self.level(weight)
            source = weight.args[0] if level is not None else weight
            if source.name in self.tensors:
                name, value = self.tensors[source.name]
                yield node, name.removesuffix(".weight"), level, value


def operator_of(node: fx.Node) -> str:
    """`conv2d` for aten.conv2d.default."""
    return str(node.target).removeprefix("aten.").partition(".")[0]


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """The shape of a node's value, -1 where it depends on the number of images."""
    return tuple(size if isinstance(size, int) else -1 for size in node.meta["val"].shape)


def multiplications(node: fx.Node, weight: Tensor) -> int:
    """Multiply-accumulate operations of a layer for one image; padding counts."""
    if operator_of(node).startswith("conv_transpose"):
        return math.prod(shape_of(node.args[0])[1:]) * math.prod(weight.shape[1:])
    return math.prod(shape_of(node)[1:]) * math.prod(weight.shape[1:])


def is_float(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)
