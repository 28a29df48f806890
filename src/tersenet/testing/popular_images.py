"""Classifiers in the style of popular repositories, small, with the joins of the large ones; see ``popular``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tersenet.testing.toy_chains import conv_norm


class ResNextBlock(nn.Module):
    """Bottleneck with a grouped convolution and a squeeze-and-excitation gate."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, conv_groups: int = 4) -> None:
        super().__init__()
        middle = outputs // 2
        self.reduce = conv_norm(inputs, middle, kernel=1)
        self.grouped = conv_norm(middle, middle, stride=stride, groups=conv_groups)
        self.restore = conv_norm(middle, outputs, kernel=1)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(outputs, 4, 1), nn.ReLU(), nn.Conv2d(4, outputs, 1), nn.Sigmoid()
        )
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else conv_norm(inputs, outputs, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.grouped(F.relu(self.reduce(x))))
        out = self.restore(out)
        return F.relu(out * self.gate(out) + self.shortcut(x))


class SeResNext(nn.Module):
    """SE-ResNeXt: grouped bottlenecks with gates, residual sums."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_norm(3, 16), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.stages = nn.Sequential(
            ResNextBlock(16, 32), ResNextBlock(32, 32), ResNextBlock(32, 48, stride=2), ResNextBlock(48, 48)
        )
        self.head = nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.stages(self.stem(x)).mean((2, 3)))
        return scores


class GhostModule(nn.Module):
    """Half of the channels by a convolution, the other half made of them by a cheap depthwise one."""

    def __init__(self, inputs: int, outputs: int, *, act: bool = True) -> None:
        super().__init__()
        self.outputs = outputs
        self.primary = conv_norm(inputs, outputs // 2, kernel=1)
        self.cheap = conv_norm(outputs // 2, outputs // 2, groups=outputs // 2)
        self.act = nn.ReLU(inplace=True) if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        first = self.act(self.primary(x))
        out = torch.cat([first, self.act(self.cheap(first))], dim=1)
        return out[:, : self.outputs, :, :]


class GhostBottleneck(nn.Module):
    """Two ghost modules with a residual sum, a depthwise convolution with stride and a gate in between."""

    def __init__(self, inputs: int, middle: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.first, self.second = GhostModule(inputs, middle), GhostModule(middle, outputs, act=False)
        self.down = conv_norm(middle, middle, stride=stride, groups=middle) if stride > 1 else nn.Identity()
        self.squeeze, self.excite = nn.Conv2d(middle, 4, 1), nn.Conv2d(4, middle, 1)
        same = inputs == outputs and stride == 1
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(
                conv_norm(inputs, inputs, stride=stride, groups=inputs), conv_norm(inputs, outputs, kernel=1)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.first(x))
        gate = F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(out, 1)))))
        out = self.second(out * gate)
        out += self.shortcut(x)
        return out


class GhostNet(nn.Module):
    """GhostNet: cheap features concatenated to real ones, cut to size by a slice, gates, residual sums."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 8, stride=2)
        self.blocks = nn.Sequential(
            GhostBottleneck(8, 16, 8, stride=1),
            GhostBottleneck(8, 24, 12, stride=2),
            GhostBottleneck(12, 24, 12, stride=1),
        )
        self.last = conv_norm(12, 20, kernel=1)
        self.head = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.last(self.blocks(F.relu(self.stem(x)))))
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


class RepVggBlock(nn.Module):
    """Train-time form: 3x3 and 1x1 convolutions with norms and, where the width stays, a norm alone, summed."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.dense, self.point = (
            conv_norm(inputs, outputs, stride=stride),
            conv_norm(inputs, outputs, kernel=1, stride=stride),
        )
        self.identity = nn.BatchNorm2d(inputs) if inputs == outputs and stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        passed = 0 if self.identity is None else self.identity(x)
        return F.relu(self.dense(x) + self.point(x) + passed)


class RepVgg(nn.Module):
    """RepVGG before its branches are merged."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [(3, 8, 2), (8, 12, 2), (12, 12, 1), (12, 16, 2), (16, 16, 1)]
        self.blocks = nn.Sequential(*(RepVggBlock(*size) for size in sizes))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.blocks(x).mean((2, 3)))
        return scores


class Exchange(nn.Module):
    """HRNet's exchange: every branch gets the sum of all, resized by strided convolutions or upsampling."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.paths = nn.ModuleList(
            nn.ModuleList(self._path(widths, source, target) for source in range(len(widths)))
            for target in range(len(widths))
        )

    @staticmethod
    def _path(widths: tuple[int, ...], source: int, target: int) -> nn.Module:
        if source == target:
            return nn.Identity()
        if source > target:
            return conv_norm(widths[source], widths[target], kernel=1)
        steps: list[nn.Module] = []
        for step in range(source, target):
            width = widths[target] if step == target - 1 else widths[source]
            steps += [conv_norm(widths[source], width, stride=2), nn.ReLU()]
        return nn.Sequential(*steps[:-1])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        joined = []
        for target, paths in enumerate(self.paths):
            assert isinstance(paths, nn.ModuleList)
            resized = [
                F.interpolate(path(x), size=maps[target].shape[2:], mode="bilinear", align_corners=False)
                for path, x in zip(paths, maps, strict=True)
            ]
            joined.append(F.relu(torch.stack(resized).sum(0)))
        return joined


class HighResolution(nn.Module):
    """HRNet: three resolutions side by side that exchange twice, then a head on all of them."""

    def __init__(self) -> None:
        super().__init__()
        widths = (6, 8, 12)
        self.stem = conv_norm(3, 6)
        self.down = nn.ModuleList([conv_norm(6, 8, stride=2), conv_norm(8, 12, stride=2)])
        self.convs = nn.ModuleList(conv_norm(width, width) for width in widths)
        self.exchanges = nn.ModuleList([Exchange(widths), Exchange(widths)])
        self.last = nn.Conv2d(sum(widths), 10, 1)
        self.out = nn.Conv2d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = [F.relu(self.stem(x))]
        for down in self.down:
            maps.append(F.relu(down(maps[-1])))
        for exchange in self.exchanges:
            maps = exchange([x + F.relu(conv(x)) for conv, x in zip(self.convs, maps, strict=True)])
        size = maps[0].shape[2:]
        joined = torch.cat([F.interpolate(x, size=size, mode="nearest") for x in maps], dim=1)
        heatmaps: Tensor = self.out(F.relu(self.last(joined)))
        return heatmaps
