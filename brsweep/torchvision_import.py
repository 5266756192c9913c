"""Import torchvision, also where its compiled extension does not fit the installed torch.

The registry's torchvision wheel is built for CUDA. Beside a CPU-only torch its extension cannot load, so nobody
declares the operators nms and qnms, and `import torchvision` and every submodule of it fail with "operator
torchvision::nms does not exist", although data sets, transforms and classifiers use neither. Declaring the two schemas
first lets the import through. Where the extension loads it declares them itself, and nothing here is touched.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

UNDECLARED = ("nms", "qnms")
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def import_torchvision() -> ModuleType:
    """torchvision, imported. Call it before any `torchvision.*` import or before resolving a `_target_` in it."""
    import torch

    if not _extension_loads():
        for name in UNDECLARED:
            if not hasattr(torch.ops.torchvision, name):
                torch.library.define(f"torchvision::{name}", SCHEMA)
    import torchvision

    return torchvision


def _extension_loads() -> bool:
    """Whether torchvision's operators can be had; loads them where they can. Does not import torchvision."""
    import torch

    spec = importlib.util.find_spec("torchvision")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for library in sorted(Path(folder).glob("_C*.*")):
            try:
                torch.ops.load_library(str(library))
            except (ImportError, OSError):  # what torchvision itself takes for "no extension"
                continue
            return True
    return False
