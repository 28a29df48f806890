"""Surgery is fast enough for a search, which cuts a network hundreds of times: plan and copy, after tracing.

The yardstick is ``copy.deepcopy`` of the same network, measured turn by turn: both are Python and small tensors, so the
ratio holds on slow and busy processors, where milliseconds do not: on one of them, idle or with both cores busy, a cut
took 17 to 51 ms for ResNet-20 and 115 to 370 ms for ResNet-50, but always 1.2 to 2.8 copies.
"""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tersenet.core.policy import ChannelDecision, Policy
from tersenet.graph import trace
from tersenet.models import build
from tersenet.transforms import make_plan, materialize

MAX_COPIES = 4.0
"""Copies of the network that surgery may take as long as; the best repeat of each counts."""

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


def seconds(action: Callable[[], object]) -> float:
    """Processor time of one call, garbage collected before."""
    gc.collect()
    start = time.process_time()
    action()
    return time.process_time() - start


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size", "num_params"), [("resnet20", 32, 269_722), ("resnet50", 64, 25_557_032)])
def test_cutting_half_of_every_group_takes_no_longer_than_a_few_copies(name: str, size: int, num_params: int) -> None:
    torch.manual_seed(0)
    model = (resnet50() if name == "resnet50" else build(name)).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == num_params  # as published
    graph = trace(model, torch.randn(2, 3, size, size))
    half = ChannelDecision(pruning_ratio=0.5, criterion="l1")
    policy = Policy(channels={group.group_id: half for group in graph.channel_groups if group.prunable})

    def cut() -> nn.Module:
        return materialize(model, make_plan(model, graph, policy, seed=0))

    assert sum(parameter.numel() for parameter in cut().parameters()) < 0.6 * num_params
    rounds = [(seconds(cut), seconds(lambda: copy.deepcopy(model))) for _ in range(REPEATS)]
    surgery, yardstick = (min(times) for times in zip(*rounds, strict=True))
    assert surgery < MAX_COPIES * yardstick
