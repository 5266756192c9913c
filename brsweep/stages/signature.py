"""Identity by content: what a stage or a run depends on, hashed.

A signature holds the value of every field that a stage can see, the identity of its data, and the code that it runs:

    core      brsweep's files that every stage of its kind runs through, declared below, float and quantized apart
    parts     of model, data, optimizer, quantizer and regularizer those that the stage uses, each with all that it
              imports of its own package, of brsweep and of packages with consent
    versions  of every distribution that these files import; torch's own parts and those of torchvision and timm
              count by them alone

A field that nobody thought of counts, because what a stage can't see is listed, not what it can. So does an import
that nobody thought of: statements anywhere in a file are followed, of code that no distribution gives a version. A
file that imports by names that only its run knows (`import_module`) brings its whole package.

A file counts as its syntax tree without comments, docstrings and layout, written in a form that is equal under every
supported Python. Nothing here imports a part, torch least of all, or reads an image. Files are read once per process:
it trains with the code that it has imported.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import pkgutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

from brsweep.errors import BrsweepError
from brsweep.targets import HOMES

VERSION = 3
"""Part of every signature. Raised when the meaning of a stage changes in a way that no field and no code shows."""

FLOAT_CORE = (
    "training", "data/images.py", "data/limit.py", "data/split.py", "data/tables.py", "models/build.py",
    "stages/device.py", "stages/setup.py", "stages/run.py", "stages/source.py",
    "quant/convert.py", "quant/copying.py", "quant/floats.py", "quant/layers.py", "quant/places.py", "quant/policy.py",
    "quant/steps.py", "quant/tracing.py",
)  # fmt: skip
"""Rooms and files that float stages run through; those of `quant` clip a float network's ReLUs."""
QUANTIZED_CORE = (
    "kernels", "quant/bins.py", "quant/calibration.py", "quant/grid.py", "quant/quantizer.py", "quant/sites.py",
)  # fmt: skip
"""What quantized stages run through beside."""
CORES = {"float": FLOAT_CORE, "quantized": (*FLOAT_CORE, *QUANTIZED_CORE)}
"""Kind of stage -> its core. A file of `quant` that only defines a quantizer is a part and belongs to neither."""
ROOMS = ("kernels", "quant", "regularizers", "models", "data", "training", "torchvision_import")
"""Where an import of brsweep's is followed to; the others can't change a result, or are the core."""

VERSIONED = frozenset(home.partition(".")[0] for homes in HOMES.values() for home in homes) - {"brsweep"}
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn"}
"""Of brsweep's own imports those with another name than their distribution; to search for one takes half a second."""
RUN_TIME_IMPORTS = ("import_module", "__import__")
UNWRITTEN = ("ctx", "kind")
"""Fields of a syntax tree that follow from where a node stands (load, store), or mean nothing (u before a string)."""


def digest(content: Any) -> str:
    """The first 16 hex digits of the SHA-256 of plain data: mappings in any order, numbers by value (1 is 1.0).

    >>> digest({"a": 1, "b": [2.5, None]}) == digest({"b": [2.5, None], "a": 1.0})
    True
    """
    text = json.dumps(_plain(content), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def core_digest() -> str:
    """The digest of the core of all stages with the versions of what it imports: results under equal ones can be
    compared, whatever their parts."""
    return digest(stage_code("quantized", {}))


def stage_code(kind: str, targets: Mapping[str, str], allowed: Iterable[str] = ()) -> dict[str, Any]:
    """What a stage runs, as plain data: {"core": hex, "versions": {import name: version}, "parts": {role: hex}}.

    kind: "float" or "quantized". targets: role -> import path of the part. allowed: packages with consent.
    Raises `BrsweepError` naming a part whose source can't be found.
    """
    core = _core(kind)
    parts, versions = {}, dict(core.versions)
    for role, target in targets.items():
        top = _top(target)
        if top in VERSIONED:
            versions[top] = _version(top) or "absent"
            continue
        part = _part(target, tuple(allowed))
        parts[role] = part.digest
        versions |= part.versions
    return {"core": core.digest, "versions": versions, "parts": parts}


def core_files(kind: str) -> dict[str, Path]:
    """Module -> file of the core of that kind of stage."""
    package = Path(__file__).resolve().parents[1]
    files = {}
    for name in CORES[kind]:
        path = package / name
        for file in [path] if path.suffix else sorted(path.rglob("*.py")):
            parts = file.relative_to(package).with_suffix("").parts
            files[".".join(("brsweep", *parts)).removesuffix(".__init__")] = file
    return files


def part_files(target: str, allowed: Iterable[str] = ()) -> dict[str, Path]:
    """Module -> file of a part: its own, the `__init__.py` above it, and all that these import, file after file."""
    module = target.rpartition(".")[0]
    while "." in module and _spec(module) is None:  # a method, or a class within a class
        module = module.rpartition(".")[0]
    if not module or _spec(module) is None:
        raise BrsweepError(f"{target}: its source can't be found, so runs that use it have no identity")
    followed = frozenset(map(_top, (target, *allowed)))
    files: dict[str, Path] = {}
    seen: set[tuple[str, bool]] = set()
    waiting = [(module, True)]
    while waiting:
        step = name, asked = waiting.pop()
        if step in seen or not _is_followed(name, followed) or _spec(name) is None:
            continue
        seen.add(step)
        if "." in name:
            waiting.append((name.rpartition(".")[0], False))
        path = _path(name)
        if path is not None:
            files[name] = path
            waiting += _imported(_read(name, path), asked, followed)
    return files


@dataclass(frozen=True)
class _Code:
    digest: str
    versions: Mapping[str, str]


@cache
def _core(kind: str) -> _Code:
    return _code_of(core_files(kind))


@cache
def _part(target: str, allowed: tuple[str, ...]) -> _Code:
    return _code_of(part_files(target, allowed))


def _code_of(files: Mapping[str, Path]) -> _Code:
    sources = {module: _read(module, path) for module, path in files.items()}
    imported = {_top(base) for source in sources.values() for base, _ in source.imports}
    outside = imported - set(map(_top, files)) - {"brsweep"} - sys.stdlib_module_names
    versions = {name: _version(name) or "absent" for name in sorted(outside)}
    return _Code(digest({module: source.digest for module, source in sources.items()}), versions)


# --- what a module imports -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """A file: the digest of its syntax; its imports, as (module, names from it); the package it brings as a whole.

    lazily: it brings that package only where it is imported itself, not on the way to a submodule.
    """

    digest: str
    imports: tuple[tuple[str, tuple[str, ...]], ...] = ()
    whole: str = ""
    lazily: bool = False


@cache
def _read(module: str, path: Path) -> _Source:
    content = path.read_bytes()
    by_bytes = _Source(hashlib.sha256(content).hexdigest())
    if path.suffix != ".py":
        return by_bytes
    try:
        tree = ast.parse(content)
        text = syntax(tree)
    except (SyntaxError, ValueError, RecursionError):  # a template, or syntax of a newer Python
        return by_bytes
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = _Source(hashlib.sha256(text.encode()).hexdigest(), tuple(_imports(tree, package)))
    if not any(name in text for name in RUN_TIME_IMPORTS):
        return found
    lazy = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "__getattr__"]
    always = any(_imports_by_name(node) for node in tree.body if node not in lazy)
    whole = package if always or any(map(_imports_by_name, lazy)) else ""
    return replace(found, whole=whole, lazily=not always)


def _imports(tree: ast.AST, package: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            try:
                base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            except ImportError:  # beyond the top-level package
                continue
            yield base, tuple(alias.name for alias in node.names)


def _imports_by_name(tree: ast.AST) -> bool:
    return any({getattr(n, "id", ""), getattr(n, "attr", "")} & set(RUN_TIME_IMPORTS) for n in ast.walk(tree))


def _imported(source: _Source, asked: bool, followed: frozenset[str]) -> Iterator[tuple[str, bool]]:
    """Modules that a file brings, each with whether it is imported itself or for a submodule's sake."""
    for base, names in source.imports:
        if not _is_followed(base, followed):
            continue
        submodules = [name for name in (f"{base}.{n}" for n in names) if _spec(name) is not None]
        yield base, len(submodules) < max(len(names), 1)
        yield from ((name, True) for name in submodules)
        if "*" in names:  # a package's `__all__` may name submodules
            yield from _modules_in(base)
    if source.whole and (asked or not source.lazily):
        yield from _modules_in(source.whole)


def _modules_in(package: str) -> Iterator[tuple[str, bool]]:
    spec = _spec(package)
    for module in pkgutil.iter_modules((spec and spec.submodule_search_locations) or [], f"{package}."):
        yield module.name, True
        if module.ispkg:
            yield from _modules_in(module.name)


def _is_followed(module: str, followed: frozenset[str]) -> bool:
    """Whether its source counts: of a package in `followed`, of brsweep's rooms, and where it has no version."""
    top = _top(module)
    if top == "brsweep":
        return module.split(".")[1:2] != [] and module.split(".")[1] in ROOMS
    if top in followed:
        return True
    if top in sys.stdlib_module_names or top in VERSIONED:
        return False
    return _spec(top) is not None and _version(top) is None


@cache
def _spec(module: str) -> ModuleSpec | None:
    """Where a module is, without importing anything; importlib's own search runs the packages above it."""
    parent = module.rpartition(".")[0]
    try:
        if not parent:
            return importlib.util.find_spec(module)
        above, portions = _spec(parent), []
        for folder in (above and above.submodule_search_locations) or ():
            finder = pkgutil.get_importer(folder)
            spec = finder.find_spec(module) if finder else None
            if spec is not None and spec.loader is not None:
                return spec
            portions += (spec and spec.submodule_search_locations) or ()
    except (ImportError, ValueError):
        return None
    spec = ModuleSpec(module, None, is_package=True)  # a folder without `__init__.py`
    spec.submodule_search_locations = portions
    return spec if portions else None


def _path(module: str) -> Path | None:
    """The file of a module that is there; None for a folder without `__init__.py`."""
    origin = _spec(module).origin
    if origin is None:
        return None
    if not origin.endswith((".py", *EXTENSION_SUFFIXES)) or not Path(origin).is_file():
        raise BrsweepError(f"{module}: its source can't be found, so runs that use it have no identity")
    return Path(origin)


@cache
def _version(name: str) -> str | None:
    """Of the distribution that a top-level package comes from, without a build's own suffix (+cpu); None for none."""
    try:
        return version(DISTRIBUTIONS.get(name, name)).partition("+")[0]
    except PackageNotFoundError:
        if _spec(name) is None:
            return None
    found = sorted(set(_distributions().get(name, ())))
    return ", ".join(version(distribution).partition("+")[0] for distribution in found) or None


@cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


def _top(module: str) -> str:
    return module.partition(".")[0]


# --- a file as its syntax --------------------------------------------------------------------------------------------


def syntax(tree: ast.AST) -> str:
    """A syntax tree as text, without comments, docstrings, `pass` and layout, equal under Python 3.11 and every later.

    What versions differ in is left out: fields that are empty, and the empty strings that 3.12 puts into f-strings.
    """
    written: list[str] = []
    waiting: list[Any] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, str):
            written.append(node)
        elif isinstance(node, list):
            written.append("[")
            waiting.append("]")
            for item in reversed(node):
                waiting += (",", item if isinstance(item, ast.AST) else ascii(item))
        else:
            written.append(f"{type(node).__name__}(")
            waiting.append(")")
            for name in reversed(node._fields):
                value = getattr(node, name, None)
                if isinstance(value, list):
                    value = [item for item in value if not _is_prose(item, node)]
                elif not isinstance(value, ast.AST) and value is not None:
                    value = ascii(value)
                if value and name not in UNWRITTEN:
                    waiting += (value, f"{name}=")
    return "".join(written)


def _is_prose(node: Any, parent: ast.AST) -> bool:
    """Whether it does nothing: a statement that is a string, `pass`, an empty string within an f-string."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    if isinstance(parent, ast.JoinedStr):
        return isinstance(node, ast.Constant) and node.value == ""
    return isinstance(node, ast.Pass)


def _plain(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_plain(value) for value in content]
    if isinstance(content, float) and content.is_integer():
        return int(content)
    return content
