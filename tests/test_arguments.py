"""Arguments against signatures and annotations: what plain values fit, and what is said of those that don't."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import pytest
import torch

from brsweep.arguments import check_arguments, fits, in_words, shown
from brsweep.errors import BrsweepError

VALUES = {
    "null": None, "true": True, "1": 1, "huge": 10**30, "1.0": 1.0, "nan": math.nan, "inf": math.inf, "text": "x",
    "empty": "", "[]": [], "[1]": [1], "[1,2.5]": [1, 2.5], "['a']": ["a"], "{}": {}, "{a:1}": {"a": 1},
}  # fmt: skip
EVERY = set(VALUES)
LISTS = {"[]", "[1]", "[1,2.5]", "['a']"}
FITTING = [
    (bool, {"true"}),
    (int, {"1", "huge"}),
    (float, {"1", "huge", "1.0"}),
    (str, {"text", "empty"}),
    (None, {"null"}),
    (int | None, {"1", "huge", "null"}),
    (float | None, {"1", "huge", "1.0", "null"}),
    (int | str, {"1", "huge", "text", "empty"}),
    (float | torch.Tensor, {"1", "huge", "1.0"}),
    (Literal["x", 1], {"text", "1"}),
    (Annotated[int, "of pixels"], {"1", "huge"}),
    (list, LISTS),
    (list[int], {"[]", "[1]"}),
    (Sequence[float], {"[]", "[1]", "[1,2.5]"}),
    (tuple[float, float], {"[1,2.5]"}),
    (tuple[int, ...], {"[]", "[1]"}),
    (dict, {"{}", "{a:1}"}),
    (Mapping[str, int] | None, {"{}", "{a:1}", "null"}),
    (dict[str, str], {"{}"}),
    (Any, EVERY),
    (Callable[..., int], EVERY),
    (torch.Tensor, EVERY),
]


@pytest.mark.parametrize(("wanted", "fitting"), FITTING, ids=lambda v: str(sorted(v) if isinstance(v, set) else v)[:40])
def test_a_value_fits_an_annotation(wanted, fitting):
    assert {name for name, value in VALUES.items() if fits(value, wanted)} == fitting


def test_annotations_in_words():
    assert in_words(int | None) == "a whole number or null"
    assert in_words(float | torch.Tensor) == "a finite number"
    assert in_words(tuple[float, float]) == "a list of 2"
    assert in_words(Literal["a", "b"]) == "one of a, b"
    assert in_words(Mapping[str, int]) == "a mapping"


class Part:
    def __init__(self, size: int, given: str, *, names: list[str] | None = None, free=None) -> None: ...


class Heir(Part):
    pass


def later(size: int, missing: NotThere = None):  # noqa: F821
    """A function with an annotation that only type checkers know."""


def anything(size: float, **options):
    """A function that takes whatever comes."""


@pytest.mark.parametrize("factory", [Part, Heir])
def test_names_and_types_are_checked_before_anything_is_made(factory):
    def check(**own):
        check_arguments("reg", "a.Part", factory, own, {"given": "g"})

    check(size=1)
    check(size=1, names=["a"], free=object())
    for own, says in (
        ({"size": 1.0}, r"reg.size=1.0: a.Part takes a whole number there"),
        ({"size": True}, r"reg.size=true: a.Part takes a whole number"),
        ({"size": 1, "names": "a"}, r"reg.names=a: a.Part takes a list or null"),
        ({"size": 1, "names": [1]}, r"reg.names=\[1\]"),
        ({}, r"missing a required argument: 'size'; it takes size, given, names, free"),
        ({"size": 1, "sizes": 1}, r"unexpected keyword argument 'sizes'; it takes"),
        ({"size": 1, "given": "x"}, r"reg.given: is given by brsweep itself"),
    ):
        with pytest.raises(BrsweepError, match=says):
            check(**own)


def test_what_cannot_be_known_is_left_to_the_part():
    check_arguments("reg", "x", later, {"size": 1, "missing": "anything"}, {})
    check_arguments("reg", "x", anything, {"size": 1, "more": [1]}, {})
    check_arguments("reg", "x", dict, {"a": 1}, {})
    with pytest.raises(BrsweepError, match="takes a finite number"):
        check_arguments("reg", "x", anything, {"size": math.nan}, {})


def test_a_value_in_a_message_is_short():
    assert [shown(value) for value in (None, True, 1.5, "x")] == ["null", "true", "1.5", "x"]
    assert len(shown({"key": "x" * 500})) == 80
