"""Toy networks without branches that join: chains, depthwise layers, shared and tied weights.

All take images of shape (B, 3, 16, 16) unless they say otherwise and give 5 numbers per image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_norm(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution without bias, batch norm."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class Plain(nn.Module):
    """Convolution, batch norm, ReLU, three times; in-place activations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(12)
        self.conv3, self.bn3 = nn.Conv2d(12, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.act = nn.ReLU6(inplace=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.bn1(self.conv1(x)))
        x = self.act(self.bn2(self.conv2(x)))
        x = F.hardswish(self.bn3(self.conv3(x)))
        scores: Tensor = self.head(x.mean(dim=(2, 3)))
        return scores


class NoNorm(nn.Module):
    """No batch norm at all; max pooling; dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 10, 3), nn.SiLU(), nn.Dropout()
        )
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(F.adaptive_max_pool2d(self.body(x), 1).flatten(1))
        return scores


class Mlp(nn.Module):
    """Linear layers only, batch norm over features; input (B, 12)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(12, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 14, bias=False), nn.GELU()
        )
        self.head = nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(x))
        return scores


class OneOutput(nn.Module):
    """Spatial attention: a convolution with one output channel gates all channels; it is not depthwise."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 8)
        self.attention = nn.Conv2d(8, 1, 3, padding=1)
        self.last = nn.Conv2d(8, 6, 1)
        self.single = nn.Conv2d(1, 4, 3, padding=1)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        attention = self.attention(x)
        x = self.last(x * torch.sigmoid(attention))
        features = torch.cat([x.mean((2, 3)), self.single(attention).amax((2, 3))], dim=1)
        scores: Tensor = self.head(features)
        return scores


class FlattenIntoLinear(nn.Module):
    """As VGG: pooled to 4 x 4, flattened, two linear layers; a channel is 16 columns."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(conv_norm(3, 6), nn.ReLU(), conv_norm(6, 8, stride=2), nn.ReLU())
        self.classifier = nn.Sequential(nn.Linear(8 * 4 * 4, 12), nn.ReLU(), nn.Dropout(), nn.Linear(12, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.features(x), (4, 4))
        scores: Tensor = self.classifier(torch.flatten(x, 1))
        return scores


class Depthwise(nn.Module):
    """Inverted residual with a depthwise convolution, and a depthwise one with two outputs per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 8)
        self.expand, self.depth, self.project = (
            conv_norm(8, 16, kernel=1),
            conv_norm(16, 16, groups=16),
            conv_norm(16, 8),
        )
        self.widen = nn.Conv2d(8, 16, 3, groups=8)
        self.pointwise = nn.Conv2d(16, 10, 1)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.stem(x))
        x = x + self.project(F.relu6(self.depth(F.relu6(self.expand(x)))))
        x = F.leaky_relu(self.pointwise(self.widen(x)))
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


class SharedModule(nn.Module):
    """One block called twice, so that its input and output channels are the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 8)
        self.block = conv_norm(8, 8)
        self.inner = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.block(F.relu(self.block(x))))
        scores: Tensor = self.head(self.inner(x).mean((2, 3)))
        return scores


class TiedWeights(nn.Module):
    """Two convolutions with one weight and biases of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.right.weight = self.left.weight
        self.after_left, self.after_right = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        one = self.after_left(torch.tanh(self.left(x)))
        other = self.after_right(torch.tanh(self.right(x.flip(3))))
        scores: Tensor = self.head(torch.cat([one, other], dim=1).mean((2, 3)))
        return scores


class PerChannelParameters(nn.Module):
    """PReLU, layer scale, a buffer per channel, a position embedding, instance norm, and outputs in a dict."""

    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 8)
        self.act = nn.PReLU(8)
        self.scale = nn.Parameter(torch.full((8, 1, 1), 0.5))
        self.register_buffer("shift", torch.linspace(-1, 1, 8).reshape(1, 8, 1, 1), persistent=False)
        self.places = nn.Parameter(torch.zeros(1, 8, 16, 16))
        self.gain = nn.Parameter(torch.ones(1))
        self.last, self.norm = nn.Conv2d(8, 6, 3), nn.InstanceNorm2d(6, affine=True)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor | tuple[Tensor, ...]]:
        x = self.act(self.stem(x)) * self.scale + self.shift
        x = (x + self.places) * self.gain
        x = self.norm(self.last(x)).abs()
        scores = self.head(x.mean((2, 3)))
        return {"scores": scores, "more": (scores.softmax(1), scores.argmax(1))}
