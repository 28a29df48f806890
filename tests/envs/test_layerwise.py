"""The walk: observations by hand, executed actions, order of calls, and policies that keep the budget."""

from __future__ import annotations

import numpy as np
import pytest

from tersenet.core.policy import ChannelDecision, Policy
from tersenet.core.protocols import FloatArray
from tersenet.envs import Budget, ChannelDecisions, DecisionPoint, DecoderName, LayerwiseEnv
from tersenet.errors import PolicyError, SearchError, TargetError
from tersenet.testing.contracts import check_env
from tersenet.testing.toy_budget import BilinearCost, chain_cost, toy_budget, toy_space


def _env(decoder: DecoderName, *, max_ratio: float = 0.5) -> LayerwiseEnv:
    """Groups of 10, 20 and 10 channels that cost 10, 20 and 10; the middle one of the graph's four stays whole."""
    space = toy_space([10, 60, 20, 10], undecided=[1])
    table = BilinearCost(0.0, np.array([1.0, 0.0, 1.0, 1.0]), np.zeros((4, 4)))
    features = np.array([[0.0, 0.5], [0.5, 1.0], [1.0, 0.0]])
    return LayerwiseEnv(
        space,
        toy_budget(space, table, max_ratio),
        features,
        decisions=ChannelDecisions(["a", "b", "c"], space.num_channels, criterion="l2"),
        decoder=decoder,
    )


def _kept(env: LayerwiseEnv, policy: Policy) -> list[int]:
    return [int(count) for count in env.num_kept(policy)]


@pytest.mark.parametrize("decoder", ["wall", "level"])
@pytest.mark.parametrize("max_ratio", [0.2, 0.35, 0.5, 0.9, 1.0])
def test_the_environment_keeps_its_contract(decoder: DecoderName, max_ratio: float) -> None:
    check_env(_env(decoder, max_ratio=max_ratio))


@pytest.mark.parametrize("decoder", ["wall", "level"])
def test_coupled_costs_keep_the_contract(decoder: DecoderName) -> None:
    channels = [16, 32, 32, 64, 64, 10]
    space = toy_space(channels, block=8, undecided=[5])
    budget = toy_budget(space, chain_cost(channels), 0.4)
    for seed in range(5):
        check_env(
            LayerwiseEnv(
                space,
                budget,
                np.zeros((5, 3)),
                decisions=ChannelDecisions(list("abcde"), space.num_channels, criterion="l1"),
                decoder=decoder,
            ),
            seed=seed,
        )


def test_observations_tell_features_savings_rest_and_the_last_ratio() -> None:
    env = _env("wall")
    # cost 40; nothing saved, the rest can save 40 - 8 = 32; last ratio 1
    np.testing.assert_allclose(env.reset(seed=0), [0.0, 0.5, 0.0, 32 / 40, 1.0])
    # keep 5 of 10: 5 saved; the two others can save 30 - 6 = 24
    observation, done = env.step(np.array([0.5]))
    np.testing.assert_allclose(observation, [0.5, 1.0, 5 / 40, 24 / 40, 0.5])
    assert not done
    # all 20 do not fit in 20 - 5 - 2 = 13; 12 saved now; the last one can save 8; 13 of 20 kept
    observation, done = env.step(np.array([1.0]))
    np.testing.assert_allclose(observation, [1.0, 0.0, 12 / 40, 8 / 40, 13 / 20])
    assert not done
    observation, done = env.step(np.array([0.9]))
    np.testing.assert_allclose(observation, np.zeros(5))
    assert done


def test_the_wall_clips_what_does_not_fit_and_the_policy_says_so() -> None:
    env = _env("wall")
    env.reset(seed=0)
    for ratio in (0.5, 1.0, 0.9):
        env.step(np.array([ratio]))
    policy = env.decode()
    assert _kept(env, policy) == [5, 60, 13, 2]
    assert policy.channels["a"] == ChannelDecision(pruning_ratio=0.5, criterion="l2")
    assert env.costs(policy) == {"macs": 0.5}


def test_groups_that_stay_whole_are_not_named() -> None:
    env = _env("level")
    # budget 20: the first is full at 10; the others share the 10 left, 6 of 20 and 4 of 10 would be one level
    policy = env.decode(np.array([[1.0], [0.2], [0.2]]))
    assert "a" not in policy.channels
    kept = _kept(env, policy)
    assert kept[0] == 10
    assert kept[2] + kept[3] == 10


def test_transitions_hold_what_was_executed_beside_what_was_asked_for() -> None:
    env = _env("level")
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.array([0.9]))
    transitions = env.transitions()
    assert [float(t.action_proposed[0]) for t in transitions] == [0.9, 0.9, 0.9]
    assert [float(t.action_taken[0]) for t in transitions] == [0.5, 0.5, 0.5]
    # after the first decision 5 of 40 are saved, although the proposal of 0.9 would have saved 1
    np.testing.assert_allclose(transitions[1].observation, [0.5, 1.0, 5 / 40, 24 / 40, 0.5])


def test_proposals_outside_the_box_are_clipped_to_it() -> None:
    env = _env("level")
    env.decode(np.array([[-3.0], [7.0], [0.5]]))
    assert [float(t.action_proposed[0]) for t in env.transitions()] == [0.2, 1.0, 0.5]


def test_the_decision_points_name_their_groups() -> None:
    assert _env("wall").points[1] == DecisionPoint(kind="channels", unit="b")


@pytest.mark.parametrize("proposals", [np.ones((2, 1)), np.ones(3), np.full((3, 1), np.nan)])
def test_proposals_of_a_wrong_shape_or_not_numbers_are_refused(proposals: FloatArray) -> None:
    with pytest.raises(ValueError, match="proposals must"):
        _env("wall").decode(proposals)


def test_a_step_with_several_numbers_is_refused() -> None:
    env = _env("wall")
    env.reset(seed=0)
    with pytest.raises(ValueError, match="proposals must"):
        env.step(np.array([0.5, 0.5]))


def test_calls_in_the_wrong_order_say_what_to_do() -> None:
    env = _env("wall")
    with pytest.raises(SearchError, match="Call reset"):
        env.step(np.array([0.5]))
    with pytest.raises(SearchError, match="after 0 of 3 decisions"):
        env.transitions()


def test_a_policy_for_other_groups_has_no_cost_here() -> None:
    with pytest.raises(PolicyError, match="'stem'"):
        _env("wall").num_kept(Policy(channels={"stem": ChannelDecision(pruning_ratio=0.5)}))


def test_a_budget_out_of_reach_is_refused_when_the_environment_is_made() -> None:
    with pytest.raises(TargetError, match="cannot be reached"):
        _env("wall", max_ratio=0.1)


def test_without_bounds_there_is_nothing_about_costs_to_observe() -> None:
    space = toy_space([10, 10])
    env = LayerwiseEnv(
        space,
        Budget(limits=()),
        np.zeros((2, 1)),
        decisions=ChannelDecisions(["a", "b"], space.num_channels, criterion="l1"),
        decoder="level",
    )
    check_env(env)
    assert env.observation_space.size == 2
    assert _kept(env, env.decode(np.array([[0.5], [0.8]]))) == [5, 8]


def test_features_must_have_one_row_per_decision() -> None:
    space = toy_space([10, 10])
    with pytest.raises(ValueError, match="features"):
        LayerwiseEnv(
            space,
            Budget(limits=()),
            np.zeros((3, 1)),
            decisions=ChannelDecisions(["a", "b"], space.num_channels, criterion="l1"),
            decoder="level",
        )


@pytest.mark.parametrize("decoder", ["wall", "level"])
def test_what_would_be_executed_is_what_decoding_executes_and_leaves_the_walk_alone(decoder: DecoderName) -> None:
    env = _env(decoder)
    env.reset(seed=0)
    for ratio in (0.9, 0.4, 0.7):
        env.step(np.array([ratio]))
    walked = env.decode()
    proposals = np.array([[0.3], [0.9], [0.8]])
    told = env.executed(proposals)
    assert env.decode() == walked
    env.decode(proposals)
    np.testing.assert_array_equal(told, np.stack([step.action_taken for step in env.transitions()]))


def test_prices_are_the_slopes_of_the_cost_and_of_the_tighter_bound() -> None:
    env = _env("level")
    # costs 10, 20 and 10 of 40
    np.testing.assert_allclose(env.prices(np.array([[0.5], [0.5], [0.5]])), [[0.25], [0.5], [0.25]])
    channels = [4, 8, 10]
    space, table = toy_space(channels, undecided=[2]), chain_cost(channels)
    plain = BilinearCost(0.0, np.array([1.0, 1.0, 0.0]), np.zeros((3, 3)))
    limits = toy_budget(space, table, 0.5).limits + toy_budget(space, plain, 0.9).limits
    both = LayerwiseEnv(
        space,
        Budget(limits=limits),
        np.zeros((2, 1)),
        decisions=ChannelDecisions(["a", "b"], space.num_channels, criterion="l1"),
        decoder="level",
    )
    # 2 and 4 of 4 and 8 channels: the chain (27 a + 9 ab + 90 b + 100) is nearer to its bound; one channel of a costs
    # 27 + 9 * 4, one of b 9 * 2 + 90; the whole is 27 * 4 + 9 * 4 * 8 + 90 * 8 + 100
    whole = table.cost(np.array(channels))
    expected = [[(27 + 9 * 4) * 4 / whole], [(9 * 2 + 9 * 10) * 8 / whole]]
    np.testing.assert_allclose(both.prices(np.array([[0.5], [0.5]])), expected)


def test_without_bounds_nothing_has_a_price() -> None:
    space = toy_space([4, 4])
    env = LayerwiseEnv(
        space,
        Budget(limits=()),
        np.zeros((2, 1)),
        decisions=ChannelDecisions(["a", "b"], space.num_channels, criterion="l1"),
        decoder="level",
    )
    assert env.prices(np.array([[0.5], [1.0]])).tolist() == [[0.0], [0.0]]
