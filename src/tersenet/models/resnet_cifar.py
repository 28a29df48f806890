"""ResNet-20, -32 and -56 for 32x32 images, with the padded shortcuts (option A) of the paper.

Where the shape changes, the shortcut takes every second pixel and pads the channels with zeros, half before and half
after. Most pruning papers measure on these networks. Keys: ``conv1``, ``bn1``, ``layer1.0.conv1``, ..., ``linear``.

Source: He et al. 2016, arXiv:1512.03385, section 4.2.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from tersenet.models.registry import register


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut without parameters."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.padding = (out_channels - in_channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) to (N, out, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding)) if self.padding else x
        return F.relu(out + shortcut)


class CifarResNet(nn.Module):
    """Stem, three stages of 16, 32 and 64 channels, global average pool, linear layer."""

    def __init__(self, blocks_per_stage: int, *, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks_per_stage, stride=1)
        self.layer2 = _stage(16, 32, blocks_per_stage, stride=2)
        self.layer3 = _stage(32, 64, blocks_per_stage, stride=2)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) to logits (N, num_classes)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        logits: Tensor = self.linear(out.mean(dim=(2, 3)))
        return logits


def _stage(in_channels: int, out_channels: int, num_blocks: int, *, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride=stride)
    rest = [BasicBlock(out_channels, out_channels, stride=1) for _ in range(num_blocks - 1)]
    return nn.Sequential(first, *rest)


@register("resnet20", num_classes=10, input_shape=(3, 32, 32))
def resnet20(num_classes: int) -> nn.Module:
    """269,722 parameters at 10 classes."""
    return CifarResNet(3, num_classes=num_classes)


@register("resnet32", num_classes=10, input_shape=(3, 32, 32))
def resnet32(num_classes: int) -> nn.Module:
    """464,154 parameters at 10 classes."""
    return CifarResNet(5, num_classes=num_classes)


@register("resnet56", num_classes=10, input_shape=(3, 32, 32))
def resnet56(num_classes: int) -> nn.Module:
    """853,018 parameters at 10 classes."""
    return CifarResNet(9, num_classes=num_classes)
