"""Whether a run's parts can be made at all, asked before anything is written or trained.

A misspelt argument of the second optimizer would otherwise stop a run after its whole float stage.
"""

from __future__ import annotations

import inspect
import os
import shutil
import sys
from collections.abc import Mapping
from typing import Any

from brsweep import kernels, targets
from brsweep.errors import BrsweepError
from brsweep.stages.bench import find_device
from brsweep.training.optim import GROUP_OPTIONS

QUANTIZER_CALLS = (
    {"bits": 2, "signed": True, "per_channel": False, "channels": 1, "axis": 0},
    {"bits": 2, "signed": False, "count": "sample"},
)
"""How the weights' and the activations' quantizers are made."""


def check_parts(config: Mapping[str, Any], device: bool = True) -> None:
    """Raise `BrsweepError` unless every target exists and takes its arguments, and device and kernels are there.

    device: false leaves out device, kernels and compiler, for runs that will train on another machine.
    """
    if device:
        found = find_device(config["device"])
        kernels.use(config["kernels"], found.type)
        if config["compile"] and found.type == "cpu":
            _check_compiler()
    factory = targets.locate("model", config["model"][targets.TARGET])
    offered = {"in_channels": 3, "image_size": (32, 32)}  # of the data, where the factory's signature names them
    taken = {key: value for key, value in offered.items() if key in inspect.signature(factory).parameters}
    _check("model", config["model"], num_classes=2, **taken)
    _check("reg", config["reg"])
    for which in ("float_optimizer", "qat_optimizer"):
        _check(which, {k: v for k, v in config[which].items() if k not in GROUP_OPTIONS}, [], lr=1.0)
    for given in QUANTIZER_CALLS:
        _check("quant.quantizer", config["quant"]["quantizer"], **given)
    if config["logger"].get(targets.TARGET) is not None:
        _check("logger", config["logger"], folder=None, run=None)


def _check_compiler() -> None:
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise BrsweepError(
            f"compile=true: torch.compile wants a C++ compiler on a CPU, and {compiler} is not found; install it, "
            f"name another in the variable CXX, or set compile=false"
        )


def _check(where: str, node: Mapping[str, Any], *args: Any, **given: Any) -> None:
    target = node[targets.TARGET]
    own = {key: value for key, value in node.items() if key != targets.TARGET}
    targets.check_arguments(where, target, targets.locate(where, target), args, own | given)
