"""torch's operators as ONNX's: one short function for each that networks of images are made of.

A function gets the graph under construction and a node of the exported program, and returns the name of its value.
What is not in `TRANSLATIONS` is no fault: the network is refused with the operator's name before anything is written.
To add one, write its function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import fx

from brsweep.errors import BrsweepError
from brsweep.export.extra import wanted
from brsweep.export.program import operator_of, shape_of


class Graph:
    """Nodes and constants of an ONNX graph under construction. values: node of the program -> name of its value."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self.values: dict[fx.Node, str] = {}
        self._count = 0

    def add(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """The name of the new node's value."""
        if not name:
            self._count += 1
            name = f"{operator}_{self._count}"
        helper = wanted("onnx.helper")
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def constant(self, value: np.ndarray, name: str = "") -> str:
        """The name of a constant; equal ones without a name of their own are one."""
        array = np.array(value, order="C")
        if not name:
            name = f"c_{array.dtype}_{'x'.join(map(str, array.shape))}_{array.tobytes().hex()[:40]}"
            while name in self.constants and not _same(self.constants[name], array):
                name += "_"
        tensor = wanted("onnx.numpy_helper").from_array(array, name)
        self.constants[name] = tensor
        return name

    def numbers(self, values: Sequence[int]) -> str:
        return self.constant(np.array(values, np.int64))

    def scalar(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def operand(self, value: Any) -> str:
        """What a node computes, or a number as a constant."""
        return self.values[value] if isinstance(value, fx.Node) else self.scalar(value)


Translation = Callable[[Graph, fx.Node], str]


def translate(graph: Graph, node: fx.Node) -> str:
    """Add what computes the node. Raises `BrsweepError` naming an operator, or an option of one, that has no form."""
    translation = TRANSLATIONS.get(operator_of(node))
    if translation is None:
        raise unsupported(node, "is not among those that can be exported")
    return translation(graph, node)


def unsupported(node: fx.Node, why: str) -> BrsweepError:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    place = f" in {stack[-1][0]}" if stack and stack[-1][0] else ""
    return BrsweepError(f"onnx: the operator {node.target}{place} {why}")


def _same(tensor: Any, array: np.ndarray) -> bool:
    found = wanted("onnx.numpy_helper").to_array(tensor)
    return found.dtype == array.dtype and found.shape == array.shape and found.tobytes() == array.tobytes()


def _argument(node: fx.Node, place: int, name: str, default: Any = None) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _per_axis(value: int | Sequence[int], dims: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * dims if len(values) == 1 else values


# --- layers of weights -----------------------------------------------------------------------------------------------


def _convolution(graph: Graph, node: fx.Node) -> str:
    dims = len(shape_of(node.args[1])) - 2
    options = (_argument(node, 3, "stride", 1), _argument(node, 4, "padding", 0), _argument(node, 5, "dilation", 1))
    if isinstance(options[1], str):
        raise unsupported(node, f"with padding={options[1]!r} has no form here; give the padding as numbers")
    strides, pads, dilations = (_per_axis(option, dims) for option in options)
    inputs = [graph.operand(arg) for arg in node.args[:3] if arg is not None]
    return graph.add(
        "Conv", *inputs, kernel_shape=list(shape_of(node.args[1])[2:]), strides=strides, pads=pads * 2,
        dilations=dilations, group=_argument(node, 6, "groups", 1),
    )  # fmt: skip


def _transposed_convolution(graph: Graph, node: fx.Node) -> str:
    dims = len(shape_of(node.args[1])) - 2
    strides, pads, extra = (
        _per_axis(_argument(node, place, name, default), dims)
        for place, name, default in ((3, "stride", 1), (4, "padding", 0), (5, "output_padding", 0))
    )
    inputs = [graph.operand(arg) for arg in node.args[:3] if arg is not None]
    return graph.add(
        "ConvTranspose", *inputs, kernel_shape=list(shape_of(node.args[1])[2:]), strides=strides, pads=pads * 2,
        output_padding=extra, group=_argument(node, 6, "groups", 1),
        dilations=_per_axis(_argument(node, 7, "dilation", 1), dims),
    )  # fmt: skip


def _linear(graph: Graph, node: fx.Node) -> str:
    values, weight, *bias = (graph.operand(arg) for arg in node.args if arg is not None)
    if len(shape_of(node.args[0])) == 2:
        return graph.add("Gemm", values, weight, *bias, transB=1)
    product = graph.add("MatMul", values, graph.add("Transpose", weight, perm=[1, 0]))
    return graph.add("Add", product, *bias) if bias else product


def _batch_norm(graph: Graph, node: fx.Node) -> str:
    values, weight, bias, mean, variance = node.args[:5]
    if mean is None or node.args[5]:
        raise unsupported(node, "computes with the batch's own statistics; a finished network has running ones")
    ones = np.ones(shape_of(mean), np.float32)
    inputs = (weight, ones), (bias, 0 * ones), (mean, None), (variance, None)
    scales = [graph.constant(default) if arg is None else graph.operand(arg) for arg, default in inputs]
    return graph.add("BatchNormalization", graph.operand(values), *scales, epsilon=node.args[7])


def _layer_norm(graph: Graph, node: fx.Node) -> str:
    shape, weight, bias = node.args[1], _argument(node, 2, "weight"), _argument(node, 3, "bias")
    scale = graph.constant(np.ones(shape, np.float32)) if weight is None else graph.operand(weight)
    shift = [] if bias is None else [graph.operand(bias)]
    epsilon = _argument(node, 4, "eps", 1e-5)
    return graph.add(
        "LayerNormalization", graph.operand(node.args[0]), scale, *shift, axis=-len(shape), epsilon=epsilon
    )


# --- elementwise -----------------------------------------------------------------------------------------------------


def _simply(operator: str, **attributes: Any) -> Translation:
    return lambda graph, node: graph.add(operator, graph.operand(node.args[0]), **attributes)


def _of_two(operator: str) -> Translation:
    def translation(graph: Graph, node: fx.Node) -> str:
        if node.kwargs.get("alpha", 1) != 1 or node.kwargs.get("rounding_mode"):
            raise unsupported(node, "has options without a form here")
        return graph.add(operator, graph.operand(node.args[0]), graph.operand(node.args[1]))

    return translation


def _clip(graph: Graph, node: fx.Node) -> str:
    low, high = (-1, 1) if operator_of(node).startswith("hardtanh") else (None, None)
    ends = _argument(node, 1, "min", low), _argument(node, 2, "max", high)
    return graph.add("Clip", graph.operand(node.args[0]), *("" if end is None else graph.scalar(end) for end in ends))


def _relu6(graph: Graph, node: fx.Node) -> str:
    return graph.add("Clip", graph.operand(node.args[0]), graph.scalar(0), graph.scalar(6))


def _silu(graph: Graph, node: fx.Node) -> str:
    values = graph.operand(node.args[0])
    return graph.add("Mul", values, graph.add("Sigmoid", values))


def _gelu(graph: Graph, node: fx.Node) -> str:
    return graph.add("Gelu", graph.operand(node.args[0]), approximate=node.kwargs.get("approximate", "none"))


def _softmax(graph: Graph, node: fx.Node) -> str:
    return graph.add("Softmax", graph.operand(node.args[0]), axis=node.args[1])


# --- pooling ---------------------------------------------------------------------------------------------------------


def _windows(node: fx.Node) -> dict[str, list[int]]:
    dims = len(shape_of(node)) - 2
    kernel = _per_axis(node.args[1], dims)
    strides = _per_axis(_argument(node, 2, "stride") or kernel, dims)
    return {"kernel_shape": kernel, "strides": strides, "pads": _per_axis(_argument(node, 3, "padding", 0), dims) * 2}


def _max_pool(graph: Graph, node: fx.Node) -> str:
    dilations = _per_axis(_argument(node, 4, "dilation", 1), len(shape_of(node)) - 2)
    ceil = int(_argument(node, 5, "ceil_mode", False))
    values = graph.operand(node.args[0])
    return graph.add("MaxPool", values, **_windows(node), dilations=dilations, ceil_mode=ceil)


def _average_pool(graph: Graph, node: fx.Node) -> str:
    if _argument(node, 6, "divisor_override") is not None:
        raise unsupported(node, "with divisor_override has no form here")
    ceil, border = int(_argument(node, 4, "ceil_mode", False)), int(_argument(node, 5, "count_include_pad", True))
    values = graph.operand(node.args[0])
    return graph.add("AveragePool", values, **_windows(node), ceil_mode=ceil, count_include_pad=border)


def _adaptive_average_pool(graph: Graph, node: fx.Node) -> str:
    before, after = shape_of(node.args[0])[2:], shape_of(node)[2:]
    if set(before) == {1}:
        return graph.add("Tile", graph.operand(node.args[0]), graph.numbers((1, 1, *after)))
    if any(size % out for size, out in zip(before, after, strict=True)):
        raise unsupported(node, f"from {before} to {after} has windows of several sizes, which have no form here")
    kernel = [size // out for size, out in zip(before, after, strict=True)]
    if set(after) == {1}:
        return graph.add("GlobalAveragePool", graph.operand(node.args[0]))
    return graph.add("AveragePool", graph.operand(node.args[0]), kernel_shape=kernel, strides=kernel)


def _mean(graph: Graph, node: fx.Node) -> str:
    axes, keep = _argument(node, 1, "dim"), int(_argument(node, 2, "keepdim", False))
    if axes is None:
        raise unsupported(node, "over all dimensions mixes the images of a batch")
    return graph.add("ReduceMean", graph.operand(node.args[0]), graph.numbers(_per_axis(axes, 1)), keepdims=keep)


# --- shapes ----------------------------------------------------------------------------------------------------------


def _same_value(graph: Graph, node: fx.Node) -> str:
    return graph.operand(node.args[0])


def _reshape(graph: Graph, node: fx.Node) -> str:
    shape = shape_of(node)
    if shape.count(-1) > 1:
        raise unsupported(node, "gives a shape that depends on the number of images in two places")
    return graph.add("Reshape", graph.operand(node.args[0]), graph.numbers(shape))


def _permute(graph: Graph, node: fx.Node) -> str:
    dims = len(shape_of(node))
    return graph.add("Transpose", graph.operand(node.args[0]), perm=[axis % dims for axis in node.args[1]])


def _transpose(graph: Graph, node: fx.Node) -> str:
    order = list(range(len(shape_of(node))))
    one, other = node.args[1:3]
    order[one], order[other] = order[other], order[one]
    return graph.add("Transpose", graph.operand(node.args[0]), perm=order)


def _slice(graph: Graph, node: fx.Node) -> str:
    axis, start, end, step = (
        _argument(node, place, name, default)
        for place, name, default in ((1, "dim", 0), (2, "start", None), (3, "end", None), (4, "step", 1))
    )
    if start in (None, 0) and end in (None, 2**63 - 1) and step == 1:
        return graph.operand(node.args[0])
    ends = [start or 0], [2**63 - 1 if end is None else end], [axis], [step]
    return graph.add("Slice", graph.operand(node.args[0]), *map(graph.numbers, ends))


def _pad(graph: Graph, node: fx.Node) -> str:
    if _argument(node, 2, "mode", "constant") != "constant":
        raise unsupported(node, f"with mode={node.args[2]!r} has no form here")
    dims, given = len(shape_of(node)), node.args[1]
    before, after = [0] * dims, [0] * dims
    for axis in range(len(given) // 2):
        before[-1 - axis], after[-1 - axis] = given[2 * axis], given[2 * axis + 1]
    value = graph.scalar(_argument(node, 3, "value") or 0)
    return graph.add("Pad", graph.operand(node.args[0]), graph.numbers([*before, *after]), value)


def _concatenate(graph: Graph, node: fx.Node) -> str:
    return graph.add("Concat", *map(graph.operand, node.args[0]), axis=_argument(node, 1, "dim", 0))


def _taken(graph: Graph, node: fx.Node) -> str:
    """One piece of a tensor that was cut in several: `chunk`, `split`."""
    cut, number = node.args
    if operator_of(cut) not in ("chunk", "split", "split_with_sizes"):
        raise unsupported(cut, "is not among those that can be exported")
    axis = _argument(cut, 2, "dim", 0)
    sizes = [value.shape[axis] for value in cut.meta["val"]]
    first = sum(sizes[:number])
    ends = [first], [first + sizes[number]], [axis]
    return graph.add("Slice", graph.operand(cut.args[0]), *map(graph.numbers, ends))


TRANSLATIONS: dict[str, Translation] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed_convolution),
    **{"linear": _linear, "batch_norm": _batch_norm, "layer_norm": _layer_norm},
    **{"add": _of_two("Add"), "add_": _of_two("Add"), "sub": _of_two("Sub"), "mul": _of_two("Mul")},
    **{"div": _of_two("Div"), "matmul": _of_two("MatMul")},
    **dict.fromkeys(("relu", "relu_"), _simply("Relu")),
    **dict.fromkeys(("sigmoid", "sigmoid_"), _simply("Sigmoid")),
    **dict.fromkeys(("hardsigmoid", "hardsigmoid_"), _simply("HardSigmoid", alpha=1 / 6, beta=0.5)),
    **dict.fromkeys(("hardswish", "hardswish_"), _simply("HardSwish")),
    **dict.fromkeys(("hardtanh", "hardtanh_", "clamp", "clamp_"), _clip),
    **dict.fromkeys(("relu6", "relu6_"), _relu6),
    **dict.fromkeys(("silu", "silu_"), _silu),
    **{"tanh": _simply("Tanh"), "gelu": _gelu, "softmax": _softmax},
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d"), _max_pool),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), _average_pool),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"), _adaptive_average_pool),
    "mean": _mean,
    **dict.fromkeys(("contiguous", "clone", "dropout", "dropout_", "alias", "detach", "detach_"), _same_value),
    **dict.fromkeys(("flatten", "view", "reshape", "unsqueeze", "squeeze", "_unsafe_view", "unflatten"), _reshape),
    **{"permute": _permute, "transpose": _transpose, "slice": _slice, "pad": _pad, "cat": _concatenate},
    "<built-in function getitem>": _taken,
}
SILENT = ("sym_size", "_assert_tensor_metadata", "_assert_scalar", "chunk", "split", "split_with_sizes")
"""Operators without a value of their own: sizes are in the shapes, and pieces are cut where one is taken."""
