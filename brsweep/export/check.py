"""Whether an exported network is the trained one: the same codes at every site, the same accuracy, on test images.

    onnx    run by ONNX Runtime at each of its optimization levels; every activation site's codes against the trained
            network's
    torch   the classes that the program gives which was read back
    codes   the weights' codes that were read back

A float operation that a runtime does in another order moves a value by some roundings, and a value that lay next to the
border of two codes then gets the other one. Whatever depends on it may follow. So the report says which share of codes
differs at each site, and which site, in the order of execution, is the first.

All forms compute in float32, so codes and classes are held against the trained network in float32. Of a run in bf16 the
trained accuracy is that in bf16, as it was scored: what lies between is bf16's rounding, and no fault of the export.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from brsweep import targets
from brsweep.errors import BrsweepError
from brsweep.export.extra import wanted
from brsweep.export.load import Network
from brsweep.export.qdq import INPUT, OUTPUT, Exported
from brsweep.quant.sites import VALUES, collect
from brsweep.stages.source import data_source

BATCH = 64
CLASSES = "classes"
OPTIMIZATIONS = {
    "none": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED", "all": "ORT_ENABLE_ALL",
}  # fmt: skip
BOUND = 0.01
"""One code that a rounding has changed is in every sum of the next layer: some 1e-6 of the first such site grow to 1e-3
within a ResNet-20. A wrong weight, step size or operator changes far more."""


@dataclass(frozen=True)
class TestImages:
    """images: uint8 [N, H, W, C], evenly spaced ones of the test set. labels: int64 [N]."""

    images: np.ndarray
    labels: np.ndarray

    def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for first in range(0, len(self.images), BATCH):
            yield self.images[first : first + BATCH], self.labels[first : first + BATCH]


@dataclass(frozen=True)
class Check:
    """images: how many. trained, exported: accuracies on them, in [0, 1]. differing: site -> share of its codes that
    differ; of a form without sites, `classes` -> share of images that are put into another one. bf16: whether the
    run was scored in it."""

    images: int
    trained: float
    exported: float
    differing: Mapping[str, float]
    bf16: bool = False

    @property
    def worst(self) -> float:
        return max(self.differing.values(), default=0.0)

    @property
    def first(self) -> str | None:
        """The first site of which a code differs."""
        return next((site for site, share in self.differing.items() if share), None)

    def record(self) -> dict[str, Any]:
        about = {"images": self.images, "accuracy_trained": self.trained, "accuracy_exported": self.exported}
        return about | {"largest_share": self.worst, "first": self.first, "differing": dict(self.differing)}

    def line(self) -> str:
        what = "class" if CLASSES in self.differing else "code"
        found = f"no {what} differs"
        if self.first is not None:
            found = (
                f"first at {self.first} ({self.differing[self.first]:.2e}), at most {self.worst:.2e} of a site's codes"
            )
            found = f"{self.worst:.2e} of the classes differ" if what == "class" else f"{found} differ"
        trained = f"trained{' in bf16' if self.bf16 else ''} {self.trained:.2%}"
        return f"{found}; accuracy {self.exported:.2%}, {trained}, on {self.images} images"


def test_images(network: Network, count: int) -> TestImages:
    """At most `count` images of the run's test set. Raises `BrsweepError` where the data is not here, or another."""
    record = network.record
    try:
        source = data_source(record["config"])
        source.prepare()
        if source.identity() != record["data"]:
            raise BrsweepError(f"{network.folder}: trained on {record['data']}, and this is {source.identity()}")
        data = source.load()
    except BrsweepError as error:
        raise BrsweepError(f"{error} (for the check; --check 0 exports without one)") from None
    total = len(data.test_labels)
    chosen = np.arange(min(count, total)) * total // min(count, total)
    return TestImages(np.asarray(data.test_images[chosen]), data.test_labels[chosen])


test_images.__test__ = TestImages.__test__ = False  # for test runners: no tests


@torch.no_grad()
def trained_codes(network: Network, images: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Logits [N, classes] of the trained network in float32, and its activations' codes, int16, by site."""
    sites = [site for site in network.conversion.sites if site.kind == "act"]
    with collect(sites, activations=VALUES) as seen:
        logits = network.model(network.preprocess(images))
    codes = {site.name: site.quantizer.codes(seen[site.name].values).cpu().numpy() for site in sites}
    return logits.float().cpu().numpy(), codes


def check_onnx(network: Network, exported: Exported, images: TestImages) -> dict[str, Check]:
    """Optimization level -> what differs."""
    runs = {level: session(exported, level, with_codes=True) for level in OPTIMIZATIONS}
    counts = {level: _Counts(network.bf16) for level in runs}
    for pixels, labels in images.batches():
        logits, codes = trained_codes(network, pixels)
        scored = _scored(network, pixels, logits)
        values = pixels if exported.pixels else network.preprocess(pixels).cpu().contiguous().numpy()
        for level, run in runs.items():
            found, *others = run.run([OUTPUT, *(of.name for of in exported.codes.values())], {INPUT: values})
            counts[level].add(scored, found, labels)
            for (site, of), other in zip(exported.codes.items(), others, strict=True):
                counts[level].compare(site, codes[site], other.astype(np.int16) - of.zero)
    return {level: of.check() for level, of in counts.items()}


def session(exported: Exported, level: str = "all", with_codes: bool = False, optimized: str = "", threads: int = 1):
    """An ONNX Runtime session on the CPU. with_codes: the sites' codes are outputs too. optimized: a file for the graph
    as the runtime made it."""
    runtime = wanted("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, OPTIMIZATIONS[level])
    if optimized:
        options.optimized_model_filepath = optimized
    model = _with_codes(exported) if with_codes else exported.model
    try:
        return runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own kinds
        raise BrsweepError(f"onnx: ONNX Runtime refuses the network: {targets.in_a_line(error)}") from None


def _with_codes(exported: Exported) -> Any:
    onnx = wanted("onnx")
    model = onnx.ModelProto()
    model.CopyFrom(exported.model)
    known = {value.name for value in model.graph.output}
    for name, _ in exported.codes.values():
        if name not in known:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None))
    return model


def check_torch(network: Network, content: bytes, images: TestImages) -> Check:
    """The program in `content`, read back."""
    program = torch.export.load(io.BytesIO(content)).module()
    counts = _Counts(network.bf16)
    for pixels, labels in images.batches():
        logits, _ = trained_codes(network, pixels)
        with torch.no_grad():
            found = program(network.preprocess(pixels).cpu().contiguous()).numpy()
        counts.add(_scored(network, pixels, logits), found, labels)
        counts.compare(CLASSES, logits.argmax(1), found.argmax(1))
    return counts.check()


def _scored(network: Network, images: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Logits in the precision that the run was scored with; `logits` are those in float32."""
    return network.logits(images).numpy() if network.bf16 else logits


class _Counts:
    """What differs, summed up over batches."""

    def __init__(self, bf16: bool) -> None:
        self.bf16, self.images, self.right = bf16, 0, [0, 0]
        self.sites: dict[str, list[int]] = {}

    def add(self, logits: np.ndarray, found: np.ndarray, labels: np.ndarray) -> None:
        self.images += len(labels)
        for i, values in enumerate((logits, found)):
            self.right[i] += int((values.argmax(1) == labels).sum())

    def compare(self, site: str, mine: np.ndarray, other: np.ndarray) -> None:
        counted = self.sites.setdefault(site, [0, 0])
        counted[0] += int((mine != other).sum())
        counted[1] += mine.size

    def check(self) -> Check:
        shares = {site: differing / count for site, (differing, count) in self.sites.items()}
        return Check(self.images, *(right / self.images for right in self.right), shares, self.bf16)
