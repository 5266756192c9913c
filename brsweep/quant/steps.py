"""What one step of a traced network does with its input: shares its memory, hands its values on, or only looks at it.

torch's operator schemas say which operators return a view of their first argument, `Tensor(a)`, and which write into
it, `Tensor(a!)`. The tables add what the schemas leave out: operators that return their input where there is nothing
to do (a dropout in evaluation, a conversion to the dtype that it has), and steps of Python's own. Where the arguments
decide, and where a function is not torch's, a step is taken to share.
"""

from __future__ import annotations

import functools
import inspect
import operator

import torch
from torch import fx, nn

DROPOUTS = frozenset(
    ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout", "feature_alpha_dropout")
)
SHARING = DROPOUTS | {
    "getitem", "getattr", "float", "double", "half", "bfloat16", "type", "type_as", "cpu", "cuda", "to_dense",
    "dequantize", "conj_physical", "sum_to_size", "resize_as", "atleast_1d", "atleast_2d", "atleast_3d", "asarray",
    "broadcast_tensors", "meshgrid", "cartesian_prod", "einsum", "from_dlpack", "new",
    "unsafe_chunk", "unsafe_split", "unsafe_split_with_sizes",
}  # fmt: skip
"""Functions and methods, beside those that torch's schemas mark, whose result may share its input's memory."""

VALUES = DROPOUTS | {
    "getitem", "getattr", "clone", "contiguous", "to", "float", "double", "half", "bfloat16", "type", "type_as", "cpu",
    "cuda", "cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "column_stack", "repeat", "tile",
    "repeat_interleave", "roll", "flip", "fliplr", "flipud", "rot90", "gather", "take_along_dim", "index_select", "pad",
    "constant_pad_nd", "unfold", "broadcast_tensors", "unsafe_chunk", "unsafe_split", "unsafe_split_with_sizes",
    "atleast_1d", "atleast_2d", "atleast_3d", "channel_shuffle", "native_channel_shuffle", "pixel_shuffle",
    "pixel_unshuffle", "upsample_nearest", "relu", "relu_", "max", "amax", "mean",
    *(f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_max", "adaptive_avg") for n in (1, 2, 3)),
    *(f"{kind}max_pool{n}d_with_indices" for kind in ("", "adaptive_", "fractional_") for n in (1, 2, 3)),
    "fractional_max_pool2d", "fractional_max_pool3d",
}  # fmt: skip
"""What hands quantized values on as such, beside views. An average of levels is no level; it counts as quantized all
the same, as in every published network with a global pooling before its last layer."""

SHARING_MODULES = (nn.Identity, nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd)
VALUE_MODULES = (
    *SHARING_MODULES, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.Unfold,
    nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d,
    nn.modules.pooling._AdaptiveMaxPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.padding._ConstantPadNd, nn.modules.padding._ReflectionPadNd, nn.modules.padding._ReplicationPadNd,
    nn.modules.padding._CircularPadNd,
)  # fmt: skip

FACTS = frozenset((
    "shape", "dtype", "device", "ndim", "layout", "requires_grad", "is_cuda", "size", "dim", "ndimension", "numel",
    "nelement", "stride", "is_contiguous", "is_floating_point", "element_size", "get_device", "storage_offset",
    "new_zeros", "new_ones", "new_empty", "new_full", "new_tensor", "zeros_like", "ones_like", "empty_like",
    "full_like", "rand_like", "randn_like",
))  # fmt: skip
"""What is asked of a tensor without reading its values."""

IN_PLACE_OPERATORS = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor")
"""Functions of `operator` that stand for `+=` and its like."""


def in_place(operation: str, one, other):
    """`one += other` and its like, as a step of a graph. torch.fx's code for them writes to a name, of a number too."""
    return getattr(operator, operation)(one, other)


def source(node: fx.Node):
    """A node's first argument that is a node, or a sequence with nodes in it (`torch.cat`); None without one."""
    for argument in (*node.args, *node.kwargs.values()):
        if isinstance(argument, fx.Node):
            return argument
        if isinstance(argument, (list, tuple)) and any(isinstance(part, fx.Node) for part in argument):
            return argument
    return None


def step_name(node: fx.Node) -> str:
    """The name of the function or the method that a node calls; an attribute's where it reads one."""
    name = getattr(node.target, "__name__", str(node.target))
    return str(node.args[1]) if name == "getattr" and node.args[1] in FACTS else name


def reads_values(node: fx.Node) -> bool:
    """Whether a step reads more of its input than its shape and kind."""
    return node.op in ("call_module", "output") or step_name(node) not in FACTS


def works_in_place(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a step writes into its input; `module` is the one that a `call_module` node calls."""
    if node.op == "call_module":
        return bool(getattr(module, "inplace", False))
    name = step_name(node)
    if name.startswith("__"):
        return name.strip("_") in IN_PLACE_OPERATORS
    return name == "in_place" or name.endswith("_") or bool(_bound(node).get("inplace", False))


def shares_memory(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether what a step returns may lie in its input's memory."""
    if works_in_place(node, module):
        return True
    if node.op == "call_module":
        return isinstance(module, SHARING_MODULES)
    return step_name(node) in SHARING or _marked(step_name(node)) is not None or _is_foreign(node)


def hands_on(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether what a step returns holds values of its input alone, or averages of them."""
    if node.op == "call_module":
        nearest = isinstance(module, nn.Upsample) and module.mode.startswith("nearest")
        return nearest or isinstance(module, VALUE_MODULES)
    name = step_name(node)
    if name == "interpolate":
        return str(_bound(node).get("mode", "nearest")).startswith("nearest")
    return name in VALUES or _marked(name) == "view"


def _is_foreign(node: fx.Node) -> bool:
    """Whether a step calls a function of someone's own (`torch.fx.wrap`), which may return its input."""
    home = (getattr(node.target, "__module__", None) or "torch").partition(".")[0]
    return node.op == "call_function" and home not in ("torch", "_operator", "math", "builtins")


def _bound(node: fx.Node) -> dict:
    """A function's arguments by name, as far as its signature can be had."""
    try:
        return inspect.signature(node.target).bind_partial(*node.args, **node.kwargs).arguments
    except (TypeError, ValueError):
        return dict(node.kwargs)


@functools.cache
def _marked(name: str) -> str | None:
    """What torch's schemas say of the operator of this name: it returns a "view", or "writes"; None for neither."""
    packet = getattr(torch.ops.aten, name, None)
    marks = set()
    for overload in packet.overloads() if hasattr(packet, "overloads") else ():
        schema = getattr(packet, overload)._schema
        first = schema.arguments[0].alias_info if schema.arguments else None
        if first and any(returned.alias_info for returned in schema.returns):
            marks.add("writes" if first.is_write else "view")
    return "view" if "view" in marks else next(iter(marks), None)
