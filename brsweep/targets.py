"""Parts by their import path: `_target_: package.module.name` with the part's own arguments beside it.

A target runs code, so only these packages are allowed without being asked for: a configuration that came with data
or from somebody else can name anything. `allow_targets=[mypackage]` on the command line admits one more.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from brsweep.errors import BrsweepError

ALLOWED = ("brsweep", "torch.optim", "torchvision", "timm")
TARGET = "_target_"


def check_allowed(where: str, node: Mapping[str, Any], allowed: Iterable[str] = ()) -> None:
    """Raise `BrsweepError` unless the node's target lies in an allowed package. Imports nothing."""
    target = node.get(TARGET)
    if not isinstance(target, str) or "." not in target:
        path = "package.module.name"
        raise BrsweepError(f"{where}.{TARGET}={target}: give the import path of a class or function, {path}")
    if not any(target.startswith(prefix + ".") for prefix in (*ALLOWED, *allowed)):
        package = target.split(".")[0]
        raise BrsweepError(
            f"{where}.{TARGET}={target}: outside the allowed packages ({', '.join((*ALLOWED, *allowed))}); "
            f"if you trust it, add allow_targets=[{package}] to the command line"
        )


def locate(where: str, target: str) -> Callable[..., Any]:
    """Import a target. Raises `BrsweepError` where the module or the name in it does not exist."""
    if target.startswith("torchvision."):
        from brsweep.torchvision_import import import_torchvision

        import_torchvision()
    module_name, _, name = target.rpartition(".")
    outer = None
    try:
        found = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not module_name.startswith(error.name or "?"):
            raise  # the module is there, and something that it imports is not
        module_name, _, outer = module_name.rpartition(".")
        try:
            found = getattr(importlib.import_module(module_name), outer)
        except (ImportError, AttributeError, ValueError):
            raise BrsweepError(f"{where}.{TARGET}={target}: there is no module {module_name}.{outer}") from None
    if not callable(getattr(found, name, None)):
        raise BrsweepError(f"{where}.{TARGET}={target}: {module_name} has no class or function {name}")
    return getattr(found, name)


def build(where: str, node: Mapping[str, Any], *args: Any, **given: Any) -> Any:
    """Call the node's target with its own arguments and those `given`.

    Raises `BrsweepError` naming the argument that the target does not take, or that it wants and nobody gave.
    """
    factory = locate(where, node[TARGET])
    arguments = {key: value for key, value in node.items() if key != TARGET} | given
    check_arguments(where, node[TARGET], factory, args, arguments)
    try:
        return factory(*args, **arguments)
    except BrsweepError:
        raise
    except (TypeError, ValueError) as error:  # a value that the part can't take
        raise BrsweepError(f"{where}: {node[TARGET]}: {' '.join(str(error).split())}") from None


def check_arguments(where: str, target: str, factory: Callable[..., Any], args: tuple, arguments: Mapping) -> None:
    """Raise `BrsweepError` unless the arguments bind to the factory's signature."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # some built-in callables have none
        return
    try:
        signature.bind(*args, **arguments)
    except TypeError as error:
        takes = ", ".join(signature.parameters)
        raise BrsweepError(f"{where}: {target}: {error}; it takes {takes}") from None
