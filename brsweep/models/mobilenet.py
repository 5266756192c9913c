"""MobileNetV2 (Sandler et al., CVPR 2018): inverted residuals with linear bottlenecks, built of torchvision's blocks.

    stem 32 - groups of 16, 24, 32, 64, 96, 160, 320 channels - 1280 - pooling - FC, each width times `width`

The paper shrinks an image by 32. Small images keep the strides of the stem and of the group of 24 at 1, as is usual on
CIFAR, and are shrunk by 8: 32 x 32 pixels come to 4 x 4 before the pooling.

A block ends without a ReLU, and a block whose sizes allow it adds its input. What the next layer gets has both signs.
"""

from __future__ import annotations

from torch import nn

from brsweep.errors import BrsweepError
from brsweep.torchvision_import import import_torchvision

SMALL, LARGE = STEMS = ("small", "large")
GROUPS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks and first stride of each group: the paper's table 2."""
UNSHRUNK = 24


def mobilenet_v2(num_classes: int, in_channels: int = 3, width: float = 1.0, stem: str = SMALL) -> nn.Module:
    """2.24 M parameters at width 1 and ten classes. Takes float [batch, in_channels, H, W], returns logits
    [batch, num_classes].

    width: multiplies every number of channels, rounded to a multiple of 8; 1,280 is the least before the last layer.
    stem: "small" for images of some 32 pixels, "large" for the paper's strides.
    """
    if stem not in STEMS:
        raise BrsweepError(f"model.stem={stem!r}: choose one of {', '.join(STEMS)}")
    if not 0 < width <= 10:
        raise BrsweepError(f"model.width={width}: a width is a number above 0 and up to 10")
    small = stem == SMALL
    groups = [[t, c, n, 1 if small and c == UNSHRUNK else s] for t, c, n, s in GROUPS]
    models = import_torchvision().models
    network = models.mobilenet_v2(num_classes=num_classes, width_mult=width, inverted_residual_setting=groups)
    first = network.features[0][0]
    stride = 1 if small else first.stride
    network.features[0][0] = nn.Conv2d(in_channels, first.out_channels, 3, stride, padding=1, bias=False)
    nn.init.kaiming_normal_(network.features[0][0].weight, mode="fan_out")
    return network
