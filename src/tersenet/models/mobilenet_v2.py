"""MobileNetV2 at width 1.0 for ImageNet, with torchvision's keys.

Source: Sandler et al. 2018, arXiv:1801.04381, table 2.
"""

from __future__ import annotations

from torch import Tensor, nn

from tersenet.models.registry import register

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, output channels, blocks, stride of the first block."""

STEM_WIDTH, LAST_WIDTH = 32, 1280


def _conv_bn_relu(
    in_channels: int, out_channels: int, *, kernel_size: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    padding = kernel_size // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """Expand, depthwise 3x3, project; a shortcut where the shape stays."""

    def __init__(self, in_channels: int, out_channels: int, *, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        expand = [] if expansion == 1 else [_conv_bn_relu(in_channels, hidden, kernel_size=1)]
        self.conv = nn.Sequential(
            *expand,
            _conv_bn_relu(hidden, hidden, kernel_size=3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) to (N, out, H / stride, W / stride)."""
        out: Tensor = self.conv(x)
        return x + out if self.has_shortcut else out


class MobileNetV2(nn.Module):
    """``features``, global average pool, ``classifier``."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv_bn_relu(3, STEM_WIDTH, kernel_size=3, stride=2)]
        width = STEM_WIDTH
        for expansion, out_channels, num_blocks, first_stride in STAGES:
            for block in range(num_blocks):
                stride = first_stride if block == 0 else 1
                layers.append(InvertedResidual(width, out_channels, expansion=expansion, stride=stride))
                width = out_channels
        layers.append(_conv_bn_relu(width, LAST_WIDTH, kernel_size=1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(LAST_WIDTH, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 224, 224) to logits (N, num_classes)."""
        logits: Tensor = self.classifier(self.features(x).mean(dim=(2, 3)))
        return logits


@register("mobilenet_v2", num_classes=1000, input_shape=(3, 224, 224))
def mobilenet_v2(num_classes: int) -> nn.Module:
    """3,504,872 parameters at 1,000 classes."""
    return MobileNetV2(num_classes)
