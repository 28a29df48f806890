"""Norms over channels: locked, unless their cut is asked for; then it runs, and says that it is not exact."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tersenet.core.policy import ChannelDecision, Policy
from tersenet.graph import trace
from tersenet.testing.networks import randomize
from tersenet.transforms import make_plan, materialize, verify_groups

IMAGES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Normed(nn.Module):
    """A group norm of 4 groups and a layer norm on channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.grouped = nn.Conv2d(3, 8, 1), nn.GroupNorm(4, 8)
        self.two, self.layered, self.last = nn.Conv2d(8, 6, 1), nn.LayerNorm(6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.grouped(self.one(x))).permute(0, 2, 3, 1)
        scores: Tensor = self.last(self.layered(x).mean((1, 2)))
        return scores


def test_norms_over_channels_lock_them() -> None:
    graph = trace(Normed(), IMAGES)
    assert not any(group.prunable for group in graph.channel_groups)
    assert "statistics of group_norm run over channels (aten.group_norm in grouped, test_graph_norms.py" in (
        graph.group("one").reason
    )


def test_on_request_they_are_cut_evenly_and_said_to_be_inexact() -> None:
    model = randomize(Normed(), seed=0).eval()
    graph = trace(model, IMAGES, cut_norms=True)
    one, two = graph.group("one"), graph.group("two")
    assert (one.prunable, one.num_channels) == (True, 2)
    assert "statistics of group_norm" in one.inexact
    assert "statistics of layer_norm" in two.inexact
    assert not graph.group("last").inexact
    assert verify_groups(model, graph, IMAGES) == graph
    policy = Policy(channels={"one": ChannelDecision(keep=(1,)), "two": ChannelDecision(keep=(0, 2, 3))})
    smaller = materialize(model, make_plan(model, graph, policy, seed=0))
    # channel 1 of each of 4 groups of 2
    assert torch.equal(smaller.get_parameter("grouped.weight"), model.get_parameter("grouped.weight")[[1, 3, 5, 7]])
    assert smaller.get_submodule("grouped").num_channels == 4
    assert smaller.get_submodule("layered").normalized_shape == (3,)
    assert smaller(IMAGES).shape == (2, 5)
