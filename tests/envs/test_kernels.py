"""Rounds of switching on a network that is only told of: actions, ceiling, what was executed, a toy with an optimum."""

from __future__ import annotations

import numpy as np
import pytest

from tersenet.agents import DQN, DQNConfig
from tersenet.core.metrics import Evaluation, Metrics
from tersenet.core.policy import ChannelDecision, Policy
from tersenet.core.protocols import FloatArray
from tersenet.envs import Budget, KernelEnv, KernelRules, Limit
from tersenet.envs.kernel_rules import BoolArray
from tersenet.envs.kernels import FEATURES
from tersenet.envs.switched import SwitchedChannels, masks_of
from tersenet.errors import PolicyError, SearchError
from tersenet.testing.contracts import check_env
from tersenet.testing.toy_budget import BilinearCost, toy_space

SIZES = {"a": 10, "b": 10}
PRICES = np.array([1.0, 4.0])


class Told:
    """Signals that a test sets itself; health rises with the number of the channel."""

    def __init__(self) -> None:
        self.qualities: list[float] = []
        self.active: dict[str, BoolArray] = {name: np.ones(size, dtype=np.bool_) for name, size in SIZES.items()}

    def health(self) -> dict[str, FloatArray]:
        return {name: 1.0 + np.arange(float(size)) for name, size in SIZES.items()}

    def take(self, policy: Policy, quality: float) -> None:
        self.active = masks_of(policy, SIZES)
        self.qualities.append(quality)


def env_with(told: Told, *, max_ratio: float | None = None, **rules: object) -> KernelEnv:
    space = toy_space(list(SIZES.values()), lower_bound=0.2)
    table = BilinearCost(0.0, PRICES, np.zeros((2, 2)))
    original = float(PRICES.sum() * 10)
    price = Limit(kind="params", table=table, maximum=np.inf, original=original)
    limits = (
        () if max_ratio is None else (Limit(kind="params", table=table, maximum=max_ratio * 50, original=original),)
    )
    fields: dict[str, object] = {"mode": "auto_ceca", "num_rounds": 10, "reference": 100.0, "share": 0.3}
    return KernelEnv(
        space, SwitchedChannels(SIZES), Budget(limits=limits), price,
        rules=KernelRules(**(fields | rules)), signals=told,  # type: ignore[arg-type]
    )  # fmt: skip


def walked(env: KernelEnv, *actions: float) -> Policy:
    env.reset(seed=0)
    for action in actions:
        env.step(np.array([action]))
    return env.decode()


def kept(policy: Policy, group: str) -> tuple[int, ...] | None:
    return policy.channels[group].keep if group in policy.channels else None


def test_the_least_healthy_go_off_and_the_healthiest_of_those_come_on() -> None:
    told = Told()
    env = env_with(told)
    first = walked(env, 0, 1)  # a share of 0.3 of 10, and one
    assert kept(first, "a") == tuple(range(3, 10))
    assert kept(first, "b") == tuple(range(1, 10))
    told.take(first, 100.0)
    second = walked(env, 3, 4)  # on by one; a share of 3 where only one is off
    assert kept(second, "a") == tuple(range(2, 10))
    assert kept(second, "b") is None
    assert [float(t.action_taken[0]) for t in env.transitions()] == [3.0, 3.0]
    assert [float(t.action_proposed[0]) for t in env.transitions()] == [3.0, 4.0]
    told.take(second, 100.0)
    assert kept(walked(env, 2, 2), "a") == tuple(range(2, 10))


def test_a_group_never_goes_below_its_fewest() -> None:
    told = Told()
    env = env_with(told)
    for _ in range(5):
        told.take(walked(env, 0, 0), 100.0)
    assert [int(mask.sum()) for mask in told.active.values()] == [2, 2]  # a fifth
    walked(env, 0, 1)
    assert [float(t.action_taken[0]) for t in env.transitions()] == [2.0, 2.0]  # nothing happened


def test_without_reactivation_nothing_comes_on() -> None:
    told = Told()
    env = env_with(told, reactivate=False)
    assert env.action_space.high.tolist() == [2.0]
    told.take(walked(env, 0, 0), 100.0)
    after = walked(env, 4, 3)
    assert kept(after, "a") == tuple(range(3, 10))


def test_in_the_last_rounds_nothing_comes_on() -> None:
    told = Told()
    env = env_with(told, settle=0.2)  # of ten rounds, the last two
    told.take(walked(env, 0, 2), 100.0)
    told.qualities += [100.0] * 6
    assert len(kept(walked(env, 3, 2), "a") or ()) == 8
    told.qualities += [100.0]
    assert len(kept(walked(env, 3, 2), "a") or ()) == 7
    assert [float(t.action_taken[0]) for t in env.transitions()] == [2.0, 2.0]


def test_the_ceiling_falls_by_the_cube_and_is_never_exceeded() -> None:
    told = Told()
    env = env_with(told, max_ratio=0.5, ramp=0.5)
    costs = []
    for _ in range(6):
        told.take(walked(env, 2, 2), 100.0)
        costs.append(sum(price * mask.sum() for price, mask in zip(PRICES, told.active.values(), strict=True)))
    # by hand: 25 + 25 * (1 - n / 5)^3 of 50 for n = 1, 2, ...; prices of 1 and 4 allow no step finer than 4
    ceilings = [37.8, 30.4, 26.6, 25.2, 25.0, 25.0]
    assert all(ceiling - 4.0 < cost <= ceiling for cost, ceiling in zip(costs, ceilings, strict=True))
    assert costs[-2:] == [costs[-2]] * 2  # what is below the ceiling is left alone


def test_no_action_goes_on_below_the_bounds_of_the_target() -> None:
    told = Told()
    env = env_with(told, max_ratio=0.9)  # 45 of 50
    policy = walked(env, 2, 0)  # three channels of 4 each were asked for, two are enough
    assert kept(policy, "b") == tuple(range(2, 10))
    told.take(policy, 100.0)
    assert walked(env, 0, 1) == policy
    assert [float(t.action_taken[0]) for t in env.transitions()] == [2.0, 2.0]


def test_what_goes_first_has_the_least_health_per_cost_and_was_not_just_woken() -> None:
    told = Told()
    told.active["b"][[0, 1]] = False
    # group b costs 4 a channel: its channel 2, health 3, saves 3 / 4; channel 0 of a only 1 / 1
    env = env_with(told, max_ratio=0.8, ramp=0.01)  # 40, and 42 are on
    policy = walked(env, 2, 2)
    assert (kept(policy, "a"), kept(policy, "b")) == (None, tuple(range(3, 10)))
    policy = walked(env, 2, 3)  # channel 1 comes on, 46: others must go, not the one that came
    # by hand, health * wanted / cost: 1 / 1 of a, then 1.4 * 3 / 4 and 1.4 * 4 / 4 of b: 45, 41, 37
    assert (kept(policy, "a"), kept(policy, "b")) == (tuple(range(1, 10)), (1, 4, 5, 6, 7, 8, 9))
    assert [float(t.action_taken[0]) for t in env.transitions()] == [1.0, 1.0]


def test_the_ceiling_takes_a_quarter_of_a_group_before_it_takes_more() -> None:
    told = Told()
    env = env_with(told, max_ratio=0.8, ramp=0.01)  # 40 of 50; by health per cost all three would be of b
    policy = walked(env, 2, 2)
    assert kept(policy, "b") == tuple(range(2, 10))  # two of ten, 42
    assert kept(policy, "a") == tuple(range(2, 10))  # two of one each


def test_in_auto_aec_the_ceiling_waits_for_accuracy() -> None:
    costs = {}
    for quality in (100.0, 99.0):
        told = Told()
        env = env_with(told, max_ratio=0.5, ramp=0.5, mode="auto_aec")
        for _ in range(3):
            told.take(walked(env, 2, 2), quality)
        costs[quality] = sum(price * mask.sum() for price, mask in zip(PRICES, told.active.values(), strict=True))
    assert costs[100.0] <= 26.6
    assert 33.8 < costs[99.0] <= 37.8  # still where the first round left it


def test_in_auto_aec_the_last_rounds_are_under_the_bounds_in_any_case() -> None:
    told = Told()
    env = env_with(told, max_ratio=0.5, ramp=0.5, mode="auto_aec", settle=0.2)
    costs = []
    for _ in range(10):
        told.take(walked(env, 2, 2), 90.0)
        costs.append(sum(price * mask.sum() for price, mask in zip(PRICES, told.active.values(), strict=True)))
    assert min(costs[:8]) > 33.8  # where the first round left it
    assert max(costs[8:]) <= 25.0


def test_rewards_count_the_network_as_it_is_after_the_round() -> None:
    policy = walked(env_with(Told()), 2, 0)  # three channels of 4 less, of 50
    for mode, bad in (("auto_aec", -0.2), ("auto_ceca", 12.0 / 50.0 - 0.17)):
        env = env_with(Told(), mode=mode)
        assert env.reward(Evaluation(metrics=Metrics(top1=99.9), seconds=0.0), policy) == pytest.approx(12.0 / 50.0)
        assert env.reward(Evaluation(metrics=Metrics(top1=98.0), seconds=0.0), policy) == pytest.approx(bad)


def test_bounds_can_be_tightened_afterwards() -> None:
    told = Told()
    env = env_with(told)
    space_cost = BilinearCost(0.0, PRICES, np.zeros((2, 2)))
    tight = Budget(limits=(Limit(kind="params", table=space_cost, maximum=20.0, original=50.0),))
    masks = masks_of(env.within_bounds(Policy(), tight), SIZES)
    assert 16.0 < sum(price * mask.sum() for price, mask in zip(PRICES, masks.values(), strict=True)) <= 20.0
    with pytest.raises(SearchError, match="cannot be brought below 10"):
        env.within_bounds(
            Policy(), Budget(limits=(Limit(kind="params", table=space_cost, maximum=5.0, original=50.0),))
        )


def test_observations_stay_between_0_and_1_and_a_saved_round_goes_on() -> None:
    told = Told()
    env = env_with(told, max_ratio=0.3)
    rng = np.random.default_rng(0)
    for _ in range(8):
        walked(env, *rng.integers(0, 5, size=2))
        for transition in env.transitions():
            assert transition.observation.shape == (len(FEATURES),)
            assert 0.0 <= transition.observation.min() <= transition.observation.max() <= 1.0
        told.take(env.decode(), float(rng.uniform(90.0, 101.0)))
    env, other = env_with(told), env_with(told)
    told.active["a"][:] = True
    told.take(walked(env, 0, 2), 100.0)  # an action of the first group that its next observation tells of
    assert not np.array_equal(other.reset(seed=0), env.reset(seed=0))
    other.load_state_dict(env.state_dict())
    np.testing.assert_array_equal(other.reset(seed=0), env.reset(seed=0))


def test_calls_in_the_wrong_order_and_foreign_policies_are_refused() -> None:
    env = env_with(Told())
    with pytest.raises(SearchError, match="before reset"):
        env.step(np.zeros(1))
    with pytest.raises(SearchError, match="before the sweep was over"):
        env.decode()
    with pytest.raises(PolicyError, match="list the channels of its own groups"):
        SwitchedChannels(SIZES).masks(Policy(channels={"a": ChannelDecision(pruning_ratio=0.5)}))
    with pytest.raises(PolicyError, match="Group 'c'"):
        SwitchedChannels(SIZES).masks(Policy(channels={"c": ChannelDecision(keep=(0,))}))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["auto_aec", "auto_ceca"])
def test_an_agent_learns_which_group_is_needed(mode: str) -> None:
    """Every channel of a that is off costs a point, those of b nothing: the optimum is a whole and b at its two."""
    finals = []
    for seed in range(3):
        told = Told()
        env = env_with(told, mode=mode, num_rounds=60, tolerance=0.5, settle=0.0)
        config = DQNConfig(
            num_actions=5, num_trials=60, discount=0.5, follows="episode", batch_size=32, learning_rate=3e-3,
            updates_per_step=4, target_every=50, epsilon_end=0.0,
        )  # fmt: skip
        agent = DQN(config, observation_size=len(FEATURES), action_space=env.action_space, seed=seed)
        for _ in range(60):
            observation, done = env.reset(seed=0), False
            while not done:
                observation, done = env.step(agent.act(observation))
            policy = env.decode()
            quality = 100.0 - float((~masks_of(policy, SIZES)["a"]).sum())
            reward = env.reward(Evaluation(metrics=Metrics(top1=quality), seconds=0.0), policy)
            agent.observe(env.transitions(), reward=reward)
            agent.learn()
            told.take(policy, quality)
        finals.append([int(mask.sum()) for mask in told.active.values()])
    assert np.median([on_a for on_a, _ in finals]) == 10
    assert np.median([on_b for _, on_b in finals]) <= 3  # by chance around 6


def test_the_environment_keeps_its_contract() -> None:
    check_env(env_with(Told(), max_ratio=0.6))
