"""Detectors, decoders, and networks on sequences and volumes, in the style of popular repositories; see ``popular``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tersenet.testing.toy_chains import conv_norm


class ConvAct(nn.Sequential):
    """Convolution, batch norm, SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(*conv_norm(inputs, outputs, kernel=kernel, stride=stride), nn.SiLU(inplace=True))


class C2f(nn.Module):
    """One half passes, the other goes through bottlenecks; every step is kept and all are concatenated."""

    def __init__(self, inputs: int, outputs: int, count: int, *, shortcut: bool) -> None:
        super().__init__()
        half = outputs // 2
        self.shortcut = shortcut
        self.first, self.last = ConvAct(inputs, outputs, 1), ConvAct((2 + count) * half, outputs, 1)
        self.steps = nn.ModuleList(nn.Sequential(ConvAct(half, half), ConvAct(half, half)) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.first(x).chunk(2, 1))
        for step in self.steps:
            made = step(parts[-1])
            parts.append(parts[-1] + made if self.shortcut else made)
        out: Tensor = self.last(torch.cat(parts, 1))
        return out


class Sppf(nn.Module):
    """Pooled three times with the same window, all four concatenated."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last, self.pool = (
            ConvAct(width, width // 2, 1),
            ConvAct(2 * width, width, 1),
            nn.MaxPool2d(5, 1, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.first(x)]
        for _ in range(3):
            maps.append(self.pool(maps[-1]))
        out: Tensor = self.last(torch.cat(maps, 1))
        return out


class Detector(nn.Module):
    """YOLO: C2f backbone, pooling pyramid, neck up and down with concatenations, two heads flattened into one list."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down1, self.down2 = ConvAct(3, 8, 3, 2), ConvAct(8, 16, 3, 2), ConvAct(16, 24, 3, 2)
        self.stage1, self.stage2, self.pyramid = C2f(16, 16, 2, shortcut=True), C2f(24, 24, 1, shortcut=True), Sppf(24)
        self.up, self.neck_up = nn.Upsample(scale_factor=2), C2f(40, 16, 1, shortcut=False)
        self.neck_down, self.neck = ConvAct(16, 16, 3, 2), C2f(40, 24, 1, shortcut=False)
        self.boxes = nn.ModuleList(nn.Sequential(ConvAct(width, 8), nn.Conv2d(8, 4, 1)) for width in (16, 24))
        self.classes = nn.ModuleList(nn.Sequential(ConvAct(width, 8), nn.Conv2d(8, 3, 1)) for width in (16, 24))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        first = self.stage1(self.down1(self.stem(x)))
        second = self.pyramid(self.stage2(self.down2(first)))
        fine = self.neck_up(torch.cat([self.up(second), first], 1))
        coarse = self.neck(torch.cat([self.neck_down(fine), second], 1))
        made = [
            torch.cat([box(level), score(level)], 1)
            for box, score, level in zip(self.boxes, self.classes, (fine, coarse), strict=True)
        ]
        flat = torch.cat([level.view(level.shape[0], 7, -1) for level in made], 2)
        box, score = torch.split(flat, [4, 3], 1)
        return torch.cat([box, score.sigmoid()], 1), made


class DoubleConv(nn.Sequential):
    """Two convolutions with norms."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(*conv_norm(inputs, outputs), nn.ReLU(), *conv_norm(outputs, outputs), nn.ReLU())


class SkipUNet(nn.Module):
    """U-Net with transposed convolutions, skips that are padded to size and concatenated, and a deep second output."""

    def __init__(self) -> None:
        super().__init__()
        widths = (6, 8, 12)
        self.downs = nn.ModuleList(DoubleConv(i, o) for i, o in zip((3, *widths), widths, strict=False))
        self.bottom = DoubleConv(12, 16)
        self.ups = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, 2) for i, o in ((16, 12), (12, 8), (8, 6)))
        self.merges = nn.ModuleList(DoubleConv(2 * width, width) for width in reversed(widths))
        self.out, self.deep = nn.Conv2d(6, 2, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        skips, maps = [], []
        for down in self.downs:
            skips.append(down(x))
            x = F.max_pool2d(skips[-1], 2)
        x = self.bottom(x)
        for up, merge in zip(self.ups, self.merges, strict=True):
            x, skip = up(x), skips.pop()
            rows, columns = skip.size(2) - x.size(2), skip.size(3) - x.size(3)
            x = F.pad(x, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])
            x = merge(torch.cat([skip, x], 1))
            maps.append(x)
        return {"mask": self.out(x), "deep": self.deep(maps[1])}


@dataclass
class Levels:
    """What the pyramid network returns."""

    maps: dict[str, Tensor]
    scores: Tensor


class FeaturePyramid(nn.Module):
    """FPN: lateral convolutions, sums from the top down, one head shared by all levels; returns a data class."""

    def __init__(self) -> None:
        super().__init__()
        widths = (8, 12, 16)
        self.stages = nn.ModuleList(conv_norm(i, o, stride=2) for i, o in zip((3, *widths), widths, strict=False))
        self.lateral = nn.ModuleList(nn.Conv2d(width, 10, 1) for width in widths)
        self.smooth = nn.ModuleList(nn.Conv2d(10, 10, 3, padding=1) for _ in widths)
        self.tower, self.scores = nn.Conv2d(10, 10, 3, padding=1), nn.Conv2d(10, 4, 1)

    def forward(self, x: Tensor) -> Levels:
        found = []
        for stage, lateral in zip(self.stages, self.lateral, strict=True):
            x = F.relu(stage(x))
            found.append(lateral(x))
        for level in (1, 0):
            found[level] = found[level] + F.interpolate(found[level + 1], size=found[level].shape[-2:], mode="nearest")
        maps = [
            self.scores(F.relu(self.tower(smooth(level)))) for smooth, level in zip(self.smooth, found, strict=True)
        ]
        scores = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1)
        return Levels({f"p{number}": level for number, level in enumerate(maps)}, scores)


class SuperResolution(nn.Module):
    """EDSR with pixel shuffle: residual blocks with a fixed scale, a long skip, twice the size in two steps."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.PReLU(12), nn.Conv2d(12, 8, 3, padding=1))
            for _ in range(2)
        )
        self.join = nn.Conv2d(8, 8, 3, padding=1)
        self.up = nn.Sequential(nn.Conv2d(8, 32, 3, padding=1), nn.PixelShuffle(2), nn.PReLU())
        self.last = nn.Conv2d(8, 3 * 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        y = first
        for block in self.body:
            y = y + 0.1 * block(y)
        y = self.last(self.up(self.join(y) + first))
        base = F.interpolate(x, scale_factor=4.0, mode="bicubic", align_corners=False)
        return F.pixel_shuffle(y, 2) + base


class TemporalBlock(nn.Module):
    """Two causal dilated convolutions: padded on both sides, the right end cut off again, and a residual sum."""

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.trim = 2 * dilation
        self.one = nn.Conv1d(inputs, outputs, 3, padding=self.trim, dilation=dilation)
        self.two = nn.Conv1d(outputs, outputs, 3, padding=self.trim, dilation=dilation)
        self.norm = nn.BatchNorm1d(outputs)
        self.match = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.one(x)[:, :, : -self.trim].contiguous())
        y = self.norm(self.two(y)[:, :, : -self.trim])
        return F.relu(y + (x if self.match is None else self.match(x)))


class Temporal(nn.Module):
    """Temporal convolutional network on sequences (B, 4, 24)."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(TemporalBlock(4, 10, 1), TemporalBlock(10, 10, 2), TemporalBlock(10, 12, 4))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.blocks(x)[:, :, -1])
        return scores


class Volume(nn.Module):
    """3-d CNN on clips (B, 3, 4, 16, 16): convolutions split into space and time, residual sums, flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv3d(3, 8, (3, 5, 5), (1, 2, 2), (1, 2, 2), bias=False), nn.BatchNorm3d(8)
        self.space = nn.ModuleList(nn.Conv3d(i, 14, (1, 3, 3), padding=(0, 1, 1)) for i in (8, 8))
        self.time = nn.ModuleList(nn.Conv3d(14, 8, (3, 1, 1), padding=(1, 0, 0)) for _ in range(2))
        self.depthwise, self.point = nn.Conv3d(8, 8, 3, padding=1, groups=8), nn.Conv3d(8, 10, 1)
        self.head = nn.Linear(10 * 2 * 2 * 2, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        for space, time in zip(self.space, self.time, strict=True):
            x = F.relu(x + time(F.relu(space(x))))
        x = F.adaptive_avg_pool3d(F.relu(self.point(self.depthwise(x))), 2)
        scores: Tensor = self.head(x.flatten(1))
        return scores
