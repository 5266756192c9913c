"""Residual networks for small images (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016).

`resnet20/32/56` are the paper's CIFAR networks (section 4.2): three stages of 16, 32 and 64 channels with 3, 5 or 9
blocks each, and shortcuts without parameters (option A). `resnet18` is the ImageNet network with the stem that CIFAR
work gives it: a 3x3 convolution of stride 1 and no max-pooling; its shortcuts are 1x1 convolutions (option B).

Every activation is a ReLU module of its own, also the two of one block: each is a site with a distribution of its own,
and whoever replaces one replaces no other. A CIFAR ResNet-18 has 17 of them.

The last batch norm of each block starts at `residual_gamma`: at 1 the block counts as much as its shortcut (torch's own
start), at 0 the block starts as the identity (Goyal et al., arXiv 1706.02677, section 5.1). Both ends have a price.
Where each ReLU is clipped at 1, sums of full blocks soon lie beyond the clip, where the gradient is zero, and the
network stays at chance. And a start at 0 leaves a short training with sparser activations and several points less
accuracy. The default, 0.25, trains with and without a clip; without one, 1 is the better choice on larger images.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def resnet20(num_classes: int, in_channels: int = 3, residual_gamma: float = 0.25) -> nn.Module:
    """20 layers, 0.27 M parameters. Takes float [batch, in_channels, H, W], returns logits [batch, num_classes]."""
    return _cifar_resnet(3, num_classes, in_channels, residual_gamma)


def resnet32(num_classes: int, in_channels: int = 3, residual_gamma: float = 0.25) -> nn.Module:
    """32 layers, 0.46 M parameters."""
    return _cifar_resnet(5, num_classes, in_channels, residual_gamma)


def resnet56(num_classes: int, in_channels: int = 3, residual_gamma: float = 0.25) -> nn.Module:
    """56 layers, 0.85 M parameters."""
    return _cifar_resnet(9, num_classes, in_channels, residual_gamma)


def resnet18(num_classes: int, in_channels: int = 3, residual_gamma: float = 0.25) -> nn.Module:
    """18 layers, 11.2 M parameters, stem for small images."""
    stages = [(64, 2, 1), (128, 2, 2), (256, 2, 2), (512, 2, 2)]
    return ResNet(stages, ProjectionShortcut, num_classes, in_channels, residual_gamma)


def _cifar_resnet(blocks: int, num_classes: int, in_channels: int, residual_gamma: float) -> nn.Module:
    stages = [(16, blocks, 1), (32, blocks, 2), (64, blocks, 2)]
    return ResNet(stages, PaddingShortcut, num_classes, in_channels, residual_gamma)


class ResNet(nn.Module):
    """Stem, stages of `BasicBlock`s, global average pooling, one linear layer.

    stages: (channels, number of blocks, stride of the first block) of each.
    shortcut: what a block uses where its input and output differ in shape; called with both widths and the stride.
    """

    def __init__(
        self,
        stages: list[tuple[int, int, int]],
        shortcut: type[nn.Module],
        num_classes: int,
        in_channels: int,
        residual_gamma: float,
    ) -> None:
        super().__init__()
        channels = stages[0][0]
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.stages = nn.Sequential()
        for width, blocks, stride in stages:
            stage = nn.Sequential()
            for index in range(blocks):
                stage.append(BasicBlock(channels, width, stride if index == 0 else 1, shortcut))
                channels = width
            self.stages.append(stage)
        self.fc = nn.Linear(channels, num_classes)
        initialize(self, residual_gamma)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stages(self.relu1(self.norm1(self.conv1(images))))
        return self.fc(features.mean((2, 3)))


class BasicBlock(nn.Module):
    """conv-norm-relu-conv-norm, plus the shortcut, then relu."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: type[nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        same = in_channels == out_channels and stride == 1
        self.shortcut = nn.Identity() if same else shortcut(in_channels, out_channels, stride)
        self.relu2 = nn.ReLU()

    def forward(self, values: Tensor) -> Tensor:
        residual = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(values)))))
        return self.relu2(residual + self.shortcut(values))


class PaddingShortcut(nn.Module):
    """Option A: every stride-th pixel, and zero channels, half before and half after. No parameters."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (out_channels - in_channels) // 2
        self.after = out_channels - in_channels - self.before

    def forward(self, values: Tensor) -> Tensor:
        # With channels last in memory this pads the innermost dimension: 0.7 of the time of padding dimension 1.
        pixels = values.permute(0, 2, 3, 1)[:, :: self.stride, :: self.stride]
        return F.pad(pixels, (self.before, self.after)).permute(0, 3, 1, 2)


class ProjectionShortcut(nn.Module):
    """Option B: a 1x1 convolution with batch norm."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, values: Tensor) -> Tensor:
        return self.norm(self.conv(values))


def initialize(model: nn.Module, residual_gamma: float = 1.0) -> None:
    """Kaiming's normal initialization (fan_out, relu) of each convolution, `residual_gamma` in the last batch norm of
    each block; the rest keeps torch's own."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    for module in model.modules():
        if isinstance(module, BasicBlock):
            nn.init.constant_(module.norm2.weight, residual_gamma)
