"""State on disk: written in one atomic move, read without running code, refused in one line where it does not fit."""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from brsweep.errors import BrsweepError


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, containers) so that `path` holds the old state or the new one, whole.

    Raises `BrsweepError` where the disk is full or the folder can't be written; the old state stays.
    """
    part = path.with_name(f".{path.name}.part")  # one name, so what a killed process left is used up by the next
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, RuntimeError) as error:
        part.unlink(missing_ok=True)
        why = _reason(error)
        raise BrsweepError(f"{path}: can't be written ({why}); free the disk or choose another folder") from None


def load(path: Path) -> Any:
    """Read what `save` wrote. Raises `BrsweepError` for a file that is missing, damaged, or a pickle with code."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch warns of pickle protocols before it refuses the file
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise BrsweepError(f"{path}: no such checkpoint") from None
    except pickle.UnpicklingError as error:
        if "WeightsUnpickler" in str(error) or "weights_only" in str(error).lower():
            raise BrsweepError(f"{path}: refused, because it holds more than tensors and plain values") from None
        raise BrsweepError(f"{path}: damaged or no checkpoint ({_reason(error)})") from None
    except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, ValueError, KeyError, IndexError, TypeError) as error:
        raise BrsweepError(f"{path}: damaged or no checkpoint ({_reason(error)})") from None


def load_pretrained(path: Path, model: nn.Module, replace_head: bool = False) -> None:
    """Put a float checkpoint into a float network: ours, or a plain state dict (also under "state_dict" or "model").

    replace_head: leave out the last layer's parameters where their shapes differ, and keep its fresh values.
    Raises `BrsweepError` that lists the mismatches.
    """
    content = load(path)
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise BrsweepError(f"{path}: holds no state dict; give a file of name -> tensor, or a checkpoint of brsweep")
    state = {key.removeprefix("module."): value for key, value in content.items()}
    own = model.state_dict()
    shapes = [key for key in own if key in state and state[key].shape != own[key].shape]
    head = _head(model)
    if replace_head:
        state = {key: value for key, value in state.items() if not (key in shapes and key.startswith(head + "."))}
        shapes = [key for key in shapes if not key.startswith(head + ".")]
    missing = [key for key in own if key not in state and not (replace_head and key.startswith(head + "."))]
    mismatches = [f"missing {key}" for key in missing] + [f"unknown {key}" for key in state if key not in own]
    mismatches += [f"{key} is {_shape(state[key])}, wanted {_shape(own[key])}" for key in shapes]
    if mismatches:
        shown = "; ".join(mismatches[:6]) + (f"; and {len(mismatches) - 6} more" if len(mismatches) > 6 else "")
        only_head = len(mismatches) == len(shapes) and all(key.startswith(head + ".") for key in shapes)
        hint = " (pretrained_replace_head=true keeps a fresh last layer)" if only_head else ""
        raise BrsweepError(f"{path}: not this architecture: {shown}{hint}")
    model.load_state_dict(state, strict=False)


def _head(model: nn.Module) -> str:
    return [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))][-1]


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _reason(error: BaseException) -> str:
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return text[:120] or type(error).__name__
