"""Where a network has layers and ReLUs, in the order of execution, with each ReLU at one place alone.

`torch.fx` traces the network. A network whose ReLU modules each serve one place keeps its own class; one that reuses a
ReLU module (torchvision's ResNets) or calls ReLU as a function becomes a `torch.fx.GraphModule` with a module per
place: the first keeps the name, the others get `_1`, `_2`, ... A network that can't be traced keeps its modules, in
the order of their registration; a ReLU module of it that runs twice in a forward pass is an error at calibration.

Hooks stay on the module that they are on, and see what it gets and returns, whatever of that is quantized. Those of a
module that a GraphModule would dissolve, or of a ReLU with several places, are refused: which hook should see what is
for their author to say.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import fx, nn

from brsweep.errors import BrsweepError
from brsweep.quant.floats import left_float, reachable_layers, weight_order
from brsweep.quant.layers import quantized_kind
from brsweep.quant.steps import hands_on, source
from brsweep.quant.tracing import (
    RELU_FUNCTIONS,
    functional_relu,
    has_hooks,
    is_relu,
    module_at,
    refuse_aliases,
    refuse_losses,
    trace,
)


@dataclass
class Places:
    """Names of the layers and of the activations, each in the order of execution, and of both together.

    left_float: name of each other weight of two or more dimensions -> why it can't be quantized.
    ends: the first and the last weight layer of the network, whether it can be quantized or not.
    untraced: why the network could not be traced, where it could not.
    unchecked: its ReLUs, then, that work in place.
    """

    layers: list[str] = field(default_factory=list)
    activations: list[str] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    left_float: dict[str, str] = field(default_factory=dict)
    ends: tuple[str, ...] = ()
    float_inputs: tuple[str, ...] = ()
    untraced: str = ""
    unchecked: tuple[str, ...] = ()

    def add(self, name: str, module: nn.Module) -> None:
        (self.activations if is_relu(module) else self.layers).append(name)
        self.order.append(name)


def find_places(model: nn.Module) -> tuple[nn.Module, Places]:
    """The places of `model`, and the model itself or, where a ReLU had to be split, its traced equivalent.

    Raises `BrsweepError` naming a layer that is used twice, an in-place ReLU that works on more than its own output, or
    what the network would lose where it has to be traced.
    """
    try:
        graph = trace(model)
    except Exception as error:  # a tracer may fail in any way the network's forward can
        return model, _untraced_places(model, " ".join(str(error).split())[:120] or type(error).__name__)
    refuse_aliases(model, graph)
    layers = [str(n.target) for n in graph.nodes if _is_layer(module_at(model, n))]
    for name, count in Counter(layers).items():
        if count > 1:
            raise BrsweepError(f"{name}: this layer is used at several places, which can't be quantized")
    places = Places(left_float=left_float(model, layers, graph), ends=_ends(weight_order(model, graph)))
    calls = Counter(n.target for n in graph.nodes if is_relu(module_at(model, n)))
    if any(functional_relu(n) for n in graph.nodes) or any(count > 1 for count in calls.values()):
        model = _split_relus(model, graph)
    for node in graph.nodes:
        module = module_at(model, node)
        if _is_layer(module) or is_relu(module):
            places.add(node.target, module)
    places.float_inputs = tuple(_float_inputs(model, graph, places))
    return model, places


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Have the module at `name` become what `module` is, in its own mode and with its own hooks."""
    old = model.get_submodule(name)
    hooks = {key: value for key, value in vars(old).items() if "_hook" in key}
    module.train(old.training)
    old.__class__, old.__dict__ = type(module), vars(module) | hooks


def _is_layer(module: nn.Module | None) -> bool:
    return module is not None and quantized_kind(module) is not None


def _ends(order: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*order[:1], *order[-1:])))


def _float_inputs(model: nn.Module, graph: fx.Graph, places: Places) -> Iterable[str]:
    """Layers, the network's first apart, whose input comes from no ReLU."""
    quantized: set[fx.Node] = set()
    for node in graph.nodes:
        before, module = source(node) if node.op.startswith("call") else None, module_at(model, node)
        inputs = [n for n in (before if isinstance(before, (list, tuple)) else [before]) if isinstance(n, fx.Node)]
        covered = bool(inputs) and quantized.issuperset(inputs)
        if is_relu(module) or (covered and hands_on(node, module)):
            quantized.add(node)
        elif node.target in places.layers and node.target not in places.ends[:1] and not covered:
            yield node.target


def _split_relus(model: nn.Module, graph: fx.Graph) -> nn.Module:
    """`model` as a GraphModule of `graph`, each of whose ReLUs is a module of its own."""
    refuse_losses(model, graph)
    traced = fx.GraphModule(model, graph)
    _keep_the_rest(model, traced)
    taken = {name for name, _ in traced.named_modules()}
    seen: set[str] = set()
    for node in graph.nodes:
        if functional_relu(node):
            kind = RELU_FUNCTIONS.get(node.target, nn.ReLU)
            stack = list((node.meta.get("nn_module_stack") or {}).values())
            scope = str(stack[-1][0]) if stack else ""
            name = _free(f"{scope}.relu" if scope else "relu", taken)
            _add(traced, name, kind())
            node.op, node.target, node.args, node.kwargs = "call_module", name, (source(node),), {}
        elif is_relu(module_at(traced, node)):
            if node.target in seen:
                module = traced.get_submodule(node.target)
                if has_hooks(module):
                    raise BrsweepError(f"{node.target}: a ReLU with hooks that serves several places can't be split")
                node.target = _free(node.target, taken)
                _add(traced, node.target, copy.deepcopy(module))
            seen.add(node.target)
    modes = {name: module.training for name, module in model.named_modules()}
    for name, module in traced.named_modules():
        module.training = modes.get(name, model.training)
    traced.recompile()
    return traced


def _keep_the_rest(model: nn.Module, traced: fx.GraphModule) -> None:
    """Give a GraphModule the state that no step of it reads, and each buffer's persistence."""
    have = {name for name, _ in traced.named_modules(remove_duplicate=False)}
    for name, module in model.named_modules(remove_duplicate=False):
        if name not in have:
            traced.add_submodule(name, module if not list(module.children()) else nn.Module())
        own = traced.get_submodule(name)
        for key, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            own.register_parameter(key, parameter)
        for key, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
            own.register_buffer(key, buffer, persistent=key not in module._non_persistent_buffers_set)


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
    modules = [(name, module) for name, module in reachable_layers(model) if _is_layer(module) or is_relu(module)]
    layers = [name for name, module in modules if _is_layer(module)]
    places = Places(left_float=left_float(model, layers, None), ends=_ends(weight_order(model, None)), untraced=reason)
    for name, module in modules:
        places.add(name, module)
    places.unchecked = tuple(name for name, module in modules if is_relu(module) and getattr(module, "inplace", False))
    return places
