"""What a run sets for its whole process, put back for whoever works in that process next."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

MODULES = ("torch", "brsweep.kernels", "hydra.core.global_hydra")
"""Where these settings live."""
CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def kept(load: bool = True) -> Iterator[None]:
    """Threads, deterministic algorithms and what they fill, cuDNN's search, cuBLAS's workspace, the kernels chosen
    and their form, and Hydra's state are as before.

    load: import what has them. Otherwise only what is loaded already is kept: who needs no torch does not wait for it.
    """
    torch, kernels, hydra = (import_module(name) if load else sys.modules.get(name) for name in MODULES)
    if torch:
        threads, cudnn = torch.get_num_threads(), torch.backends.cudnn.benchmark
        strict = torch.are_deterministic_algorithms_enabled()
        only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
        fills = torch.utils.deterministic.fill_uninitialized_memory
    workspace = os.environ.get(CUBLAS)
    choice = kernels._choice if kernels else None
    composing = hydra and hydra.GlobalHydra.instance().hydra
    try:
        yield
    finally:
        if torch:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(strict, warn_only=only_warns)
            torch.utils.deterministic.fill_uninitialized_memory = fills
            torch.backends.cudnn.benchmark = cudnn
        os.environ.pop(CUBLAS, None)
        os.environ |= {} if workspace is None else {CUBLAS: workspace}
        if kernels:
            kernels._choice = choice
        if hydra:
            hydra.GlobalHydra.instance().hydra = composing
