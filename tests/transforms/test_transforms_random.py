"""Removing equals zeroing, and costs are exact, on networks that nobody thought of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from tersenet.graph import cost_table, trace
from tersenet.testing.invariant import MAX_DIFFERENCE, MIN_EFFECT, compare, random_policy
from tersenet.testing.random_networks import STEPS, RandomNetwork
from tersenet.transforms import make_plan, materialize, verify_groups

INPUTS = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def check_networks(seeds: range, *, num_steps: int) -> int:
    """Check the networks of these seeds; returns how many were changed by the cut, so that they prove something."""
    proven = 0
    for seed in seeds:
        model = RandomNetwork(seed=seed, num_steps=num_steps)
        graph = trace(model, INPUTS)
        if not any(group.prunable for group in graph.channel_groups):
            continue
        difference, effect = compare(model, INPUTS, seed=seed, graph=graph)
        assert difference <= MAX_DIFFERENCE, f"seed {seed}: {model.steps}"
        proven += effect >= MIN_EFFECT
        plan = make_plan(model, graph, random_policy(graph, seed=seed), seed=0)
        cut = trace(materialize(model, plan), INPUTS)
        num_kept = np.array(
            [len(plan.kept_channels.get(g.group_id, range(g.num_channels))) for g in graph.channel_groups]
        )
        assert cost_table(graph, "macs").cost(num_kept) == cut.macs, f"seed {seed}: {model.steps}"
        assert cost_table(graph, "params").cost(num_kept) == cut.num_params, f"seed {seed}: {model.steps}"
    return proven


@pytest.mark.slow
def test_random_networks_can_be_cut_exactly() -> None:
    assert check_networks(range(6), num_steps=8) >= 4


@pytest.mark.slow
@settings(max_examples=100, deadline=None, derandomize=True)
@given(kinds=st.lists(st.sampled_from(STEPS), min_size=1, max_size=8), seed=st.integers(0, 999))
def test_any_chain_of_operators_can_be_cut_exactly_and_counted(kinds: list[str], seed: int) -> None:
    model = RandomNetwork(seed=seed, kinds=kinds)
    graph = trace(model, INPUTS)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(INPUTS[:1])
    assert 2 * graph.macs == counter.get_total_flops()
    assert graph.num_params == sum(parameter.numel() for parameter in model.parameters())
    if any(group.prunable for group in graph.channel_groups):
        assert compare(model, INPUTS, seed=seed, graph=graph)[0] <= MAX_DIFFERENCE


@pytest.mark.slow
def test_many_deep_random_networks_can_be_cut_exactly() -> None:
    assert check_networks(range(100, 160), num_steps=20) >= 40


@pytest.mark.slow
def test_nothing_is_left_for_verification_to_lock_in_random_networks() -> None:
    for seed in range(200, 240):
        model = RandomNetwork(seed=seed, num_steps=12)
        graph = trace(model, INPUTS)
        assert verify_groups(model, graph, INPUTS) == graph
