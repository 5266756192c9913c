"""How much room words take on files, without drawing them."""

from __future__ import annotations

import textwrap

LETTER = 0.0075
"""Inches that a letter takes for each point of its size; a digit takes less."""


def wrapped(text: str, inches: float, size: float) -> str:
    """`text` in as many lines as it takes in letters of `size` points.

    >>> wrapped("regularizer BR, lambda_act 1", 1.2, 8)
    'regularizer BR,\\nlambda_act 1'
    """
    return textwrap.fill(text, max(1, int(inches / (LETTER * size))))
