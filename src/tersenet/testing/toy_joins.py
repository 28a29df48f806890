"""Toy networks with branches that join: residual sums, concatenations, gates, shuffles, encoder and decoder.

All take images of shape (B, 3, 16, 16) unless they say otherwise and give 5 numbers per image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tersenet.testing.toy_chains import conv_norm


class ResidualBlock(nn.Module):
    """Two convolutions and a sum, with a projection where the width changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.one, self.two = conv_norm(inputs, outputs, stride=stride), conv_norm(outputs, outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else conv_norm(inputs, outputs, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.two(F.relu(self.one(x), inplace=True))
        out += self.shortcut(x)
        return F.relu(out, inplace=True)


class Residual(nn.Module):
    """Residual blocks with identity and projection shortcuts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 8)
        self.blocks = nn.Sequential(ResidualBlock(8, 8, 1), ResidualBlock(8, 12, 2), ResidualBlock(12, 12, 1))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.blocks(F.relu(self.stem(x))).mean((2, 3)))
        return scores


class PreActivation(nn.Module):
    """Residual sums of which the norm comes after the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8) for _ in range(3)])
        self.convs = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1) for _ in range(2)])
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=False):
            x = x + conv(F.relu(norm(x)))
        scores: Tensor = self.head(F.relu(self.norms[2](x)).mean((2, 3)))
        return scores


class OptionABlock(nn.Module):
    """Residual block of the CIFAR ResNets: where the width doubles, the shortcut is padded with zero channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.stride, self.padding = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.padding:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(out + x)


class OptionAResNet(nn.Module):
    """CIFAR ResNet with padded shortcuts, ``blocks`` per stage: 1 is ResNet-8, 3 is ResNet-20, 9 is ResNet-56."""

    def __init__(self, blocks: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        stages, width = [], 16
        for outputs in (16, 32, 64):
            stages.append(
                nn.Sequential(
                    *(
                        OptionABlock(width if i == 0 else outputs, outputs, 2 if i == 0 and outputs > width else 1)
                        for i in range(blocks)
                    )
                )
            )
            width = outputs
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        scores: Tensor = self.linear(F.avg_pool2d(x, x.shape[3]).flatten(1))
        return scores


class DenseConcat(nn.Module):
    """As DenseNet: every layer reads the concatenation of all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        widths = [6, 10, 14]
        self.norms = nn.ModuleList([nn.BatchNorm2d(width) for width in [*widths, 18]])
        self.convs = nn.ModuleList([nn.Conv2d(width, 4, 3, padding=1, bias=False) for width in widths])
        self.head = nn.Linear(18, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=False):
            x = torch.cat([x, conv(F.relu(norm(x)))], dim=1)
        scores: Tensor = self.head(F.relu(self.norms[3](x)).mean((2, 3)))
        return scores


class InceptionConcat(nn.Module):
    """Parallel branches of different widths, one of them pooling, concatenated; a sum over part of the result."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 6)
        self.branches = nn.ModuleList([conv_norm(6, 4, kernel=1), conv_norm(6, 5), conv_norm(6, 3, kernel=5)])
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.last = nn.Conv2d(18, 10, 1)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = torch.cat([*(F.relu(branch(x)) for branch in self.branches), self.pool(x)], 1)
        scores: Tensor = self.head(self.last(x).mean((2, 3)))
        return scores


class SqueezeExcite(nn.Module):
    """A gate per channel, computed by a small bottleneck from the channel means; convolutions and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.middle = conv_norm(8, 10)
        self.down, self.up = nn.Linear(10, 4), nn.Linear(4, 10)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        x = F.relu(self.middle(x))
        gate = F.hardsigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1).flatten(1)))))
        x = x * gate.view(x.size(0), x.size(1), 1, 1).expand_as(x)
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


class GroupedConv(nn.Module):
    """A ResNeXt block: a grouped convolution between two dense ones, and a grouped transposed one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 8)
        self.reduce, self.grouped, self.restore = (
            conv_norm(8, 12, kernel=1),
            conv_norm(12, 16, groups=4),
            conv_norm(16, 8),
        )
        self.up = nn.ConvTranspose2d(8, 12, 2, 2, groups=2)
        self.last = nn.Conv2d(12, 6, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = x + self.restore(F.relu(self.grouped(F.relu(self.reduce(x)))))
        x = F.relu(self.last(F.relu(self.up(x))))
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


class ShuffleUnit(nn.Module):
    """ShuffleNet v2: half of the channels pass by, then the channels are shuffled by view and transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 12)
        self.branches = nn.ModuleList(
            [nn.Sequential(conv_norm(6, 6, kernel=1), nn.ReLU(), conv_norm(6, 6, groups=6)) for _ in range(2)]
        )
        self.last = conv_norm(12, 10, kernel=1)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for branch in self.branches:
            by, through = x.chunk(2, dim=1)
            x = torch.cat([by, branch(through)], dim=1)
            batch, channels, height, width = x.shape
            x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, -1, height, width)
        scores: Tensor = self.head(F.relu(self.last(x)).mean((2, 3)))
        return scores


class GatedHalves(nn.Module):
    """A layer whose one half of channels gates the other half."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 16)
        self.middle = nn.Conv2d(8, 12, 3, padding=1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.stem(x).chunk(2, dim=1)
        x = F.glu(self.middle(value * torch.sigmoid(gate)), dim=1)
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


class PixelShuffler(nn.Module):
    """Channels become positions and positions become channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 16)
        self.middle = conv_norm(4, 6)
        self.last = conv_norm(24, 8, kernel=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pixel_shuffle(F.relu(self.stem(x)), 2)
        x = F.pixel_unshuffle(F.relu(self.middle(x)), 2)
        scores: Tensor = self.head(F.relu(self.last(x)).mean((2, 3)))
        return scores


class TokenDecoder(nn.Module):
    """A linear layer whose outputs are viewed as an image, upsampled and convolved; input (B, 12)."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(12, 8 * 4 * 4)
        self.norm = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 6, 4, 2, 1)
        self.last = nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.project(x).view(x.size(0), -1, 4, 4)))
        image: Tensor = self.last(F.interpolate(F.relu(self.up(x)), scale_factor=2.0, mode="bilinear"))
        return image


class UNet(nn.Module):
    """Encoder and decoder with concatenated skips; one step up is a transposed convolution, one is resizing."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = conv_norm(3, 6), conv_norm(6, 8), conv_norm(8, 12)
        self.up2, self.merge2 = nn.ConvTranspose2d(12, 8, 2, 2), conv_norm(16, 8)
        self.merge1 = conv_norm(14, 6)
        self.out = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = F.relu(self.down1(x))
        second = F.relu(self.down2(F.max_pool2d(first, 2)))
        x = F.relu(self.bottom(F.avg_pool2d(second, 2)))
        x = F.relu(self.merge2(torch.cat([self.up2(x), second], dim=1)))
        x = torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), first], dim=1)
        mask: Tensor = self.out(F.relu(self.merge1(x)))
        return mask, mask.mean((2, 3))
