"""The agent on chains whose optimum is known, saved and restored, and beside the DQN of Stable-Baselines3."""

from __future__ import annotations

import numpy as np
import pytest
import stable_baselines3

from tersenet.adapters.gymnasium import GymnasiumEnv
from tersenet.agents import DQN, DQNConfig
from tersenet.agents.dqn import epsilon_at
from tersenet.core.metrics import Evaluation, Metrics
from tersenet.core.policy import Policy
from tersenet.core.protocols import Box, FloatArray, Transition
from tersenet.errors import SearchError, StudyError
from tersenet.testing.contracts import check_agent
from tersenet.testing.toy_budget import ToySearch

SMALL = DQNConfig(num_actions=4, num_trials=20, hidden=(16,), batch_size=8, replay_size=30)
BOX = Box(low=np.array([0.0]), high=np.array([3.0]))


def _agent(config: DQNConfig = SMALL, *, seed: int = 0, box: Box = BOX, observation_size: int = 3) -> DQN:
    return DQN(config, observation_size=observation_size, action_space=box, seed=seed)


@pytest.mark.parametrize("follows", ["decision", "episode"])
def test_the_agent_keeps_its_contract(follows: str) -> None:
    config = SMALL.model_copy(update={"follows": follows})
    check_agent(lambda seed: _agent(config, seed=seed), observation_size=3, action_space=BOX)


def test_epsilon_falls_linearly_and_then_stays() -> None:
    config = DQNConfig(num_actions=2, num_trials=10, epsilon_start=1.0, epsilon_end=0.2, epsilon_until=0.4)
    # by hand: from 1 to 0.2 in 4 episodes
    found = [epsilon_at(episode, config) for episode in (0, 1, 2, 4, 9)]
    np.testing.assert_allclose(found, [1.0, 0.8, 0.6, 0.2, 0.2])


def test_while_epsilon_is_one_all_levels_come_equally_often() -> None:
    agent = _agent(DQNConfig(num_actions=4, num_trials=1000, epsilon_end=1.0))
    actions = [float(agent.act(np.zeros(3))[0]) for _ in range(800)]
    counts = [actions.count(level) for level in (0.0, 1.0, 2.0, 3.0)]
    assert sum(counts) == 800
    assert min(counts) > 140  # expected 200, standard deviation 12


class Chain:
    """A walk of ``length`` steps to the left or to the right from cell 0; the reward is the cell it ends in, but going
    left once from cell 0 ends every hope: an agent must see through all steps to know."""

    def __init__(self, length: int) -> None:
        self.length = length

    def observation(self, step: int, cell: int) -> FloatArray:
        found = np.zeros(2 * self.length + 2)
        found[step], found[self.length + 1 + cell] = 1.0, 1.0
        return found

    def episode(self, agent: DQN) -> float:
        cell, steps = 0, []
        for step in range(self.length):
            seen = self.observation(step, cell)
            action = agent.act(seen)
            cell = cell + 1 if action[0] == 1.0 else 0
            done = step == self.length - 1
            after = np.zeros_like(seen) if done else self.observation(step + 1, cell)
            steps.append(
                Transition(
                    observation=seen, action_proposed=action, action_taken=action, next_observation=after, done=done
                )
            )
        reward = (cell / self.length) ** 2
        agent.observe(steps, reward=reward)
        agent.learn()
        return reward


def test_a_reward_at_the_end_of_a_chain_is_traced_back_to_its_first_step() -> None:
    chain = Chain(5)
    config = DQNConfig(num_actions=2, num_trials=120, hidden=(32,), learning_rate=5e-3, target_every=20, batch_size=32)
    agent = _agent(config, box=Box(low=np.array([0.0]), high=np.array([1.0])), observation_size=12)
    rewards = [chain.episode(agent) for _ in range(120)]
    assert np.mean(rewards[:20]) < 0.35  # by chance 0.12
    greedy = agent.values(chain.observation(0, 0))
    assert greedy[1] == pytest.approx(1.0, abs=0.15)  # the optimum: five times to the right
    assert greedy[1] > greedy[0]
    assert np.mean(rewards[-20:]) > 0.7


def test_decisions_of_rounds_learn_from_the_same_decision_one_round_later() -> None:
    """Two switches; the first pays 1 per round once it has been set, the second costs 1: values to be 1 / (1 - 0.5)."""
    config = DQNConfig(
        num_actions=2,
        num_trials=200,
        hidden=(32,),
        learning_rate=5e-3,
        discount=0.5,
        follows="episode",
        target_every=20,
    )
    agent = _agent(config, box=Box(low=np.array([0.0]), high=np.array([1.0])), observation_size=2)
    for _ in range(200):
        steps = []
        for which in (0.0, 1.0):
            seen = np.array([which, 1.0])
            action = agent.act(seen)
            steps.append(
                Transition(
                    observation=seen,
                    action_proposed=action,
                    action_taken=action,
                    next_observation=np.zeros(2),
                    done=which == 1.0,
                )
            )
        agent.observe(steps, reward=float(steps[0].action_taken[0] - steps[1].action_taken[0]))
        agent.learn()
    first, second = agent.values(np.array([0.0, 1.0])), agent.values(np.array([1.0, 1.0]))
    assert first[1] > first[0] + 0.5
    assert second[0] > second[1] + 0.5
    assert first[1] == pytest.approx(2.0, abs=0.5)  # 1 + 0.5 + 0.25 + ...


def test_rounds_of_different_lengths_are_refused() -> None:
    agent = _agent(SMALL.model_copy(update={"follows": "episode"}))
    step = Transition(
        observation=np.zeros(3),
        action_proposed=np.zeros(1),
        action_taken=np.zeros(1),
        next_observation=np.zeros(3),
        done=True,
    )
    agent.observe([step], reward=0.0)
    with pytest.raises(ValueError, match="one length, got 1, 2"):
        agent.observe([step, step], reward=0.0)


def test_bad_rewards_and_states_of_other_agents_are_refused() -> None:
    agent = _agent()
    with pytest.raises(SearchError, match="not a finite number"):
        agent.observe([], reward=float("nan"))
    with pytest.raises(StudyError, match="does not fit"):
        agent.load_state_dict(_agent(SMALL.model_copy(update={"hidden": (8,)})).state_dict())
    with pytest.raises(ValueError, match="one number per decision"):
        _agent(box=Box(low=np.zeros(2), high=np.ones(2)))


class ToyEvaluator:
    """The gain of the walk that was just finished, which is known exactly."""

    signature: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, toy: ToySearch) -> None:
        self._toy = toy
        self.values: list[float] = []

    def evaluate(self, policy: Policy, *, hopeless_below: float | None = None) -> Evaluation:
        self.values.append(self._toy.reward())
        return Evaluation(metrics=Metrics(score=self.values[-1]), seconds=0.0)

    confirm = evaluate


NUM_DECISIONS, NUM_EPISODES = 8, 300


def toy_env() -> tuple[GymnasiumEnv, ToyEvaluator]:
    toy = ToySearch(num_decisions=NUM_DECISIONS, decoder="level", seed=1)
    evaluator = ToyEvaluator(toy)
    return GymnasiumEnv(toy.env, evaluator, lambda evaluation, _: evaluation.metrics.quality, num_levels=5), evaluator


def other_mean(seed: int) -> float:
    """Mean gain of the last episodes of the other library's agent."""
    env, evaluator = toy_env()
    stable_baselines3.DQN(
        "MlpPolicy", env, seed=seed, gamma=1.0, learning_starts=400, batch_size=128, learning_rate=1e-3,
        train_freq=(1, "episode"), gradient_steps=16, policy_kwargs={"net_arch": [64, 64]}, device="cpu",
        exploration_fraction=0.7, exploration_final_eps=0.02, target_update_interval=50,
    ).learn(NUM_EPISODES * NUM_DECISIONS)  # fmt: skip
    return float(np.mean(evaluator.values[-50:]))


def own_mean(seed: int) -> float:
    """Mean gain of the last episodes of ours, with the same settings, on the same gymnasium environment."""
    env, evaluator = toy_env()
    config = DQNConfig(
        num_actions=5, num_trials=NUM_EPISODES, batch_size=128, target_every=100, updates_per_step=2,
        epsilon_end=0.02, epsilon_until=0.7,
    )  # fmt: skip
    box = Box(low=np.array([0.0]), high=np.array([4.0]))
    agent = DQN(config, observation_size=env.observation_space.shape[0], action_space=box, seed=seed)  # type: ignore[index]
    for episode in range(NUM_EPISODES):
        seen = np.asarray(env.reset(seed=seed if episode == 0 else None)[0], dtype=np.float64)
        steps, done, reward = [], False, 0.0
        while not done:
            action = agent.act(seen)
            found, step_reward, done, _, _ = env.step(int(action[0]))
            after = np.asarray(found, dtype=np.float64)
            reward += float(step_reward)
            steps.append(
                Transition(
                    observation=seen, action_proposed=action, action_taken=action, next_observation=after, done=done
                )
            )
            seen = after
        agent.observe(steps, reward=reward)
        agent.learn()
    return float(np.mean(evaluator.values[-50:]))


@pytest.mark.slow
def test_it_learns_as_well_as_the_dqn_of_stable_baselines_on_the_same_environment() -> None:
    own, other = ([mean(seed) for seed in (0, 1, 2)] for mean in (own_mean, other_mean))
    # random episodes have 0.701 on average, the optimum is 0.878
    assert np.median(own) >= np.median(other) - 0.02
    assert np.median(own) >= 0.74
