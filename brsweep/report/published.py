"""Figures that papers give for the same network and bits on lossless CIFAR-10, to stand beside one's own.

Only what was read in a paper or its code ("paper"), or in a secondary source that is named so, is here. None was
trained with this project's recipe, and their first and last layers are treated in their own ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PAPER, SECONDARY = "read in the paper or its code", "from a secondary source"
LOSSLESS_CIFAR10 = "brsweep.data.downloads.Cifar10"


@dataclass(frozen=True)
class Published:
    """Test accuracy in percent."""

    net: str
    method: str
    bits: str
    accuracy: float
    source: str


def _figures(net: str, method: str, source: str, **of_bits: float) -> list[Published]:
    return [Published(net, method, bits, accuracy, source) for bits, accuracy in of_bits.items()]


FIGURES = (
    *_figures("ResNet-20", "APoT", PAPER, FP32=92.96, W2A2=90.96, W3A3=92.49, W4A4=92.45),
    *_figures("ResNet-20", "LSQ, re-run", SECONDARY, FP32=91.8, W2A2=90.2),
    *_figures("ResNet-20", "PACT", SECONDARY, FP32=91.6, W2A2=88.9, W3A3=90.6, W4A4=90.8),
    *_figures("ResNet-20", "PACT, re-run with 8-bit ends", PAPER, W2A2=87.07, W3A3=90.09, W4A4=90.89),
    *_figures("ResNet-56", "APoT", PAPER, FP32=94.46, W2A2=93.05, W3A3=93.77, W4A4=93.93),
    *_figures("VGG-small", "LSQ", PAPER, FP32=93.34, W2A2=93.42, W3A3=93.89, W4A4=94.26),
    *_figures("ResNet-18", "LSQ, re-run", SECONDARY, W2A2=91.4),
    *_figures("ResNet-18", "PACT, re-run", SECONDARY, W2A2=93.84, W3A3=94.56, W4A4=94.16),
)
NETS = {
    "brsweep.models.resnet.resnet18": "ResNet-18",
    "brsweep.models.resnet.resnet20": "ResNet-20",
    "brsweep.models.resnet.resnet56": "ResNet-56",
    "brsweep.models.vgg.vgg_small": "VGG-small",
}


def published(config: Mapping[str, Any], bits: str) -> list[Published]:
    """For the net of `config` at `bits` ("W2A2", "FP32"); none unless the data is lossless CIFAR-10."""
    net = NETS.get(config["model"].get("_target_"))
    comparable = config["data"].get("_target_") == LOSSLESS_CIFAR10
    return [figure for figure in FIGURES if comparable and (figure.net, figure.bits) == (net, bits)]


def why_none(config: Mapping[str, Any]) -> str:
    """One sentence for a table without published figures."""
    if config["data"].get("_target_") != LOSSLESS_CIFAR10:
        data = str(config["data"].get("_target_")).rpartition(".")[2]
        return f"No published figures stand beside it: those known are for lossless CIFAR-10, this data is {data}."
    return "No published figures are known for this network at these bits."
