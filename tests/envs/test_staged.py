"""Walks in stages: shares multiply, the budget is exact, and what was proposed is what is told."""

from __future__ import annotations

import numpy as np
import pytest

from tersenet.envs import ChannelDecisions, LayerwiseEnv
from tersenet.envs.staged import StagedEnv
from tersenet.errors import SearchError
from tersenet.testing.contracts import check_env
from tersenet.testing.toy_budget import chain_cost, toy_budget, toy_space

CHANNELS = [16, 32, 24]


def plans(max_ratio: float = 0.5) -> LayerwiseEnv:
    space = toy_space(CHANNELS)
    return LayerwiseEnv(
        space,
        toy_budget(space, chain_cost(CHANNELS), max_ratio),
        np.zeros((3, 1)),
        decisions=ChannelDecisions(["a", "b", "c"], space.num_channels, criterion="l1"),
        decoder="level",
    )


@pytest.mark.parametrize("num_steps", [1, 3])
def test_it_keeps_its_contract(num_steps: int) -> None:
    check_env(StagedEnv(plans(), num_steps=num_steps))


def test_shares_multiply_and_the_largest_actions_just_reach_the_lower_bound() -> None:
    env = StagedEnv(plans(), num_steps=2)
    # the lower bound is 0.2
    np.testing.assert_allclose(env.action_space.high, 1.0 - np.sqrt(0.2))
    assert env.reset(seed=0).tolist() == [1.0, 1.0, 1.0, 0.0]
    observation, done = env.step(np.array([0.5, 0.25, 0.9]))
    np.testing.assert_allclose(observation, [0.5, 0.75, np.sqrt(0.2), 0.5])
    assert not done
    assert env.step(np.array([0.2, 0.0, 0.9]))[1]
    assert env.decode() == plans().decode(np.array([[0.4], [0.75], [0.2]]))


def test_every_policy_uses_the_budget_up() -> None:
    space = toy_space(CHANNELS)
    budget = toy_budget(space, chain_cost(CHANNELS), 0.5)
    decisions = ChannelDecisions(["a", "b", "c"], space.num_channels, criterion="l1")
    env, rng = StagedEnv(plans(), num_steps=3), np.random.default_rng(0)
    for _ in range(20):
        counts = decisions.counts(env.decode(rng.uniform(0.0, 0.4, size=(3, 3))))
        assert budget.fits(counts)
        for decision in range(3):
            larger = counts.copy()
            larger[decision] += 1
            assert larger[decision] > CHANNELS[decision] or not budget.fits(larger)


def test_transitions_tell_of_the_proposed_walk_and_the_executed_plan() -> None:
    env = StagedEnv(plans(), num_steps=2)
    proposals = np.array([[0.5, 0.25, 0.0], [0.2, 0.0, 0.1]])
    policy = env.decode(proposals)
    first, second = env.transitions()
    np.testing.assert_allclose(second.observation, [0.5, 0.75, 1.0, 0.5])
    np.testing.assert_array_equal(second.action_proposed, proposals[1])
    kept = 1.0 - np.array(
        [policy.channels[name].pruning_ratio or 0.0 if name in policy.channels else 0.0 for name in "abc"]
    )
    np.testing.assert_allclose((1.0 - first.action_taken) * (1.0 - second.action_taken), kept, atol=1e-3)


def test_walks_in_the_wrong_order_or_of_another_size_are_refused() -> None:
    env = StagedEnv(plans(), num_steps=2)
    with pytest.raises(SearchError, match="before reset"):
        env.step(np.zeros(3))
    env.reset(seed=0)
    with pytest.raises(SearchError, match="after 0 of 2 steps"):
        env.decode()
    with pytest.raises(ValueError, match="3 numbers per step"):
        env.step(np.zeros(2))
