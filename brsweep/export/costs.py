"""What a quantized network costs against the float one, layer by layer: bytes, multiplications, bit operations.

    bytes            its weights at their bits and its step sizes; float layers, batch norm and biases at 32 bits
    MACs             multiply-accumulate operations for one image
    bit operations   MACs * bits of the weights * bits of the inputs      (van Baalen et al., "Bayesian Bits", 2020)

A layer whose input is no level of one site counts 32 bits for it: the image as it enters, and what an average or a sum
made of levels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from brsweep.export.program import Program, is_float, multiplications
from brsweep.quant.grid import FLOAT_BITS

BYTE = 8


@dataclass(frozen=True)
class LayerCost:
    name: str
    shape: tuple[int, ...]
    weight_bits: int
    input_bits: int
    parameters: int
    bytes: int
    bytes_float32: int
    macs: int
    bit_operations: int


def costs(program: Program) -> list[LayerCost]:
    """An entry for each layer of weights, and one for all other parameters, named "other"."""
    layers, counted = [], set()
    for node, name, level, weight in program.products():
        before = program.activation_before(node.args[0])
        bits = FLOAT_BITS if level is None else level.grid.bits
        inputs = FLOAT_BITS if before is None else before.grid.bits
        steps = 0 if level is None else level.steps.numel() * FLOAT_BITS
        size, macs = weight.numel(), multiplications(node, weight)
        held, whole = -(-(size * bits + steps) // BYTE), size * FLOAT_BITS // BYTE
        shape = tuple(weight.shape)
        layers.append(LayerCost(name, shape, bits, inputs, size, held, whole, macs, macs * bits * inputs))
        counted.add(f"{name}.weight")
    named = {name: tensor for name, tensor in program.tensors.values() if name not in counted and is_float(tensor)}
    others = sum(tensor.numel() for tensor in named.values())
    size = others * FLOAT_BITS // BYTE
    return [*layers, LayerCost("other", (others,), FLOAT_BITS, FLOAT_BITS, others, size, size, 0, 0)]


def table(layers: list[LayerCost]) -> dict[str, Any]:
    """The layers as plain data, with their totals."""
    sums = ("parameters", "bytes", "bytes_float32", "macs", "bit_operations")
    return {
        "layers": [asdict(layer) for layer in layers],
        "total": {key: sum(getattr(layer, key) for layer in layers) for key in sums},
    }
