"""Walks around a plan: the middle of the box is the plan, its ends are the reach, and what was executed is told so."""

from __future__ import annotations

import numpy as np
import pytest

from tersenet.core.protocols import FloatArray
from tersenet.envs import ChannelDecisions, LayerwiseEnv, ResidualEnv
from tersenet.errors import SearchError
from tersenet.testing.contracts import check_env
from tersenet.testing.toy_budget import chain_cost, toy_budget, toy_space

CHANNELS = [16, 32, 24]
PLAN = np.array([[1.0], [0.3], [0.6]])


def walk() -> LayerwiseEnv:
    space = toy_space(CHANNELS)
    return LayerwiseEnv(
        space,
        toy_budget(space, chain_cost(CHANNELS), 0.5),
        np.zeros((3, 1)),
        decisions=ChannelDecisions(["a", "b", "c"], space.num_channels, criterion="l1"),
        decoder="level",
    )


def middle(env: ResidualEnv) -> FloatArray:
    return (env.action_space.low + env.action_space.high) / 2.0


@pytest.mark.parametrize("reach", [0.05, 1.0])
def test_it_keeps_its_contract(reach: float) -> None:
    check_env(ResidualEnv(walk(), PLAN, reach=reach))


def test_the_middle_is_the_plan_and_so_is_a_walk_through_it() -> None:
    env = ResidualEnv(walk(), PLAN, reach=0.1)
    plan = walk().decode(PLAN)
    assert env.decode(np.tile(middle(env), (3, 1))) == plan
    for step in env.transitions():
        np.testing.assert_allclose(step.action_taken, middle(env), atol=1e-9)
    env.reset(seed=0)
    assert [env.step(middle(env))[1] for _ in range(3)] == [False, False, True]
    assert env.decode() == plan


def test_the_ends_are_the_reach_and_nothing_goes_further() -> None:
    inner, env = walk(), ResidualEnv(walk(), PLAN, reach=0.1)
    low, high = env.action_space.low, env.action_space.high
    ends = np.stack([low, high, middle(env)])
    executed = inner.executed(PLAN)
    assert env.decode(ends) == inner.decode(executed + np.array([[-0.1], [0.1], [0.0]]))
    first, _, last = env.transitions()
    np.testing.assert_allclose(first.action_proposed, low, atol=1e-9)
    assert first.action_taken[0] < middle(env)[0]
    assert (low <= last.action_taken).all()
    assert (last.action_taken <= high).all()


def test_what_the_budget_takes_beyond_the_reach_is_told_as_the_end_of_the_box() -> None:
    env = ResidualEnv(walk(), np.full((3, 1), 0.6), reach=0.2)
    low, high = env.action_space.low, env.action_space.high
    inner = walk()
    executed = inner.executed(inner.executed(np.full((3, 1), 0.6)) + np.array([[-0.2], [0.2], [0.2]]))
    assert executed[0] < inner.executed(np.full((3, 1), 0.6))[0] - 0.2  # the budget takes from all three
    env.decode(np.stack([low, high, high]))
    first, second, _ = env.transitions()
    assert first.action_taken == low
    assert low < second.action_taken < high


def test_what_is_proposed_outside_the_box_is_its_end() -> None:
    env = ResidualEnv(walk(), PLAN, reach=0.1)
    box = env.action_space
    assert env.decode(np.array([[-3.0], [7.0], [0.6]])) == env.decode(np.stack([box.low, box.high, [0.6]]))
    with pytest.raises(ValueError, match="proposals must be numbers"):
        env.decode(np.array([[0.5], [np.nan], [0.6]]))


def test_a_walk_must_begin_and_end() -> None:
    env = ResidualEnv(walk(), PLAN, reach=0.1)
    with pytest.raises(SearchError, match="before reset"):
        env.step(middle(env))
    env.reset(seed=0)
    for _ in range(3):
        env.step(middle(env))
    with pytest.raises(SearchError, match="after the last"):
        env.step(middle(env))
