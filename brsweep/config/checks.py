"""The words that fields are checked with: `whole(1)`, `number(0, below=1)`, `maybe(text)`.

A check takes what was composed and gives it back as its field holds it (6 as 6.0 where a number is wanted), or refuses
it in words. Fields are `Any` to OmegaConf, which would turn 2.7 into 2, "yes" and 4 into true without a word.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from brsweep.quant.grid import FLOAT_BITS

Check = Callable[[Any], Any]
"""A value -> the value as its field holds it. Raises ValueError with what is wanted instead."""

LARGEST_SEED = 2**64
LONGEST_NAME = 200
"""Bytes of a folder's name; file systems take 255, and brsweep appends to some."""


def whole(low: int, high: int | None = None) -> Check:
    wanted = f"a whole number, {low} or more" if high is None else f"a whole number from {low} to {high}"

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
            raise ValueError(wanted)
        return value

    return check


def number(low: float = 0.0, *, above: bool = False, below: float = math.inf, most: float = math.inf) -> Check:
    """A finite number from `low` on, or `above` it, below `below`, and `most` at most."""
    wanted = f"a number above {low:g}" if above else f"a number, {low:g} or more"
    wanted = "a finite number" if low == -math.inf else wanted
    wanted += "" if below == math.inf else f" and below {below:g}"
    wanted = wanted if most == math.inf else f"a number from {low:g} to {most:g}"

    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(wanted)
        try:
            value = float(value)
        except OverflowError:
            raise ValueError(wanted) from None
        inside = low <= value < below and value <= most and not (above and value == low)  # NaN is in no range
        if not inside or value == -math.inf:
            raise ValueError(wanted)
        return value

    return check


def yes_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def seed(value: Any) -> int:
    if value == "auto":
        raise ValueError("only a sweep finds how many seeds it takes: python -m brsweep.train --multirun seed=auto")
    return whole(0, LARGEST_SEED)(value)


def choice(*options: str) -> Check:
    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in options:
            raise ValueError(f"choose one of {', '.join(options)}")
        return value

    return check


def text(value: Any) -> str:
    """Numbers are taken as they are written: sweep_name=2026."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError("a text of printable characters, not empty")
    return value


def word(value: Any) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][\w.+]{0,39}", str(value), re.ASCII) or isinstance(value, bool):
        raise ValueError("a word of at most 40 letters, digits, and _ . +")
    return str(value)


def folder(value: Any) -> str:
    value = text(value)
    if "\\" in value or any(len(part.encode()) > LONGEST_NAME for part in value.split("/")):
        raise ValueError(f"a folder's name has no backslash, and at most {LONGEST_NAME} bytes")
    return value


def folder_inside(value: Any) -> str:
    value = folder(value)
    if value.startswith((".", "/")) or ".." in value.split("/"):
        raise ValueError("a folder name inside output_dir; no leading dot or slash")
    return value


def file(value: Any) -> str:
    value = text(value)
    if Path(value).exists() and not Path(value).is_file():
        raise ValueError("a file is wanted")
    return value


def maybe(check: Check) -> Check:
    def checked(value: Any) -> Any:
        try:
            return None if value is None else check(value)
        except ValueError as error:
            raise ValueError(f"{error}, or null for none") from None

    return checked


def each(check: Check) -> Check:
    def checked(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise ValueError("a list, [...]")
        return [check(one) for one in value]

    return checked


def mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("keys and values, {key: value}")
    return value


def part(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("a part is a _target_ and its arguments, not one value")
    return value


def bits(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not (1 <= value <= 8 or value == FLOAT_BITS):
        raise ValueError(f"bits are 1 to 8, or {FLOAT_BITS} to stay float")
    return value


def bits_by_pattern(value: Any) -> Any:
    if not isinstance(value, (dict, type(None))):
        raise ValueError("give patterns and bits, {layer3.*: 4}, or null")
    for pattern, override in (value or {}).items():
        for kind, width in (override if isinstance(override, dict) else {"weight": override}).items():
            try:
                choice("weight", "act")(kind)
                bits(width)
            except ValueError as error:
                raise ValueError(f"{pattern}: {error}") from None
    return value


def device(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", value):
        raise ValueError("choose auto, cpu or cuda (cuda:1 for the second one)")
    return value


def device_list(value: Any) -> list[str]:
    """GPUs as CUDA_VISIBLE_DEVICES names them: numbers, or UUIDs that begin with GPU- or MIG-."""
    for one in value if isinstance(value, list) else [None]:
        if isinstance(one, bool) or not re.fullmatch(r"\d{1,3}|(GPU|MIG)-[\w/-]+", str(one)):
            raise ValueError("a list of GPUs, [0,1]")
    return [str(one) for one in value]


def package(value: Any) -> str:
    if not isinstance(value, str) or not all(part.isidentifier() for part in value.split(".")):
        raise ValueError("a list of packages' names, [mypackage]")
    return value
