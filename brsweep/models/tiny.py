"""The smallest network with everything that matters: a stem, one residual block with a shortcut, a linear layer.

Three convolutions and three ReLU sites. For tests, and for sweeps that try the machinery and not the method.
"""

from __future__ import annotations

from torch import nn

from brsweep.models.resnet import PaddingShortcut, ResNet


def tiny(num_classes: int, in_channels: int = 3, width: int = 8) -> nn.Module:
    """`width` channels after the stem, twice as many after the block, which halves height and width.

    Takes float [batch, in_channels, H, W], returns logits [batch, num_classes].
    """
    stem_alone, one_block = (width, 0, 1), (2 * width, 1, 2)
    return ResNet([stem_alone, one_block], PaddingShortcut, num_classes, in_channels, residual_gamma=0.25)
