"""VGG-small: the plain network of the low-bit literature (Zhang et al., "LQ-Nets", ECCV 2018; APoT; LSQ re-runs).

    128 - 128 - M - 256 - 256 - M - 512 - 512 - M - FC

Numbers are 3x3 convolutions, each with batch norm and a ReLU module of its own; M halves height and width. Pooling
comes after the ReLU: the largest of quantized values is a quantized value, so the next convolution still sees levels.
"""

from __future__ import annotations

from torch import Tensor, nn

from brsweep.models.resnet import initialize

WIDTHS = (128, 256, 512)


def vgg_small(num_classes: int, in_channels: int = 3, image_size: int | tuple[int, int] = 32) -> nn.Module:
    """4.66 M parameters at 32x32. Takes float [batch, in_channels, H, W], returns logits [batch, num_classes].

    image_size: height and width in pixels, or one number for both, at least 8: the linear layer's size hangs on it.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return VggSmall(num_classes, in_channels, height, width)


class VggSmall(nn.Module):
    def __init__(self, num_classes: int, in_channels: int, height: int, width: int) -> None:
        super().__init__()
        layers = []
        for channels in WIDTHS:
            for _ in range(2):
                layers += [
                    nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
                    nn.BatchNorm2d(channels),
                    nn.ReLU(),
                ]
                in_channels = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        shrunk = 2 ** len(WIDTHS)
        self.fc = nn.Linear(in_channels * (height // shrunk) * (width // shrunk), num_classes)
        initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.features(images).flatten(1))
