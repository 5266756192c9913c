"""The grid: bounds and levels for every bit-width, and that no other file of the package computes them."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

import brsweep
from brsweep.errors import BrsweepError
from brsweep.quant.grid import FLOAT_BITS, Grid

BOUNDS = {
    (1, True): (-1, 0), (2, True): (-2, 1), (3, True): (-4, 3), (4, True): (-8, 7),
    (5, True): (-16, 15), (6, True): (-32, 31), (7, True): (-64, 63), (8, True): (-128, 127),
    (1, False): (0, 1), (2, False): (0, 3), (3, False): (0, 7), (4, False): (0, 15),
    (5, False): (0, 31), (6, False): (0, 63), (7, False): (0, 127), (8, False): (0, 255),
}  # fmt: skip


@pytest.mark.parametrize(("bits", "signed"), BOUNDS)
def test_bounds_codes_and_levels(bits, signed):
    grid = Grid(bits, signed)
    qn, qp = BOUNDS[bits, signed]
    assert (grid.qn, grid.qp, grid.bins) == (qn, qp, qp - qn + 1)
    assert list(grid.codes) == list(range(qn, qp + 1))
    levels = grid.levels(torch.tensor(0.25))
    assert levels.shape == (grid.bins,)
    assert levels.tolist() == [0.25 * k for k in range(qn, qp + 1)]


def test_levels_per_channel_and_in_alphas_dtype():
    levels = Grid(2, signed=True).levels(torch.tensor([1.0, 0.5], dtype=torch.float64))
    assert levels.dtype == torch.float64
    assert levels.tolist() == [[-2.0, -1.0, 0.0, 1.0], [-1.0, -0.5, 0.0, 0.5]]


@pytest.mark.parametrize("bits", [0, 9, -1, FLOAT_BITS, 2.0, "2", None, True])
def test_bits_that_no_grid_has_are_refused(bits):
    with pytest.raises(BrsweepError, match=r"1 to 8 bits; 32 means float"):
        Grid(bits, signed=True)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint64])
def test_any_integer_will_do_for_bits(kind):
    for bits in range(1, 9):
        grid = Grid(kind(bits), signed=True)
        assert grid == Grid(bits, signed=True)
        assert [type(n) for n in (grid.bits, grid.qn, grid.qp, grid.bins)] == [int] * 4
        assert repr(grid) == repr(Grid(bits, signed=True))
    for wrong in (np.int64(0), np.int64(9), np.float32(2), np.bool_(True), np.array([2, 3])):
        with pytest.raises(BrsweepError, match=r"1 to 8 bits"):
            Grid(wrong, signed=True)


def test_equal_grids_are_one_key():
    assert {Grid(2, True): "a"}[Grid(2, True)] == "a"
    assert Grid(2, True) != Grid(2, False)


def _powers_of_two_by_bits(source: str) -> list[int]:
    """Lines that raise 2 to a number of bits, or shift a 1 by it."""

    def names_bits(node: ast.expr) -> bool:
        words = [
            n.id if isinstance(n, ast.Name) else n.attr
            for n in ast.walk(node)
            if hasattr(n, "id") or hasattr(n, "attr")
        ]
        return any("bits" in word.lower() or word in ("b", "bit") for word in words)

    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.BinOp) and isinstance(node.left, ast.Constant) and names_bits(node.right):
            power = isinstance(node.op, ast.Pow) and node.left.value == 2
            shift = isinstance(node.op, ast.LShift) and node.left.value == 1
            if power or shift:
                found.append(node.lineno)
    return found


def test_no_other_file_turns_bits_into_a_number_of_levels():
    package = Path(brsweep.__file__).parent
    found = {
        path.relative_to(package).as_posix(): _powers_of_two_by_bits(path.read_text()) for path in package.rglob("*.py")
    }
    assert len(found) > 10
    assert len(found.pop("quant/grid.py")) == 4  # so the search finds what it looks for
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize("line", ["n = 2**bits", "n = 2 ** (self.act_bits - 1)", "n = 1 << b", "n = 2.0 ** grid.bits"])
def test_the_search_knows_the_spellings(line):
    assert _powers_of_two_by_bits(line) == [1]
