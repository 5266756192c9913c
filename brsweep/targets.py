"""Parts by their import path: `_target_: package.module.name` with the part's own arguments beside it.

A target runs code, and a configuration that came with data or from somebody else can name anything. So a target is a
class or function that is *defined* in a package where such parts live (a module's imports are no parts of it), and of
the kind that its key wants. `allow_targets=[mypackage]` on the command line admits a package more; `consent` keeps
that for this process, and whatever reads a configuration back from a file gives none.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

from brsweep.arguments import check_arguments
from brsweep.errors import BrsweepError
from brsweep.torchvision_import import make_importable

TARGET = "_target_"

_OPTIMIZERS = ("torch.optim", "timm.optim")
HOMES = {
    "model": ("brsweep.models", "torchvision.models", "timm.models"),
    "data": ("brsweep.data",),
    "quant.quantizer": ("brsweep.quant",),
    "reg": ("brsweep.regularizers",),
    "float_optimizer": _OPTIMIZERS,
    "qat_optimizer": _OPTIMIZERS,
    "logger": ("brsweep.tracking",),
}
"""Where the parts of each key are defined that need no consent."""

KINDS = {
    "model": "torch.nn:Module",
    "data": "brsweep.data.images:Source",
    "quant.quantizer": "brsweep.quant.quantizer:Quantizer",
    "reg": "brsweep.regularizers.regularizer:Regularizer",
    "float_optimizer": "torch.optim:Optimizer",
    "qat_optimizer": "torch.optim:Optimizer",
    "logger": "brsweep.tracking.tracker:Tracker",
}
"""The base class of each key's parts. A model may be a function too, one that returns such a module."""

FOREIGN_FILES = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay")
"""Arguments by which timm reads files and addresses of its own."""

_consented: tuple[str, ...] = ()


def consent(packages: Iterable[str]) -> None:
    """Let this process run parts of `packages` (and of no others that it was let run before)."""
    global _consented
    _consented = tuple(packages)


def check_allowed(where: str, node: Mapping[str, Any], allowed: Iterable[str] = ()) -> None:
    """Raise `BrsweepError` unless the node's target lies in an allowed package. Imports nothing."""
    target, allowed = node.get(TARGET), tuple(allowed)
    if not isinstance(target, str) or not all(part.isidentifier() for part in target.split(".")) or "." not in target:
        path = "package.module.name"
        raise BrsweepError(f"{where}.{TARGET}={target}: give the import path of a class or function, {path}")
    packages = tuple(dict.fromkeys(_reachable(home) for home in HOMES[where]))
    if not any(target.startswith(package + ".") for package in (*packages, *allowed)):
        package = target.split(".")[0]
        raise BrsweepError(
            f"{where}.{TARGET}={target}: outside the allowed packages ({', '.join((*packages, *allowed))}); "
            f"if you trust it, add allow_targets=[{package}] to the command line, or --allow {package} to that of "
            f"brsweep.export, or allow_targets=['{package}'] to brsweep.load"
        )
    if target.startswith("timm.") and "timm" not in allowed:
        for key in FOREIGN_FILES:
            if key in node:
                raise BrsweepError(f"{where}.{key}: read by timm itself, unchecked; give pretrained=PATH")


def locate(where: str, target: str) -> Callable[..., Any]:
    """Import a target. Raises `BrsweepError` where it does not exist, or is nothing that the key `where` may run."""
    check_allowed(where, {TARGET: target}, _consented)
    if target.split(".")[0] not in ("brsweep", "torch"):
        make_importable()  # a part may import torchvision, which fails as it is beside a CPU-only torch
    found = _walk(where, target)
    if not (inspect.isclass(found) or inspect.isfunction(found)):
        raise BrsweepError(f"{where}.{TARGET}={target}: is no class or function, but of type {type(found).__name__}")
    home = str(found.__module__)
    if not any(f"{home}.".startswith(allowed + ".") for allowed in (*HOMES[where], *_consented)):
        raise BrsweepError(
            f"{where}.{TARGET}={target}: is defined in {home}, and not in {', '.join((*HOMES[where], *_consented))}"
        )
    _check_kind(where, target, found)
    return found


def build(where: str, node: Mapping[str, Any], **given: Any) -> Any:
    """Call the node's target with its own arguments and those `given`.

    Raises `BrsweepError` naming the argument that the target does not take, or that it wants and nobody gave.
    """
    factory = locate(where, node[TARGET])
    own = {key: value for key, value in node.items() if key != TARGET}
    check_arguments(where, node[TARGET], factory, own, given)
    try:
        return factory(**own, **given)
    except BrsweepError:
        raise
    except (TypeError, ValueError, OverflowError, MemoryError) as error:  # a value that the part can't take
        raise BrsweepError(f"{where}: {node[TARGET]}: {in_a_line(error)}") from None


def in_a_line(error: BaseException) -> str:
    """What was raised and where, for the code of a part, which may raise anything."""
    text = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text[:300]}{place}" if text else f"{type(error).__name__}{place}"


def _reachable(home: str) -> str:
    """The prefix that a target may be written with: packages re-export their parts at the top, torch's are many."""
    return home if home.split(".")[0] in ("torch", "torchvision") else home.split(".")[0]


def _walk(where: str, target: str) -> Any:
    """What the path leads to: through packages and modules as far as they go, then through attributes."""
    package, *rest = target.split(".")
    found: Any = _imported(where, target, package)
    path = package
    for name in rest:
        path = f"{path}.{name}"
        own = isinstance(found, ModuleType | type) and not name.startswith("__")
        within = getattr(found, name, None) if own else None
        if path == target and callable(within):  # a function may have the name of its module: both are attributes
            found = within
        elif own and hasattr(found, "__path__") and _is_module(path):
            found = _imported(where, target, path)
        elif within is not None:
            found = within
        else:
            above, _, last = path.rpartition(".")
            if path == target:
                raise BrsweepError(f"{where}.{TARGET}={target}: {above} has no class or function {last}")
            raise BrsweepError(f"{where}.{TARGET}={target}: there is no module {path}")
    return found


def _is_module(path: str) -> bool:
    try:
        return path in sys.modules or importlib.util.find_spec(path) is not None
    except (ImportError, ValueError):
        return False


def _imported(where: str, target: str, path: str) -> ModuleType:
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name == path:
            raise BrsweepError(f"{where}.{TARGET}={target}: there is no module {path}") from None
        raise BrsweepError(f"{where}.{TARGET}={target}: {path} imports {error.name}, which is not installed") from None
    except Exception as error:
        raise BrsweepError(f"{where}.{TARGET}={target}: importing {path}: {in_a_line(error)}") from None


def _check_kind(where: str, target: str, found: Any) -> None:
    module, _, name = KINDS[where].partition(":")
    if where == "model" and inspect.isfunction(found):
        return
    if not inspect.isclass(found):
        raise BrsweepError(f"{where}.{TARGET}={target}: is a function; a subclass of {module}.{name} is wanted")
    base = getattr(importlib.import_module(module), name)
    if not issubclass(found, base) or found is base:
        raise BrsweepError(f"{where}.{TARGET}={target}: is no subclass of {module}.{name}")
