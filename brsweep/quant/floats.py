"""Weights that no quantizer reaches, each with the reason, and the order in which a network uses its weights.

A weight is a parameter of two or more dimensions. It goes by its layer's name (`features.0` for `features.0.weight`,
parametrized or not), or where it is no layer's `weight`, by its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from torch import fx, nn

from brsweep.quant.layers import KINDS, quantized_kind
from brsweep.quant.steps import hands_on, step_name
from brsweep.quant.tracing import Tracer

PRODUCTS = frozenset((
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear", "bilinear",
    "embedding", "embedding_bag", "einsum", "tensordot", "matmul", "mm", "bmm", "mv", "addmm", "addbmm", "baddbmm",
    "imatmul", "multi_head_attention_forward", "scaled_dot_product_attention",
))  # fmt: skip
NORMS = (nn.LayerNorm, nn.RMSNorm)
"""Their weights may have more dimensions than one; they scale, and are no layer of weights."""


def reachable_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Each module once, without those inside a module of torch's own that reads their weights itself."""
    closed = [f"{name}." for name, module in model.named_modules() if _is_closed(name, module)]
    for name, module in model.named_modules():
        if not name.startswith(tuple(closed)):
            yield name, module


def left_float(model: nn.Module, layers: Collection[str], graph: fx.Graph | None) -> dict[str, str]:
    """The name of every weight that belongs to none of `layers` -> why it stays float."""
    found: dict[str, str] = {}
    for name, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            if parameter.dim() > 1 and not (name in layers and key == "weight"):
                weight = _weight_name(f"{name}.{key}" if name else key)
                found.setdefault(weight, _reason(model, weight, name, module, graph))
    for node in graph.nodes if graph else ():
        owner = str(node.target).removesuffix(".weight")
        if node.op == "get_attr" and owner in layers and owner != node.target:
            found[str(node.target)] = "read by the forward pass beside the layer's own call"
    return found


def weight_order(model: nn.Module, graph: fx.Graph | None) -> list[str]:
    """Names of the weight layers, quantized or not, in the order of execution; untraced, of registration."""
    if graph is None:
        return [name for name, module in reachable_layers(model) if _is_weight_layer(name, module)]
    found = []
    for node in graph.nodes:
        target = str(node.target)
        if node.op == "call_module" and _is_weight_layer(target, model.get_submodule(target)):
            found.append(target)
        elif node.op == "get_attr":
            weight = _weight_name(target)
            layer = weight != target and isinstance(model.get_submodule(weight), tuple(KINDS))
            if layer or _multiplies(node):
                found.append(weight)
    return found


def _weight_name(parameter: str) -> str:
    return parameter.partition(".parametrizations.")[0].removesuffix(".weight")


def _reason(model: nn.Module, weight: str, owner: str, module: nn.Module, graph: fx.Graph | None) -> str:
    if ".parametrizations." in f"{owner}.":
        by = "".join(type(part).__name__ for part in module)
        return f"its weight is parametrized by {by.lstrip('_')}"
    if owner == weight and quantized_kind(module) is not None:
        return "no step of the forward pass calls it" if graph else "a module of torch's reads its weight itself"
    if isinstance(module, tuple(KINDS)):
        return f"{type(module).__name__} computes in a way of its own"
    return f"a weight of {type(module).__name__}, which is no convolution and no linear layer"


def _is_closed(name: str, module: nn.Module) -> bool:
    return bool(name) and next(module.children(), None) is not None and _is_one_step(name, module)


def _is_weight_layer(name: str, module: nn.Module) -> bool:
    weights = any(parameter.dim() > 1 for parameter in module.parameters())
    own = isinstance(module, tuple(KINDS)) or _is_one_step(name, module)
    return weights and own and not isinstance(module, NORMS)


def _is_one_step(name: str, module: nn.Module) -> bool:
    return Tracer().is_leaf_module(module, name) and not isinstance(module, (nn.ModuleList, nn.ModuleDict))


def _multiplies(node: fx.Node) -> bool:
    """Whether a node's value, or a rearrangement of it, goes into a product."""
    return any(
        step_name(user) in PRODUCTS or (hands_on(user, None) and _multiplies(user))
        for user in node.users
        if user.op.startswith("call")
    )
