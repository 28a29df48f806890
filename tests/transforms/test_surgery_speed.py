"""Surgery is fast enough for a search, which cuts a network hundreds of times: plan and copy, after tracing."""

from __future__ import annotations

import gc
import time

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tersenet.core.policy import ChannelDecision, Policy
from tersenet.graph import trace
from tersenet.models import build
from tersenet.transforms import make_plan, materialize

NOISE = 2.0
"""How much slower than the limit the best repeat may be: the clock of a core that others share is not its own."""

REPEATS = 15


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with four times as many channels at the end, and a projection where the shape changes."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = nn.Sequential()
        if inputs != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: Tensor) -> Tensor:
        branch = F.relu(self.bn1(self.conv1(x)))
        branch = F.relu(self.bn2(self.conv2(branch)))
        return F.relu(self.downsample(x) + self.bn3(self.conv3(branch)))


def resnet50() -> nn.Module:
    """He et al. 2016, table 1, with the stride in the 3x3 convolutions."""
    blocks, inputs = [], 64
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for number in range(count):
            blocks.append(Bottleneck(inputs, width, stride if number == 0 else 1))
            inputs = 4 * width
    stem = (nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "num_params", "milliseconds"),
    [("resnet20", 32, 269_722, 10.0), ("resnet50", 64, 25_557_032, 100.0)],
)
def test_cutting_half_of_every_group_keeps_to_its_limit(
    name: str, size: int, num_params: int, milliseconds: float
) -> None:
    torch.manual_seed(0)
    model = (resnet50() if name == "resnet50" else build(name)).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == num_params  # as published
    graph = trace(model, torch.randn(2, 3, size, size))
    half = ChannelDecision(pruning_ratio=0.5, criterion="l1")
    policy = Policy(channels={group.group_id: half for group in graph.channel_groups if group.prunable})
    times = []
    for _ in range(REPEATS):
        gc.collect()
        start = time.process_time()
        smaller = materialize(model, make_plan(model, graph, policy, seed=0))
        times.append(1000.0 * (time.process_time() - start))
    assert sum(parameter.numel() for parameter in smaller.parameters()) < 0.6 * num_params
    assert min(times) < NOISE * milliseconds
