"""Whether a part takes its arguments: by names, against its constructor's signature, and by types, against its
annotations, before anything is made. What people type and YAML holds is null, a boolean, a number, text, a list or a
mapping; annotations of other types are left to the part."""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from brsweep.errors import BrsweepError

LONGEST = 80


def check_arguments(
    where: str, target: str, factory: Callable[..., Any], own: Mapping[str, Any], given: Mapping[str, Any]
) -> None:
    """Raise `BrsweepError` unless the factory takes its `own` arguments and those `given` by brsweep, which nobody
    else may give."""
    for name in own.keys() & given.keys():
        raise BrsweepError(f"{where}.{name}: is given by brsweep itself; leave it out")
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # some built-in callables have none
        return
    try:
        signature.bind(**own, **given)
    except TypeError as error:
        takes = ", ".join(signature.parameters)
        raise BrsweepError(f"{where}: {target}: {error}; it takes {takes}") from None
    constructor = factory.__init__ if inspect.isclass(factory) else factory
    for name, value in own.items():
        parameter = signature.parameters.get(name)
        if parameter is not None and parameter.annotation is not parameter.empty:
            wanted = _evaluated(parameter.annotation, constructor)
            if not fits(value, wanted):
                raise BrsweepError(f"{where}.{name}={shown(value)}: {target} takes {in_words(wanted)} there")


def fits(value: Any, wanted: Any) -> bool:
    """Whether a plain value is what an annotation asks for; true of annotations that say nothing of plain values."""
    origin, inside = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        plain = [one for one in inside if one is not type(None) and _is_plain(one)]
        return (value is None and type(None) in inside) or any(fits(value, one) for one in plain or inside)
    if origin is typing.Literal:
        return any(value == one and type(value) is type(one) for one in inside)
    if origin is typing.Annotated:
        return fits(value, inside[0])
    if wanted is None or wanted is type(None):
        return value is None
    if wanted in (bool, str):
        return isinstance(value, wanted)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if wanted is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    kind = origin or wanted
    if not inspect.isclass(kind) or kind is object:
        return True
    if issubclass(kind, tuple):
        if not isinstance(value, list):
            return False
        if inside and inside[-1] is not Ellipsis:
            return len(value) == len(inside) and all(map(fits, value, inside))
        return all(fits(one, inside[0]) for one in value) if inside else True
    if issubclass(kind, Mapping):
        return isinstance(value, dict) and (not inside or all(fits(one, inside[1]) for one in value.values()))
    if kind in (list, set, frozenset) or _is_collection(kind):
        return isinstance(value, list) and (not inside or all(fits(one, inside[0]) for one in value))
    return True


def _is_plain(wanted: Any) -> bool:
    """Whether an annotation says something of plain values; a tensor or a callable does not."""
    kind = typing.get_origin(wanted) or wanted
    return kind is typing.Literal or kind in (bool, int, float, str, list, tuple, dict) or _is_collection(kind)


def _is_collection(kind: Any) -> bool:
    return inspect.isclass(kind) and kind.__module__ == "collections.abc" and issubclass(list, kind)


def in_words(wanted: Any) -> str:
    """An annotation as people say it: "a whole number or null"."""
    origin, inside = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        said = [one for one in inside if one is type(None) or _is_plain(one)]
        return " or ".join(dict.fromkeys(in_words(one) for one in said))
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, inside))}"
    if origin is typing.Annotated:
        return in_words(inside[0])
    plain = {bool: "true or false", str: "text", int: "a whole number", float: "a finite number"}
    if wanted in (None, type(None)):
        return "null"
    if wanted in plain:
        return plain[wanted]
    kind = origin or wanted
    if inspect.isclass(kind) and issubclass(kind, Mapping):
        return "a mapping"
    if inspect.isclass(kind) and issubclass(kind, (tuple, list, Sequence, Iterable)):
        if kind is tuple and inside and inside[-1] is not Ellipsis:
            return f"a list of {len(inside)}"
        return "a list"
    return getattr(wanted, "__name__", str(wanted))


def shown(value: Any) -> str:
    """A value as it stands in a message, cut where it is long."""
    text = {None: "null", True: "true", False: "false"}.get(value) if isinstance(value, bool | None) else str(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _evaluated(annotation: Any, constructor: Callable[..., Any]) -> Any:
    """An annotation that is text, evaluated where it was written; anything goes where that can't be done."""
    if not isinstance(annotation, str):
        return annotation
    function = inspect.unwrap(constructor)
    names = getattr(function, "__globals__", {})
    hints = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        return typing.get_type_hints(hints, globalns=names, localns={}, include_extras=True)["it"]
    except Exception:  # a name that only type checkers import
        return Any
