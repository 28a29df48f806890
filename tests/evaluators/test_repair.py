"""What a cut network goes through before it is measured, and how near it then is to the original."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from tersenet.core.plan import Plan
from tersenet.core.policy import ChannelDecision, Policy
from tersenet.evaluators import RepairName, make_repair
from tersenet.graph import ModelGraph, trace
from tersenet.measurement.placement import placement_of
from tersenet.transforms import make_plan, materialize

REPAIRS: tuple[RepairName, ...] = ("none", "recalibrate", "reconstruct", "distill")


class Residual(nn.Module):
    """A stem, a residual block whose inner channels can be cut, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.conv1, self.bn1 = nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        logits: Tensor = self.head(x.mean(dim=(2, 3)))
        return logits


def pictures(num: int, *, seed: int) -> Tensor:
    return torch.randn(num, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def net() -> Residual:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Residual()
    for _ in range(40):
        model(pictures(64, seed=1))
    return model.eval()


@pytest.fixture
def graph(net: Residual) -> ModelGraph:
    return trace(net, pictures(2, seed=0))


def repaired(net: Residual, graph: ModelGraph, name: RepairName) -> tuple[nn.Module, Plan]:
    plan = make_plan(net, graph, Policy(channels={"conv1": ChannelDecision(pruning_ratio=0.5)}), seed=0)
    small = materialize(net, plan)
    batches = list(torch.split(pictures(400, seed=2), 50))
    repair = make_repair(name, net, graph, calibration=batches, lessons=batches, seed=0)
    repair.mend(small, plan)
    repair.settle(small, placement_of(small))
    return small, plan


def distance(net: nn.Module, small: nn.Module) -> float:
    fresh = pictures(300, seed=3)
    with torch.no_grad():
        return float((small.eval()(fresh) - net(fresh)).pow(2).mean())


def test_each_repair_brings_the_network_nearer_than_the_cheaper_one(net: Residual, graph: ModelGraph) -> None:
    none, recalibrated, reconstructed, distilled = (distance(net, repaired(net, graph, name)[0]) for name in REPAIRS)
    assert reconstructed < recalibrated < none
    assert distilled < recalibrated


@pytest.mark.parametrize("name", REPAIRS)
def test_a_repair_repeats_and_leaves_the_original_alone(net: Residual, graph: ModelGraph, name: RepairName) -> None:
    before = copy.deepcopy(net.state_dict())
    first, again = repaired(net, graph, name)[0], repaired(net, graph, name)[0]
    for key, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not net.training
    assert not any(module._forward_hooks for module in (*net.modules(), *first.modules()))


def test_none_leaves_everything_as_it_was_cut(net: Residual, graph: ModelGraph) -> None:
    small, plan = repaired(net, graph, "none")
    for key, value in materialize(net, plan).state_dict().items():
        assert torch.equal(value, small.state_dict()[key])


def test_distilling_leaves_frozen_parameters_alone(net: Residual, graph: ModelGraph) -> None:
    net.head.weight.requires_grad_(False)
    small, _ = repaired(net, graph, "distill")
    assert torch.equal(small.get_submodule("head").weight, net.head.weight)  # type: ignore[arg-type]
    assert not torch.equal(small.get_submodule("conv2").weight[:, 0], net.conv2.weight[:, 0])  # type: ignore[index]
