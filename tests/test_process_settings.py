"""What tests are kept apart by: whatever a run sets for its process is put back, also where it ends in an error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import initialize
from hydra.core.global_hydra import GlobalHydra
from process_settings import CUBLAS, kept

from brsweep import kernels
from brsweep.config.compose import VERSION_BASE


def settings() -> tuple:
    return (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.backends.cudnn.benchmark,
        os.environ.get(CUBLAS),
        kernels._choice,
        GlobalHydra.instance().hydra,
    )


@pytest.mark.parametrize("load", [True, False])
def test_everything_is_as_before(load):
    before = settings()
    with pytest.raises(ZeroDivisionError), kept(load):
        torch.set_num_threads(before[0] + 1)
        torch.use_deterministic_algorithms(not before[1], warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = not before[3]
        torch.backends.cudnn.benchmark = not before[4]
        os.environ[CUBLAS] = "else"
        kernels.use("reference" if before[6] != "reference" else "numba")
        initialize(**VERSION_BASE)
        during = settings()
        1 / 0  # noqa: B018
    assert settings() == before
    assert all(a != b for a, b in zip(during, before, strict=True))


def test_nothing_is_loaded_for_who_does_not_use_it():
    code = "import sys; from process_settings import MODULES, kept\nwith kept(load=False): pass\n"
    code += "assert not {'torch', 'hydra', 'brsweep', *MODULES} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent)
    assert done.returncode == 0
