"""Whether a run's parts can be made and fit each other, asked before anything is written or trained.

A misspelt argument of the second optimizer would otherwise stop a run after its whole float stage. What was found
sound is remembered in this process: the points of a grid have most parts in common.
"""

from __future__ import annotations

import inspect
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from brsweep import kernels, targets
from brsweep.arguments import check_arguments
from brsweep.errors import BrsweepError
from brsweep.stages.device import check_device, set_workspace
from brsweep.stages.fitting import check_together
from brsweep.stages.plan import WAYS_TO_TRAIN
from brsweep.stages.signature import digest
from brsweep.stages.source import source_node
from brsweep.training.optim import GROUP_OPTIONS

_sound: set[str] = set()


def check_parts(
    config: Mapping[str, Any], device: bool = True, source: Any = None, made: dict[str, Any] | None = None
) -> None:
    """Raise `BrsweepError` unless the run can begin: its places can be written, every target exists and takes its
    arguments, the parts can be made and fit the data, and device and kernels are there.

    device: false leaves out device, kernels and compiler, for runs that will train on another machine.
    source: the run's data where it is at hand already. made: for the points of a grid, one mapping for all of them,
        empty at first: networks that neighbours have in common are built once.
    """
    found = _check_device(config) if device else None
    for key in ("output_dir", "store_dir"):
        _check_writable(key, Path(config[key]))
    check_signatures(config)
    parts = (
        "data", "model", "float_optimizer", "qat_optimizer", "quant", "reg", *WAYS_TO_TRAIN,
        "pretrained", "pretrained_replace_head", "output_dir",
    )  # fmt: skip
    strict = found is not None and found.type == "cuda" and config["deterministic"]
    key = digest({name: config[name] for name in parts} | {"strict": strict})
    if key not in _sound:
        check_together(config, source, strict, made)
        _sound.add(key)


def check_signatures(config: Mapping[str, Any]) -> None:
    """Raise `BrsweepError` unless every target exists, is of its key's kind, and takes its arguments. Makes nothing."""
    model = targets.locate("model", config["model"][targets.TARGET])
    offered = {"in_channels": 3, "image_size": (32, 32)}  # of the data, where the factory's signature names them
    _check("model", config["model"], num_classes=2, **{k: offered[k] for k in _named(model) & offered.keys()})
    _check("data", source_node(config))
    _check("reg", config["reg"])
    for which in ("float_optimizer", "qat_optimizer"):
        _check(which, {k: v for k, v in config[which].items() if k not in GROUP_OPTIONS}, params=[], lr=1.0)
    quantizer = config["quant"]["quantizer"]
    _check("quant.quantizer", quantizer, bits=2, signed=True, per_channel=False, channels=1, axis=0)
    _check("quant.quantizer", quantizer, bits=2, signed=False, count="sample")
    if config["logger"].get(targets.TARGET) is not None:
        _check("logger", config["logger"], folder=None, run=None)


def _named(factory: Callable[..., Any]) -> set[str]:
    try:
        return set(inspect.signature(factory).parameters)
    except (TypeError, ValueError):
        return set()


def _check(where: str, node: Mapping[str, Any], **given: Any) -> None:
    own = {key: value for key, value in node.items() if key != targets.TARGET}
    check_arguments(where, node[targets.TARGET], targets.locate(where, node[targets.TARGET]), own, given)


def _check_device(config: Mapping[str, Any]) -> torch.device:
    found = check_device(config)
    set_workspace(found, config["deterministic"])
    kernels.use(config["kernels"], found.type)
    if config["compile"] and found.type == "cpu":
        compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
        if shutil.which(compiler) is None:
            raise BrsweepError(
                f"compile=true: torch.compile wants a C++ compiler on a CPU, and {compiler} is not found; install "
                f"it, name another in the variable CXX, or set compile=false"
            )
    if config["compile"] and found.type == "cuda" and find_spec("triton") is None:
        raise BrsweepError("compile=true: torch.compile wants Triton on CUDA; pip install triton, or set compile=false")
    return found


def _check_writable(key: str, path: Path) -> None:
    """Try it beside what is there: a folder that is made and removed could be another run's in between."""
    there = path.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".brsweep-", dir=there))
    except OSError as error:
        raise BrsweepError(
            f"{key}={path}: {there} can't be written ({error.strerror}); choose another folder"
        ) from None
