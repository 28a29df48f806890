"""Networks in the style of SqueezeNet, MobileNetV2 and ShuffleNet v2 for the 8x8 digits, to be compressed end to end.

They halve their maps once, since 8x8 leaves room for no more; blocks and joins are those of the papers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tersenet.models.mobilenet_v2 import InvertedResidual
from tersenet.testing.toy_chains import conv_norm


class Fire(nn.Module):
    """A narrow 1x1 convolution, then 1x1 and 3x3 ones side by side, concatenated; no norms."""

    def __init__(self, inputs: int, squeeze: int, outputs: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.point, self.square = nn.Conv2d(squeeze, outputs // 2, 1), nn.Conv2d(squeeze, outputs // 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H, W)."""
        x = F.relu(self.squeeze(x), inplace=True)
        return torch.cat([F.relu(self.point(x)), F.relu(self.square(x))], 1)


class SqueezeDigits(nn.Module):
    """SqueezeNet (Iandola et al. 2016, arXiv:1602.07360): fire modules, classes by a convolution that is averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 24, 3, padding=1)
        self.fires = nn.Sequential(
            Fire(24, 12, 32), Fire(32, 12, 32), nn.MaxPool2d(2), Fire(32, 16, 48), Fire(48, 16, 64)
        )
        self.classes = nn.Conv2d(64, 10, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # without norms the default is too small to be trained in seconds
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 8, 8) to (B, 10)."""
        return torch.flatten(self.classes(self.fires(F.relu(self.stem(x)))).mean((2, 3)), 1)


class MobileDigits(nn.Module):
    """MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381): inverted residuals, of which two pass their input on."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_norm(1, 16), nn.ReLU6(inplace=True))
        self.blocks = nn.Sequential(
            InvertedResidual(16, 12, expansion=1, stride=1),
            InvertedResidual(12, 16, expansion=4, stride=2),
            InvertedResidual(16, 16, expansion=4, stride=1),
            InvertedResidual(16, 24, expansion=4, stride=1),
            InvertedResidual(24, 24, expansion=4, stride=1),
        )
        self.last = nn.Sequential(conv_norm(24, 64, kernel=1), nn.ReLU6(inplace=True))
        self.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 8, 8) to (B, 10)."""
        scores: Tensor = self.head(self.last(self.blocks(self.stem(x))).mean((2, 3)))
        return scores


class ShuffleBlock(nn.Module):
    """ShuffleNet v2: half of the channels pass by, with stride both halves are convolved; then they are shuffled."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        through = inputs if stride > 1 else half
        self.branch = nn.Sequential(
            conv_norm(through, half, kernel=1), nn.ReLU(inplace=True),
            conv_norm(half, half, stride=stride, groups=half),
            conv_norm(half, half, kernel=1), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.by = nn.Sequential()
        if stride > 1:
            depthwise = conv_norm(inputs, inputs, stride=stride, groups=inputs)
            self.by = nn.Sequential(depthwise, conv_norm(inputs, half, kernel=1), nn.ReLU(inplace=True))
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        by, through = (x, x) if self.stride > 1 else x.chunk(2, dim=1)
        x = torch.cat([self.by(by), self.branch(through)], dim=1)
        batch, channels, height, width = x.shape
        return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, -1, height, width)


class ShuffleDigits(nn.Module):
    """ShuffleNet v2 (Ma et al. 2018, arXiv:1807.11164): one block with stride, three that split and shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_norm(1, 24), nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(
            ShuffleBlock(24, 24, stride=1),
            ShuffleBlock(24, 48, stride=2),
            ShuffleBlock(48, 48, stride=1),
            ShuffleBlock(48, 48, stride=1),
        )
        self.last = nn.Sequential(conv_norm(48, 64, kernel=1), nn.ReLU(inplace=True))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 8, 8) to (B, 10)."""
        scores: Tensor = self.head(self.last(self.blocks(self.stem(x))).mean((2, 3)))
        return scores


MOBILE_DIGITS: dict[str, Callable[[], nn.Module]] = {
    "squeezenet": SqueezeDigits,
    "mobilenet_v2": MobileDigits,
    "shufflenet_v2": ShuffleDigits,
}
"""Name to factory."""
