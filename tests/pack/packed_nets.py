"""Tiny networks with one of everything that a packed file can hold, and a cut of one made by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tersenet.core.plan import Cut, Plan
from tersenet.core.policy import ChannelDecision, Clusters, Linear, Policy, Raw
from tersenet.transforms.coded import CodedWeights, LinearWeights, SharedWeights

KEEP = (0, 2, 3)
READER = Path(__file__).parents[2] / "examples" / "read_packed.py"
COLUMNS = (0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15)


class TinyNet(nn.Module):
    """Conv, norm, flatten, two linear layers with tied weights; buffers of three kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.head = nn.Linear(16, 5)
        self.twin = nn.Linear(16, 5)
        self.twin.weight = self.head.weight
        self.register_buffer("mask", torch.tensor([True, False, True, True, False]))
        self.register_buffer("steps", torch.tensor([[-3], [100]], dtype=torch.int8))

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.bn(self.conv(images)))
        columns = nn.functional.adaptive_avg_pool2d(features, 2).flatten(1)
        outputs: Tensor = (self.head(columns) + self.twin(columns)) * self.mask
        return outputs


def numbered(model: nn.Module) -> nn.Module:
    """Give value k of floating-point tensor n the value ((k + n) mod 97 - 19) / 64, which fp16 holds exactly."""
    with torch.no_grad():
        for number, tensor in enumerate(model.state_dict().values()):
            if tensor.is_floating_point():
                counts = torch.arange(tensor.numel(), dtype=torch.float64).reshape(tensor.shape)
                tensor.copy_(((counts + number) % 97 - 19) / 64)
        dict(model.named_buffers())["bn.running_var"].add_(1.0)
    return model


def tiny_plan() -> Plan:
    """Channel 1 of the convolution goes, and columns 4 to 7 of both linear layers."""
    norm = [Cut(tensor=f"bn.{leaf}", axis=0, keep=0) for leaf in ("weight", "bias", "running_mean", "running_var")]
    convolution = [Cut(tensor="conv.weight", axis=0, keep=0), Cut(tensor="conv.bias", axis=0, keep=0)]
    linear = [Cut(tensor="head.weight", axis=1, keep=1)]
    attributes: dict[str, dict[str, int | tuple[int, ...]]] = {
        "conv": {"out_channels": 3},
        "bn": {"num_features": 3},
        "head": {"in_features": 12},
        "twin": {"in_features": 12},
    }
    return Plan(
        keeps=(KEEP, COLUMNS),
        cuts=(*convolution, *norm, *linear),
        attributes=attributes,
        kept_channels={"conv": KEEP},
    )


def tiny_policy() -> Policy:
    """The decision behind the plan; the linear layer is stored as fp16."""
    return Policy(channels={"conv": ChannelDecision(keep=KEEP)}, storage={"head": Raw(dtype="fp16")})


def cut_by_hand(model: nn.Module) -> nn.Module:
    """What ``tiny_plan`` means, done with plain indexing on a fresh network."""
    small = TinyNet()
    small.conv, small.bn = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
    small.head, small.twin = nn.Linear(12, 5), nn.Linear(12, 5)
    small.twin.weight = small.head.weight
    cut = dict(model.state_dict())
    for name in ("conv.weight", "conv.bias", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"):
        cut[name] = cut[name][list(KEEP)]
    for name in ("head.weight", "twin.weight"):
        cut[name] = cut[name][:, list(COLUMNS)]
    small.load_state_dict(cut)
    return small.eval()


class CodedNet(nn.Module):
    """One layer of every coded form, a norm that can be folded and one that cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.up = nn.ConvTranspose2d(4, 6, 2)
        self.norm = nn.GroupNorm(2, 6)
        self.deep = nn.Conv2d(6, 11, 3, padding=1)
        self.head = nn.Linear(11, 5)
        self.last = nn.Linear(5, 4)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.norm(self.up(torch.relu(self.bn(self.first(images))))))
        features = torch.relu(self.deep(features))
        outputs: Tensor = self.last(self.head(features.mean(dim=(2, 3))))
        return outputs


def coded_policy() -> Policy:
    """One codebook with a zero, a codebook per four channels, smooth kernels, integers of 4 bits and of 1."""
    return Policy(
        storage={
            "first": Clusters(n_clusters=4),
            "up": Clusters(n_clusters=3, codebook_bits=32, channels_per_codebook=4),
            "deep": Clusters(n_clusters=6),
            "head": Linear(weight_bits=4),
            "last": Linear(weight_bits=1),
        }
    )


def coded_weights() -> dict[str, CodedWeights]:
    """Weight k of a tensor has symbol k * k mod the number of symbols; the kernels of ``deep`` rise to one corner."""

    def squares(shape: tuple[int, ...], modulus: int) -> NDArray[np.int64]:
        numbers = np.arange(int(np.prod(shape))) ** 2 % modulus
        return numbers.reshape(shape)

    shared = np.array([[-0.5, -0.25, 0.0, 0.25, 1.0]], np.float16)
    blocks = np.array([[-0.1, 0.0, 0.3], [0.1, 0.2, 0.7]], np.float32)
    return {
        "first.weight": SharedWeights(
            codebooks=shared, indices=squares((4, 3, 3, 3), 5).astype(np.uint8), axis=0, channels_per_codebook=4
        ),
        "up.weight": SharedWeights(
            codebooks=blocks, indices=squares((4, 6, 2, 2), 3).astype(np.uint8), axis=1, channels_per_codebook=4
        ),
        "deep.weight": SharedWeights(
            codebooks=np.linspace(-0.75, 0.75, 7, dtype=np.float16)[None],
            indices=np.fromfunction(
                lambda o, i, row, column: (5 * o + 3 * i + o * i) % 4 + (row + 2 * column) // 2,
                (11, 6, 3, 3),
                dtype=int,
            ).astype(np.uint8),
            axis=0,
            channels_per_codebook=11,
        ),
        "head.weight": LinearWeights(
            integers=(squares((5, 11), 15) - 7).astype(np.int8),
            scales=np.array([0.1, 0.2, 0.3, 0.4, 0.5], np.float16),
            weight_bits=4,
            axis=0,
        ),
        "last.weight": LinearWeights(
            integers=(squares((4, 5), 2) * 2 - 1).astype(np.int8),
            scales=np.array([0.1, 0.2, 0.3, 0.4], np.float32),
            weight_bits=1,
            axis=0,
        ),
    }


def coded_net() -> nn.Module:
    """A network that holds the coded weights, entry by entry as their docstrings say."""
    model = numbered(CodedNet()).eval()
    with torch.no_grad():
        for name, weights in coded_weights().items():
            weight = model.get_parameter(name)
            for place in np.ndindex(*weight.shape):
                channel = place[weights.axis]
                if isinstance(weights, SharedWeights):
                    row = weights.codebooks[channel // weights.channels_per_codebook]
                    weight[place] = float(row[weights.indices[place]])
                else:
                    scale = weights.scales.astype(np.float32)[channel]
                    weight[place] = float(np.float32(weights.integers[place]) * scale)
    return model


def read_elsewhere(path: Path, output: Path) -> tuple[dict[str, NDArray[Any]], str]:
    """The values as the reader without torch finds them, and what it prints."""
    command = [sys.executable, str(READER), str(path), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    with np.load(output, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}, done.stdout
