"""A small network for 8x8 digits: every kind of channel group that the examples need, trained in seconds.

Two residual blocks (whose inner channels can be cut by themselves, and whose stream is tied by a sum), two plain
convolutions, a linear layer.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from tersenet.models.registry import register


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        branch = F.relu(self.bn1(self.conv1(x)))
        return F.relu(x + self.bn2(self.conv2(branch)))


class DigitsCNN(nn.Module):
    """Two stages of a residual block each, then two convolutions, global average pool, linear layer."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 24, 3, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(24)
        self.block1 = _Block(24)
        self.down = nn.Conv2d(24, 32, 3, stride=2, padding=1, bias=False)
        self.down_bn = nn.BatchNorm2d(32)
        self.block2 = _Block(32)
        self.conv3 = nn.Conv2d(32, 48, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(48)
        self.conv4 = nn.Conv2d(48, 64, 3, padding=1, bias=False)
        self.bn4 = nn.BatchNorm2d(64)
        self.linear = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, 8, 8) to logits (N, num_classes)."""
        x = self.block1(F.relu(self.stem_bn(self.stem(x))))
        x = self.block2(F.relu(self.down_bn(self.down(x))))
        x = F.relu(self.bn3(self.conv3(x)))
        x = F.relu(self.bn4(self.conv4(x)))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


@register("digits_cnn", num_classes=10, input_shape=(1, 8, 8))
def digits_cnn(num_classes: int) -> nn.Module:
    """78,610 parameters at 10 classes."""
    return DigitsCNN(num_classes)
