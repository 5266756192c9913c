"""The trained integers, packed: codes.safetensors with the values, codes.json with what they mean and what they cost.

A weight of b bits takes b bits: each code less the lowest one is a number of b bits, lowest bit first, one after the
other, so four 2-bit weights fill a byte. Step sizes are float32, in a shape that multiplies the codes; what stays float
(batch norm, biases, layers without bits) is float32 under its own name.

    weight       level = (number + lowest) * steps
    activation   level = step * round(clamp(value / step, lowest, highest)), half to even
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from brsweep.export.extra import wanted
from brsweep.export.levels import ActivationLevels, Levels, WeightLevels
from brsweep.export.load import Network
from brsweep.export.program import Program, is_float


def pack(codes: np.ndarray, bits: int, lowest: int) -> np.ndarray:
    """Codes of any shape, from `lowest` on, as a row of bytes; the last byte's unused bits are 0.

    >>> pack(np.array([-2, 1, 0, -1]), bits=2, lowest=-2).tolist()
    [108]
    """
    numbers = (codes.reshape(-1, 1).astype(np.int16) - lowest).astype(np.uint8)
    return np.packbits(np.unpackbits(numbers, axis=1, count=bits, bitorder="little"), bitorder="little")


def unpack(packed: np.ndarray, shape: tuple[int, ...], bits: int, lowest: int) -> np.ndarray:
    """The codes, int16, of that shape. Raises ValueError where there are too few bytes."""
    count = int(np.prod(shape))
    numbers = np.unpackbits(packed, count=count * bits, bitorder="little").reshape(count, bits)
    return np.packbits(numbers, axis=1, bitorder="little").reshape(shape).astype(np.int16) + lowest


def packed(network: Network, levels: Mapping[tuple[str, str], Levels]) -> tuple[bytes, dict[str, Any]]:
    """The content of codes.safetensors, and its meaning as plain data."""
    tensors: dict[str, np.ndarray] = {}
    weights = [_weight(of, tensors) for of in levels.values() if isinstance(of, WeightLevels)]
    activations = [_activation(of, tensors) for of in levels.values() if isinstance(of, ActivationLevels)]
    coded = {f"{of['name']}.weight" for of in weights}
    for name, tensor in Program(network, levels).tensors.values():
        if name not in coded and is_float(tensor):
            tensors[name] = _plain(tensor)
    target = network.record["config"]["model"]["_target_"]
    meaning = {"network": target, "weights": weights, "activations": activations}
    return wanted("safetensors.numpy").save(tensors), meaning


def check_codes(content: bytes, meaning: Mapping[str, Any], levels: Mapping[tuple[str, str], Levels]) -> int:
    """How many of the weights' codes, read back, are not the trained ones."""
    tensors = wanted("safetensors.numpy").load(content)
    differing = 0
    for of in meaning["weights"]:
        codes = unpack(tensors[of["codes"]], of["shape"], of["bits"], of["lowest"])
        differing += int((codes != levels["weight", of["name"]].codes.numpy()).sum())
    return differing


def _weight(of: WeightLevels, tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    codes, steps = f"{of.name}.weight.codes", f"{of.name}.weight.steps"
    tensors[codes] = pack(of.codes.numpy(), of.grid.bits, of.grid.qn)
    shape = [-1 if axis == of.axis else 1 for axis in range(of.codes.dim())] if of.steps.dim() else ()
    tensors[steps] = _plain(of.steps.reshape(shape))
    about = {"name": of.name, "shape": list(of.codes.shape), "bits": of.grid.bits, "lowest": of.grid.qn}
    return about | {"codes": codes, "steps": steps}


def _activation(of: ActivationLevels, tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    tensors[f"{of.name}.step"] = _plain(of.step)
    about = {"name": of.name, "bits": of.grid.bits, "lowest": of.lowest, "highest": of.highest}
    return about | {"step": f"{of.name}.step"}


def _plain(tensor: Tensor) -> np.ndarray:
    return np.array(tensor.detach().float().cpu().numpy(), order="C")
