"""A finished run's folder -> its network, in evaluation mode, as it was scored.

    network = brsweep.load("runs/default/<run>")
    network.predict(images)                        # uint8 [N, H, W, C] -> int64 [N], indices into network.classes

All that it takes is in the folder, which may be copied anywhere: the weights, the configuration, and of the data its
image size, channels, mean, spread and classes. Nothing else is read, no data set and no pretrained file. Scoring the
test set gives the accuracy of the run's result, to the last image, on an equal device with equal threads and versions.

What is read is data: weights without code, and a network's class from the packages where such parts live or from one
with consent (`allow_targets`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from brsweep import targets
from brsweep.errors import BrsweepError
from brsweep.export.pictures import Preprocess
from brsweep.quant.convert import RELU_ONLY, Conversion
from brsweep.runs.folder import CONFIG, WHICH, RunFolder
from brsweep.stages.device import find_device
from brsweep.stages.plan import run_code
from brsweep.stages.setup import Networks

BATCH = 512
STOP, KEEP = "stop", "keep"
IMAGES = {"size": list, "channels": int, "mean": list, "std": list, "classes": list}


@dataclass(frozen=True)
class Network:
    """A run's network, ready to be used.

    model: the quantized module in evaluation mode; takes what `preprocess` gives. classes: names, in the order of its
    outputs. record: the run's result. which: "best" or "last". conversion: its sites, and what stayed float.
    """

    model: nn.Module
    classes: tuple[str, ...]
    preprocess: Preprocess
    record: Mapping[str, Any]
    folder: Path
    which: str
    reestimated: bool
    conversion: Conversion

    @torch.no_grad()
    def logits(self, images: Any, batch_size: int = BATCH) -> Tensor:
        """float32 [N, classes] on the CPU. images: see `Preprocess`."""
        if isinstance(images, (np.ndarray, Tensor)) and images.ndim == 4:
            parts = [images[first : first + batch_size] for first in range(0, len(images), batch_size)]
        else:
            parts = [images]
        found = []
        for part in parts:
            values = self.preprocess(part)
            with self.autocast():
                found.append(self.model(values).float().cpu())
        return torch.cat(found) if found else torch.empty(0, len(self.classes))

    def predict(self, images: Any, batch_size: int = BATCH) -> Tensor:
        """int64 [N]: the index of each image's class."""
        return self.logits(images, batch_size).argmax(1)

    def autocast(self) -> AbstractContextManager:
        """The precision that the run was scored with."""
        return torch.autocast(self.preprocess.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    @property
    def bf16(self) -> bool:
        return self.record["config"]["precision"] == "bf16"


def load(
    run: str | os.PathLike[str] | Mapping[str, Any],
    which: str = "best",
    device: str = "auto",
    *,
    reestimated: bool = False,
    stale: str = STOP,
    allow_targets: Sequence[str] = (),
) -> Network:
    """The network of a finished run.

    run: its folder, or its result as the training returned it. which: "best" for the epoch that validation chose, whose
    test accuracy the run reports, or "last". device: auto, cpu, cuda, cuda:1. reestimated: with the batch norm that the
    run re-estimated on training batches (reestimate_bn_batches). stale: "keep" takes a run that was finished under
    other training code or versions, which "stop" refuses. allow_targets: packages of your own whose code may be run.

    Raises `BrsweepError`, one line, for a run that is not finished, damaged, of other code, or of a brsweep that did
    not record what loading needs.
    """
    if which not in WHICH or stale not in (STOP, KEEP):
        raise BrsweepError(f"which={which!r}, stale={stale!r}: choose of {', '.join(WHICH)} and of {STOP}, {KEEP}")
    folder = RunFolder(_folder_of(run))
    result = _result_of(folder)
    images = _images_of(result, folder)
    if allow_targets:
        targets.consent(allow_targets)
    if stale != KEEP:
        _check_code(result, folder)
    where = find_device(device)
    config = {**result["config"], "pretrained": None}
    try:
        config["quant"] = {"inputs": RELU_ONLY} | config["quant"]  # what runs did before there was a choice
        size = (images["size"][0], images["size"][1])
        networks = Networks(config, len(images["classes"]), images["channels"], size, where)
        model, conversion = networks.quantized_model()
        model.load_state_dict(folder.weights(which, reestimated))
        preprocess = Preprocess(images, where, config["channels_last"])
    except (KeyError, TypeError, IndexError) as error:
        raise BrsweepError(f"{folder.path}: its configuration is not one that this brsweep knows ({error!r})") from None
    except RuntimeError as error:
        words = " ".join(str(error).split())[:200]
        raise BrsweepError(f"{folder.path}: the weights don't fit the network of its configuration ({words})") from None
    return Network(
        model.eval(), tuple(images["classes"]), preprocess, result, folder.path, which, reestimated, conversion
    )


def _folder_of(run: str | os.PathLike[str] | Mapping[str, Any]) -> Path:
    if not isinstance(run, Mapping):
        return Path(run)
    try:
        return Path(run["config"]["output_dir"]) / run["sweep"] / run["name"]
    except (KeyError, TypeError):
        raise BrsweepError("load: this mapping is no run's result; give one, or the run's folder") from None


def _result_of(folder: RunFolder) -> dict[str, Any]:
    if not folder.path.is_dir():
        raise BrsweepError(f"{folder.path}: no such folder; give a run's, runs/<sweep>/<run>")
    result = folder.result()
    if result is None:
        begun = (folder.path / CONFIG).exists()
        raise BrsweepError(
            f"{folder.path}: not finished yet; its command again goes on with it"
            if begun
            else f"{folder.path}: no run's folder, it holds no result.json; give runs/<sweep>/<run>"
        )
    return result


def _images_of(result: Mapping[str, Any], folder: RunFolder) -> Mapping[str, Any]:
    images = result.get("images")
    if not isinstance(images, Mapping):
        raise BrsweepError(
            f"{folder.path}: of an older brsweep, which did not record the images' size, mean, spread and classes; the "
            f"same command with stale=retrain trains the run again"
        )
    whole = all(isinstance(images.get(key), kind) for key, kind in IMAGES.items())
    if not whole or not isinstance(result.get("config"), Mapping):
        raise BrsweepError(f"{folder.path}: its result is not one that this brsweep knows")
    return images


def _check_code(result: Mapping[str, Any], folder: RunFolder) -> None:
    try:
        code = run_code(result["config"])
    except (KeyError, TypeError):
        code = "unknown"
    if code != result.get("code"):
        raise BrsweepError(
            f"{folder.path}: finished under other training code or versions ({result.get('code')}, this is {code}), so "
            f"its network may compute otherwise here; stale=keep takes it all the same"
        )
