"""Identity by content: what a stage or a run depends on, hashed.

A signature holds the value of every field that a stage can see, the identity of its data, and a digest of the code
that trains. A field that nobody thought of counts, because what a stage can't see is listed, not what it can.
Nothing here imports torch or reads an image.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from brsweep.errors import BrsweepError

VERSION = 1
"""Part of every signature. Raised when the meaning of a stage changes in a way that no field and no code shows."""

TRAINING_ROOMS = ("kernels", "quant", "regularizers", "models", "data", "training")
NUMERIC_PACKAGES = ("torch", "numba")


def digest(content: Any) -> str:
    """The first 16 hex digits of the SHA-256 of plain data: mappings in any order, numbers by value (1 is 1.0).

    >>> digest({"a": 1, "b": [2.5, None]}) == digest({"b": [2.5, None], "a": 1.0})
    True
    """
    text = json.dumps(_plain(content), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code_digest(targets: Iterable[str] = ()) -> str:
    """A digest of the code that trains, as syntax without comments and docstrings, so that prose may change freely:
    the training rooms of brsweep, the modules of targets outside it, and the versions of torch and numba.
    """
    outside = tuple(sorted({t.rpartition(".")[0] for t in targets if not t.startswith(("brsweep.", "torch"))}))
    return _code_digest(outside)


@cache
def _code_digest(outside: tuple[str, ...]) -> str:
    package = Path(__file__).resolve().parents[1]
    files = {
        str(path.relative_to(package)): path
        for room in TRAINING_ROOMS
        for path in sorted((package / room).rglob("*.py"))
    }
    files |= {name: _source_of(name) for name in outside}
    content = {name: _syntax(path) for name, path in files.items()}
    return digest({"files": content, "versions": {name: _version(name) for name in NUMERIC_PACKAGES}})


def _syntax(path: Path) -> str:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            node.body = [s for s in node.body if not _is_prose(s)] or [ast.Pass()]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _is_prose(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _source_of(module: str) -> Path:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise BrsweepError(f"{module}: its source can't be found, so runs that use it have no identity")
    return Path(spec.origin)


def _version(package: str) -> str:
    try:
        return version(package).split("+")[0]
    except PackageNotFoundError:
        return "absent"


def _plain(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_plain(value) for value in content]
    if isinstance(content, float) and content.is_integer():
        return int(content)
    return content
