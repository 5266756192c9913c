"""What the tests of quantizers and regularizers are held against: plain loops in double precision, one value at a
time, written from the papers' formulas alone; and a small network with every kind of site.
"""

from __future__ import annotations

import math

from torch import Tensor, nn


def code_of(value: float, alpha: float, qn: int, qp: int) -> int:
    """round(clamp(v / alpha, Qn, Qp)); Python's `round` takes ties to even."""
    return round(min(max(value / alpha, qn), qp))


def lsq_loop(value: float, alpha: float, qn: int, qp: int) -> tuple[float, float, float]:
    """LSQ at one value: the fake-quantized value, its derivative to the value, and to alpha (before g)."""
    steps, code = value / alpha, code_of(value, alpha, qn, qp)
    if steps <= qn:
        return qn * alpha, 0.0, float(qn)
    if steps >= qp:
        return qp * alpha, 0.0, float(qp)
    return code * alpha, 1.0, code - steps


def bin_penalty_loop(
    values: Tensor,
    alpha: float,
    qn: int,
    qp: int,
    variance: str = "biased",
    saturated: str = "pull",
) -> float:
    """Eq. 5 of Bin Regularization as it is printed: per non-empty bin, (mean - level)^2 + variance of its values."""
    total = 0.0
    for k in range(qn, qp + 1):
        inside = []
        for v in values.double().flatten().tolist():
            outside = not qn <= v / alpha <= qp
            if code_of(v, alpha, qn, qp) == k and not (outside and saturated == "ignore"):
                inside.append(v)
        if not inside:
            continue
        mean = math.fsum(inside) / len(inside)
        squares = math.fsum((v - mean) ** 2 for v in inside)
        if variance == "biased":
            spread = squares / len(inside)
        else:
            spread = squares / (len(inside) - 1) if len(inside) > 1 else 0.0
        total += (mean - k * alpha) ** 2 + spread
    return total


class SmallNet(nn.Module):
    """[B, 3, 8, 8] -> [B, 5]: three convolutions with batch norm and a linear layer; a ReLU module per place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()
        self.conv2, self.bn2, self.relu2 = nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()
        self.conv3, self.bn3, self.relu3 = nn.Conv2d(6, 6, 3, stride=2, bias=True), nn.BatchNorm2d(6), nn.ReLU()
        self.fc = nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(images)))
        x = self.relu2(self.bn2(self.conv2(x)))
        x = self.relu3(self.bn3(self.conv3(x)))
        return self.fc(x.mean((2, 3)))
