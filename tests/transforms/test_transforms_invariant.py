"""Removing channels gives the same function as zeroing them, on every toy network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tersenet.graph import ModelGraph, trace
from tersenet.testing.invariant import assert_cut_equals_zeroed
from tersenet.testing.networks import NETWORKS, build, example_inputs, randomize
from tersenet.testing.toy_joins import OptionAResNet


@pytest.mark.parametrize("name", NETWORKS)
def test_cut_and_zeroed_networks_agree(name: str) -> None:
    model, inputs = build(name, seed=7), example_inputs(name, seed=7)
    graph = trace(model, inputs)
    for seed in range(3):
        assert_cut_equals_zeroed(model, inputs, seed=seed, graph=graph)


def test_cut_and_zeroed_resnet20_agree() -> None:
    model = randomize(OptionAResNet(blocks=3), seed=3)
    inputs = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for seed in range(2):
        assert_cut_equals_zeroed(model, inputs, seed=seed)


def _without_the_shift(graph: ModelGraph) -> ModelGraph:
    """What a library does that takes channel 3 of the stem for channel 3 of stage 2."""
    groups = []
    for group in graph.channel_groups:
        members = tuple(
            replace(member, positions=tuple((channel,) for channel in range(group.num_channels)))
            if group.group_id == "conv1"
            else member
            for member in group.members
        )
        groups.append(replace(group, members=members))
    return replace(graph, channel_groups=tuple(groups))


def test_the_comparison_finds_channels_that_are_cut_at_the_wrong_place() -> None:
    model, inputs = build("option_a"), example_inputs("option_a")
    wrong = _without_the_shift(trace(model, inputs))
    with pytest.raises((AssertionError, RuntimeError), match="differ by"):
        assert_cut_equals_zeroed(model, inputs, seed=0, graph=wrong)


def test_the_comparison_refuses_to_prove_nothing() -> None:
    model, inputs = build("plain"), example_inputs("plain")
    with torch.no_grad():
        model.get_parameter("head.weight").zero_()
        model.get_parameter("head.bias").fill_(1.0)
    with pytest.raises(AssertionError, match="proves nothing"):
        assert_cut_equals_zeroed(model, inputs, seed=0)
    with pytest.raises(AssertionError, match="nothing is prunable"):
        assert_cut_equals_zeroed(torch.nn.Linear(3, 2), torch.zeros(2, 3), seed=0)
