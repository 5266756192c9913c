"""A network as ONNX in the QDQ form: integers between QuantizeLinear and DequantizeLinear, clipped as codes.

    activation   QuantizeLinear -> Clip(0, most) on the 8-bit codes -> DequantizeLinear
    weight       integer codes -> DequantizeLinear with a step size, or one per channel

ONNX has no activations of 2 to 7 bits that runtimes compute with, so the codes stand in uint8, signed ones above a zero
point, since runtimes for x86 fuse no signed inputs; Clip keeps them on their grid, and a ReLU and its clip are in that.
ONNX Runtime makes an integer convolution (QLinearConv) of DequantizeLinear -> Conv -> QuantizeLinear. A float Clip
before QuantizeLinear would keep it from that.

So a convolution between two sites, with nothing between but a batch norm, can be computed in integers. Its batch norm
is folded where every code stays what it was (`staircase.py`), and stays a float operator elsewhere; the weights are
int8 then, a channel's codes times a whole number. A convolution whose output is added to something before it is
quantized stays a float one, on integer weights.

Runtimes for x86 without VNNI sum up pairs of products in int16. So products are kept below 2^14, or where 8-bit weights
meet 8-bit inputs, the weights are uint8 with the zero point 128, which these runtimes compute exactly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, fx

from brsweep.errors import BrsweepError
from brsweep.export.extra import wanted
from brsweep.export.levels import ActivationLevels, Levels, WeightLevels
from brsweep.export.load import Network
from brsweep.export.operators import SILENT, Graph, translate, unsupported
from brsweep.export.program import Program, operator_of
from brsweep.export.staircase import Staircase, fold
from brsweep.quant.grid import Grid

INPUT, OUTPUT = "images", "logits"
EXACT, NEAREST, NONE = FOLDS = ("exact", "nearest", "none")
WEIGHT_TYPES = ("int8", "int4", "int2")
OPSETS = {"int8": 21, "int4": 21, "int2": 25}
IR_VERSIONS = {"int8": 10, "int4": 10, "int2": 13}
LARGEST_INT8 = Grid(8, signed=True).qp
LARGEST_PAIR = 2**15 - 1


@dataclass(frozen=True)
class Form:
    """fold: "exact" folds a batch norm where no code changes, "nearest" wherever it is possible, counting on the check,
    "none" never. weights: the narrowest type that a layer's codes may stand in; below int8 nothing is folded. pixels:
    the file takes uint8 [N, H, W, C] and normalises them itself."""

    fold: str = EXACT
    weights: str = "int8"
    pixels: bool = False

    def __post_init__(self) -> None:
        if self.fold not in FOLDS or self.weights not in WEIGHT_TYPES:
            choices = f"{', '.join(FOLDS)} and of {', '.join(WEIGHT_TYPES)}"
            raise BrsweepError(f"fold={self.fold}, weights={self.weights}: choose of {choices}")


PLAIN = Form()


class Folded(NamedTuple):
    """A convolution with its batch norm: integers of the weight's shape, int32 biases, float32 step sizes."""

    weight: np.ndarray
    zero_point: int
    steps: np.ndarray
    bias: np.ndarray
    bias_steps: np.ndarray
    exact: bool


class Codes(NamedTuple):
    """An uint8 value of the graph: a site's codes plus `zero`."""

    name: str
    zero: int


@dataclass(frozen=True)
class Exported:
    """model: the ONNX ModelProto. codes: site's name -> the value that holds its codes, in the order of execution.
    folded, kept: layers between two sites whose batch norm was folded, or was not; of the folded ones `inexact` may
    have other codes (fold "nearest"). pixels: it takes uint8 [N, H, W, C].
    """

    model: Any
    codes: Mapping[str, Codes]
    folded: tuple[str, ...]
    kept: tuple[str, ...]
    inexact: tuple[str, ...]
    pixels: bool


def to_onnx(network: Network, levels: Mapping[tuple[str, str], Levels], form: Form = PLAIN) -> Exported:
    """The network's ONNX model, checked by onnx. Raises `BrsweepError` naming an operator that can't be exported."""
    return _Writer(network, Program(network, levels), form).exported()


class _Writer:
    def __init__(self, network: Network, program: Program, form: Form) -> None:
        self.network, self.program, self.form = network, program, form
        self.graph = Graph()
        self.codes: dict[str, Codes] = {}
        self.folds: dict[fx.Node, Folded] = {}
        self.skipped: set[fx.Node] = set()  # batch norms that are in a convolution
        self.kept: list[str] = []

    def exported(self) -> Exported:
        self._find_folds()
        for node in self.program.nodes:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op == "call_function" and operator_of(node) not in SILENT:
                self.graph.values[node] = self._step(node)
        folded = {name: self.folds[node] for node, name, *_ in self.program.products() if node in self.folds}
        inexact = tuple(name for name, of in folded.items() if not of.exact)
        return Exported(self._model(), self.codes, tuple(folded), tuple(self.kept), inexact, self.form.pixels)

    # --- nodes -------------------------------------------------------------------------------------------------------

    def _placeholder(self, node: fx.Node) -> None:
        if node.name == self.program.input:
            self.graph.values[node] = self._pixels() if self.form.pixels else INPUT
        elif node.name in self.program.tensors and any(self.program.level(user) is None for user in node.users):
            name, tensor = self.program.tensors[node.name]
            self.graph.values[node] = self.graph.constant(_array(tensor), name)

    def _pixels(self) -> str:
        """(pixel - 255 mean) / (255 std), as `brsweep.data.tables.Normalization` computes it."""
        normalize = self.network.preprocess.normalize
        values = self.graph.add("Cast", INPUT, to=wanted("onnx").TensorProto.FLOAT)
        values = self.graph.add("Sub", values, self.graph.constant(_array(normalize.mean), "images.mean"))
        values = self.graph.add("Mul", values, self.graph.constant(_array(normalize.scale), "images.scale"))
        return self.graph.add("Transpose", values, perm=[0, 3, 1, 2])

    def _step(self, node: fx.Node) -> str:
        level = self.program.level(node)
        if isinstance(level, ActivationLevels):
            return self._activation(node, level)
        if isinstance(level, WeightLevels):
            return "" if all(user in self.folds for user in node.users) else self._weight(node, level)
        if node in self.folds:
            return self._folded(node, self.folds[node])
        if node in self.skipped:
            return self.graph.operand(node.args[0])
        return translate(self.graph, node)

    def _activation(self, node: fx.Node, level: ActivationLevels) -> str:
        graph = self.graph
        scale = graph.constant(_array(level.step), f"{level.name}.step")
        zero = graph.constant(np.array(level.zero, np.uint8))
        codes = f"{level.name}.codes"
        whole = level.most == np.iinfo(np.uint8).max
        values = graph.operand(node.args[0])
        quantized = graph.add("QuantizeLinear", values, scale, zero, name=codes if whole else f"{codes}.unclipped")
        if not whole:
            ends = (graph.constant(np.array(end, np.uint8)) for end in (0, level.most))
            graph.add("Clip", quantized, *ends, name=codes)
        self.codes[level.name] = Codes(codes, level.zero)
        return graph.add("DequantizeLinear", codes, scale, zero, name=f"{level.name}.levels")

    def _weight(self, node: fx.Node, level: WeightLevels) -> str:
        name, kind = f"{level.name}.weight", self._type_of(level)
        types = {"int8": np.int8} | {small: getattr(wanted("ml_dtypes"), small) for small in WEIGHT_TYPES[1:]}
        codes = level.codes.numpy().astype(types[kind])
        scale = self.graph.constant(_array(level.steps), f"{name}.steps")
        axis = {"axis": level.axis} if level.steps.dim() else {}
        return self.graph.add(
            "DequantizeLinear", self.graph.constant(codes, name), scale, name=f"{level.name}.weight.levels", **axis
        )

    def _type_of(self, level: WeightLevels) -> str:
        narrow = [kind for kind in WEIGHT_TYPES if level.grid.bits <= int(kind[3:]) >= int(self.form.weights[3:])]
        return narrow[-1]

    def _folded(self, node: fx.Node, of: Folded) -> str:
        name = self.program.level(node.args[1]).name
        graph, inputs = self.graph, []
        for part, integers, steps, zero in (
            ("weight", of.weight, of.steps, np.full(len(of.steps), of.zero_point, of.weight.dtype)),
            ("bias", of.bias, of.bias_steps, np.zeros(len(of.steps), np.int32)),
        ):
            part = f"{name}.{part}"
            constants = [(integers, part), (steps, f"{part}.steps"), (zero, f"{part}.zero")]
            names = [graph.constant(value, label) for value, label in constants]
            inputs.append(graph.add("DequantizeLinear", *names, name=f"{part}.levels", axis=0))
        bare = node.args
        node.args = (bare[0], bare[1], None, *bare[3:])
        graph.values[bare[1]] = inputs[0]
        value = translate(graph, node)
        node.args = bare
        graph.nodes[-1].input.append(inputs[1])
        return value

    # --- folding -----------------------------------------------------------------------------------------------------

    def _find_folds(self) -> None:
        for node, name, level, _ in self.program.products():
            before = self.program.activation_before(node.args[0])
            after = self._behind(node)
            between = level is not None and before is not None and after is not None
            if not between or not operator_of(node).startswith("conv") or "transpose" in operator_of(node):
                continue
            norm, site = after
            folded = self._fold(node, level, before, norm, self.program.level(site))
            if folded is None:
                self.kept.append(name)
            else:
                self.folds[node] = folded
                self.skipped |= {norm} if norm is not None else set()

    def _behind(self, node: fx.Node) -> tuple[fx.Node | None, fx.Node] | None:
        """The batch norm (or None) and the activation site that alone take what a layer gives."""
        norm, users = None, list(node.users)
        if len(users) == 1 and operator_of(users[0]) == "batch_norm":
            norm, users = users[0], list(users[0].users)
        fits = len(users) == 1 and isinstance(self.program.level(users[0]), ActivationLevels)
        return (norm, users[0]) if fits else None

    def _fold(
        self,
        node: fx.Node,
        level: WeightLevels,
        before: ActivationLevels,
        norm: fx.Node | None,
        after: ActivationLevels,
    ) -> Folded | None:
        """The folded layer; None where it isn't to be folded, or a code would change."""
        if self.form.fold == NONE or self.form.weights != "int8":
            return None
        codes = level.codes.numpy().reshape(len(level.codes), -1).astype(np.int64)
        slopes, shifts = self._affine(node, level, before, norm)
        alpha, ends = float(after.step), (after.lowest, after.highest)
        low, high = _sums(codes, before)
        room = min(LARGEST_INT8, LARGEST_PAIR // (2 * before.most))
        wide = np.abs(codes).max() > room  # 8-bit weights on 8-bit inputs
        channels: list[Staircase] = []
        for c in range(len(codes)):
            most = 1 if wide else max(1, room // max(1, int(np.abs(codes[c]).max())))
            nearest = self.form.fold == NEAREST
            found = fold(slopes[c], shifts[c], alpha, ends, (int(low[c]), int(high[c])), most, nearest)
            if found is None:
                return None
            channels.append(found)
        return _integers(channels, level, before, alpha, wide)

    def _affine(
        self, node: fx.Node, level: WeightLevels, before: ActivationLevels, norm: fx.Node | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """p and q of each channel, float64: the value that is quantized, of the integer sum n, is p n + q."""
        value = self.program.value
        slopes = np.broadcast_to(_wide(level.steps), len(level.codes)) * float(before.step)
        bias = node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
        shifts = np.zeros(len(slopes)) if bias is None else _wide(value(bias))
        if norm is None:
            return slopes, shifts
        weight, shift, mean, variance = norm.args[1:5]
        if mean is None or norm.args[5]:
            raise unsupported(norm, "computes with the batch's own statistics; a finished network has running ones")
        scale = 1 / np.sqrt(_wide(value(variance)) + norm.args[7])
        scale = scale if weight is None else scale * _wide(value(weight))
        end = 0 if shift is None else _wide(value(shift))
        return slopes * scale, (shifts - _wide(value(mean))) * scale + end

    # --- the file ----------------------------------------------------------------------------------------------------

    def _model(self) -> Any:
        onnx, helper = wanted("onnx"), wanted("onnx.helper")
        kinds, preprocess = onnx.TensorProto, self.network.preprocess
        self.graph.add("Identity", self.graph.values[_named(self.program, self.program.output)], name=OUTPUT)
        shape = (preprocess.channels, *preprocess.size)
        kind, shape = (kinds.UINT8, (*shape[1:], shape[0])) if self.form.pixels else (kinds.FLOAT, shape)
        graph = helper.make_graph(
            self.graph.nodes,
            "brsweep",
            [helper.make_tensor_value_info(INPUT, kind, ["N", *shape])],
            [helper.make_tensor_value_info(OUTPUT, kinds.FLOAT, ["N", len(self.network.classes)])],
            list(self.graph.constants.values()),
        )
        opset = helper.make_opsetid("", OPSETS[self.form.weights])
        model = helper.make_model(
            graph, opset_imports=[opset], ir_version=IR_VERSIONS[self.form.weights], producer_name="brsweep"
        )
        helper.set_model_props(model, self._properties())
        onnx.checker.check_model(model, full_check=True)
        return model

    def _properties(self) -> dict[str, str]:
        record = self.network.record
        images = {key: record["images"][key] for key in ("size", "channels", "mean", "std")}
        return {
            "classes": json.dumps(self.network.classes),
            "images": json.dumps(images | {"normalised_inside": self.form.pixels}),
            "run": f"{record['sweep']}/{record['name']}",
            "epoch": self.network.which,
        }


def _integers(
    channels: list[Staircase], level: WeightLevels, before: ActivationLevels, alpha: float, wide: bool
) -> Folded | None:
    """A layer's integers and step sizes; None where they don't fit their type."""
    shape = (-1, *(1,) * (level.codes.dim() - 1))
    multipliers = np.array([channel.multiplier for channel in channels], np.int64).reshape(shape)
    weight = level.codes.numpy().astype(np.int64) * multipliers
    zero, kind = (128, np.uint8) if wide else (0, np.int8)
    if (weight + zero).max() > np.iinfo(kind).max or (weight + zero).min() < np.iinfo(kind).min:
        return None
    steps = np.array([alpha / channel.unit / float(before.step) for channel in channels], np.float32)
    return Folded(
        weight=(weight + zero).astype(kind),
        zero_point=zero,
        steps=steps,
        bias=np.array([channel.bias for channel in channels], np.int32),
        bias_steps=steps * before.step.numpy(),
        exact=all(channel.exact for channel in channels),
    )


def _sums(codes: np.ndarray, before: ActivationLevels) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest sum of each channel, int64; a border of zeros lies between."""
    ends = np.stack([codes * before.lowest, codes * before.highest, np.zeros_like(codes)])
    return ends.min(0).sum(1), ends.max(0).sum(1)


def _named(program: Program, name: str) -> fx.Node:
    return next(node for node in program.nodes if node.name == name)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().float().numpy()


def _wide(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()
