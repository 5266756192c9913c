"""Import torchvision, also where its compiled extension does not fit the installed torch.

The registry's torchvision wheel is built for CUDA. Beside a CPU-only torch its extension cannot load, so nobody
declares the operators nms and qnms, and `import torchvision` and every submodule of it fail with "operator
torchvision::nms does not exist", although data sets, transforms and classifiers use neither. Declaring the two schemas
first lets the import through. Where the extension loads it declares them itself, and nothing here is touched.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType

UNDECLARED = ("nms", "qnms")
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def import_torchvision() -> ModuleType:
    """torchvision, imported."""
    make_importable()
    import torchvision

    return torchvision


def make_importable() -> None:
    """From here on whoever imports torchvision, or a package that does (timm), gets it. Imports nothing itself."""
    if "torchvision" not in sys.modules and not any(isinstance(finder, _Forerunner) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Forerunner())


class _Forerunner(MetaPathFinder):
    """Finds nothing; declares what is missing when somebody first looks for torchvision, and is gone."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            _declare_missing()


def _declare_missing() -> None:
    libraries = _extensions()
    if libraries is None:
        return
    import torch

    for library in libraries:
        try:
            torch.ops.load_library(str(library))
        except (ImportError, OSError):  # what torchvision itself takes for "no extension"
            continue
        return
    for name in UNDECLARED:
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", SCHEMA)


def _extensions() -> list[Path] | None:
    """The files of torchvision's extension; None where torchvision is not installed."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None:
        return None
    return [file for folder in spec.submodule_search_locations or () for file in sorted(Path(folder).glob("_C*.*"))]
