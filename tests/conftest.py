"""Fixtures of all tests."""

from __future__ import annotations

import pytest
from process_settings import kept


@pytest.fixture(autouse=True)
def process_settings():
    """No test leaves another one its threads, its kernels or its Hydra."""
    with kept(load=False):
        yield
