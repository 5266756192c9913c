"""Where a network has layers and ReLUs, in the order of execution, with each ReLU at one place alone.

`torch.fx` traces the network. A network whose ReLU modules each serve one place keeps its own class; one that reuses a
ReLU module (torchvision's ResNets) or calls ReLU as a function becomes a `torch.fx.GraphModule` with a module per
place: the first keeps the name, the others get `_1`, `_2`, ... A network that can't be traced keeps its modules, in
the order of their registration; a ReLU module of it that runs twice in a forward pass is an error at calibration.
"""

from __future__ import annotations

import copy
import operator
from collections import Counter
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import fx, nn

from brsweep.errors import BrsweepError
from brsweep.quant.tracing import (
    RELU_FUNCTIONS,
    RELU_MODULES,
    Tracer,
    functional_relu,
    module_at,
    refuse_aliases,
    refuse_modes,
    source,
)

# What hands quantized values on as such. An average of levels is no level; it counts as quantized all the same, as in
# every published network with a global pooling before its last layer.
PASSING_MODULES = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d)
PASSING_FUNCTIONS = (
    torch.flatten, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.pad, torch.mean, torch.cat,
    operator.getitem, torch.reshape, torch.permute,
)  # fmt: skip
PASSING_METHODS = ("flatten", "view", "reshape", "mean", "contiguous", "permute", "transpose")


@dataclass
class Places:
    """Names of the layers and of the activations, each in the order of execution, and of both together."""

    layers: list[str] = field(default_factory=list)
    activations: list[str] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    untraced: str = ""
    graph: fx.Graph | None = None
    modules: dict[str, nn.Module] = field(default_factory=dict)

    def add(self, name: str, is_layer: bool) -> None:
        (self.layers if is_layer else self.activations).append(name)
        self.order.append(name)

    def float_inputs(self) -> tuple[str, ...]:
        """Layers after the first whose input comes from no ReLU."""
        if self.graph is None:
            return ()
        nodes = [n for n in self.graph.nodes if n.op == "call_module" and n.target in self.layers[1:]]
        return tuple(str(n.target) for n in nodes if not self._from_relu(source(n)))

    def _from_relu(self, node) -> bool:
        if isinstance(node, (list, tuple)):
            return all(self._from_relu(n) for n in node)
        if not isinstance(node, fx.Node):
            return True
        if node.op == "call_module" and node.target in self.activations:
            return True
        passes = (
            (node.op == "call_module" and isinstance(self.modules[node.target], PASSING_MODULES))
            or (node.op == "call_function" and node.target in PASSING_FUNCTIONS)
            or (node.op == "call_method" and node.target in PASSING_METHODS)
        )
        return passes and self._from_relu(source(node))


def find_places(model: nn.Module) -> tuple[nn.Module, Places]:
    """The places of `model`, and the model itself or, where a ReLU had to be split, its traced equivalent.

    Raises `BrsweepError` naming a layer that is used twice, an in-place ReLU that works on more than its own output, or
    the first step that differs between training and evaluation where the network has to be traced.
    """
    tracer = Tracer()
    try:
        graph = tracer.trace(model)
    except Exception as error:  # a tracer may fail in any way the network's forward can
        return model, _untraced_places(model, " ".join(str(error).split())[:120] or type(error).__name__)
    refuse_aliases(model, graph)
    calls = Counter(
        n.target for n in graph.nodes if n.op == "call_module" and isinstance(module_at(model, n), RELU_MODULES)
    )
    functional = [n for n in graph.nodes if functional_relu(n)]
    if functional or any(count > 1 for count in calls.values()):
        model, graph = _split_relus(model, graph, functional)
    places = Places(graph=graph, modules=dict(model.named_modules()))
    for node in graph.nodes:
        if node.op != "call_module":
            continue
        module = module_at(model, node)
        if _is_layer(module):
            if node.target in places.layers:
                raise BrsweepError(f"{node.target}: this layer is used at several places, which can't be quantized")
            places.add(node.target, is_layer=True)
        elif isinstance(module, RELU_MODULES):
            places.add(node.target, is_layer=False)
    return model, places


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` where `name` is, under each of its names."""
    old = model.get_submodule(name)
    module.train(old.training)
    for alias, other in list(model.named_modules(remove_duplicate=False)):
        if other is old:
            parent, _, child = alias.rpartition(".")
            setattr(model.get_submodule(parent), child, module)


def _is_layer(module: nn.Module) -> bool:
    return type(module) in (nn.Conv2d, nn.Linear)


def _split_relus(model: nn.Module, graph: fx.Graph, functional: list[fx.Node]) -> tuple[nn.Module, fx.Graph]:
    refuse_modes(model)
    modes = {name: module.training for name, module in model.named_modules()}
    traced = fx.GraphModule(model, graph)
    taken = {name for name, _ in traced.named_modules()}
    seen: set[str] = set()
    for node in graph.nodes:
        if node in functional:
            kind = RELU_FUNCTIONS.get(node.target, nn.ReLU)
            stack = list((node.meta.get("nn_module_stack") or {}).values())
            scope = str(stack[-1][0]) if stack else ""
            name = _free(f"{scope}.relu" if scope else "relu", taken)
            _add(traced, name, kind())
            node.op, node.target, node.args, node.kwargs = "call_module", name, (source(node),), {}
        elif node.op == "call_module" and isinstance(traced.get_submodule(node.target), RELU_MODULES):
            if node.target in seen:
                module = traced.get_submodule(node.target)
                node.target = _free(node.target, taken)
                _add(traced, node.target, copy.deepcopy(module))
            seen.add(node.target)
    for name, module in traced.named_modules():
        module.training = modes.get(name, model.training)
    traced.recompile()
    return traced, traced.graph


def _add(traced: fx.GraphModule, name: str, module: nn.Module) -> None:
    if not traced.add_submodule(name, module):
        raise BrsweepError(f"{name}: a ReLU at this place can't be given a module of its own")


def _free(name: str, taken: set[str]) -> str:
    candidate, i = name, 0
    while candidate in taken:
        i += 1
        candidate = f"{name}_{i}"
    taken.add(candidate)
    return candidate


def _untraced_places(model: nn.Module, reason: str) -> Places:
    places = Places(untraced=reason)
    for name, module in model.named_modules():
        if _is_layer(module) or isinstance(module, RELU_MODULES):
            places.add(name, is_layer=_is_layer(module))
    return places
