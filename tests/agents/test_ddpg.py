"""The agent on problems with a known answer, saved and restored, and against random proposals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tersenet.agents import DDPG, DDPGConfig, RandomAgent
from tersenet.core.protocols import Agent, Box, FloatArray, Transition
from tersenet.envs import DecoderName
from tersenet.errors import SearchError, StudyError
from tersenet.testing.contracts import check_agent
from tersenet.testing.toy_budget import ToySearch

SMALL = DDPGConfig(hidden=(16, 16), batch_size=8, warmup_trials=2, num_trials=20, replay_size=30)
BOX = Box(low=np.array([0.2, -3.0]), high=np.array([1.0, 5.0]))


def _agent(config: DDPGConfig = SMALL, *, seed: int = 0, box: Box = BOX, observation_size: int = 3) -> DDPG:
    return DDPG(config, observation_size=observation_size, action_space=box, seed=seed)


def _one_step(action: FloatArray) -> list[Transition]:
    return [
        Transition(
            observation=np.full(3, 0.5),
            action_proposed=action,
            action_taken=action,
            next_observation=np.zeros(3),
            done=True,
        )
    ]


@pytest.mark.parametrize("bootstrap", [True, False])
def test_the_agent_keeps_its_contract(bootstrap: bool) -> None:
    config = SMALL.model_copy(update={"bootstrap": bootstrap})
    check_agent(lambda seed: _agent(config, seed=seed), observation_size=3, action_space=BOX)


def test_random_proposals_keep_the_contract() -> None:
    check_agent(lambda seed: RandomAgent(BOX, seed=seed), observation_size=3, action_space=BOX)


def test_random_proposals_fill_the_box_evenly() -> None:
    agent = RandomAgent(BOX, seed=0)
    actions = np.array([agent.act(np.zeros(3)) for _ in range(2000)])
    # the mean of a box is its middle, (0.6, 1.0); standard errors 0.005 and 0.05
    np.testing.assert_allclose(actions.mean(axis=0), [0.6, 1.0], atol=0.2)
    assert actions[:, 1].min() < -2.9
    assert actions[:, 1].max() > 4.9


@pytest.mark.slow
def test_the_best_action_of_a_single_decision_is_found() -> None:
    box = Box(low=np.array([-1.0]), high=np.array([3.0]))
    config = DDPGConfig(
        hidden=(64, 64), actor_lr=1e-3, warmup_trials=60, num_trials=160, noise_end=0.001, updates_per_step=4
    )
    agent = _agent(config, box=box)
    for _ in range(160):
        action = agent.act(np.full(3, 0.5))
        agent.observe(_one_step(action), reward=-float((action[0] - 2.0) ** 2))
        agent.learn()
    # it begins in the middle of its range, at 1
    assert agent.act(np.full(3, 0.5))[0] == pytest.approx(2.0, abs=0.5)


def test_nothing_is_learnt_during_warm_up_and_then_one_update_per_step() -> None:
    agent = _agent()
    start = agent.state_dict()["actor.layers.0.weight"]
    for _ in range(2):
        agent.observe(_one_step(agent.act(np.zeros(3))), reward=1.0)
        agent.learn()
    assert np.array_equal(start, agent.state_dict()["actor.layers.0.weight"])
    agent.observe(_one_step(agent.act(np.zeros(3))) * 3, reward=0.5)
    assert int(agent.state_dict()["pending_updates"]) == 3
    agent.learn()
    state = agent.state_dict()
    assert float(state["actor_optimizer.0.step"]) == 3.0
    assert float(state["critic_optimizer.5.step"]) == 3.0
    assert int(state["pending_updates"]) == 0


def test_the_replay_holds_the_executed_action_and_the_episode_reward_on_every_step() -> None:
    agent = _agent()
    taken = np.array([0.6, 1.0])
    step = Transition(
        observation=np.zeros(3),
        action_proposed=np.array([1.0, 5.0]),
        action_taken=taken,
        next_observation=np.ones(3),
        done=False,
    )
    agent.observe([step, step], reward=0.75)
    state = agent.state_dict()
    # both are the middle of their range
    np.testing.assert_allclose(state["replay.actions"].astype(np.float64), [[0.5, 0.5], [0.5, 0.5]])
    assert state["replay.rewards"].tolist() == [0.75, 0.75]


def test_one_update_is_that_of_torch_written_out() -> None:
    """One critic step and one actor step, repeated with plain torch from the saved state."""
    agent = _agent(DDPGConfig(hidden=(8,), batch_size=4, warmup_trials=0, num_trials=10), box=BOX)
    action = np.array([0.8, 1.0])
    start = {name: array.astype(np.float64) for name, array in agent.state_dict().items() if ".layers." in name}
    agent.observe(_one_step(action), reward=0.7)
    agent.learn()
    after = agent.state_dict()

    def run(prefix: str, inputs: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
        hidden = torch.relu(
            (2 * inputs - 1) @ weights[f"{prefix}.layers.0.weight"].T + weights[f"{prefix}.layers.0.bias"]
        )
        return hidden @ weights[f"{prefix}.layers.2.weight"].T + weights[f"{prefix}.layers.2.bias"]

    online = {name: array for name, array in start.items() if not name.startswith("target")}
    weights = {name: torch.from_numpy(array).float().requires_grad_() for name, array in online.items()}
    # the only step is drawn four times; the baseline is its reward, so the target is 0; the actions scale to 0.75, 0.5
    joined = torch.tensor([[0.5, 0.5, 0.5, 0.75, 0.5]])
    critic_names = [name for name in weights if name.startswith("critic")]
    actor_names = [name for name in weights if name.startswith("actor")]
    optimizer = torch.optim.Adam([weights[name] for name in critic_names], lr=1e-3)
    run("critic", joined, weights).square().mean().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    optimizer = torch.optim.Adam([weights[name] for name in actor_names], lr=1e-4)
    chosen = torch.sigmoid(run("actor", joined[:, :3], weights))
    (-run("critic", torch.cat([joined[:, :3], chosen], dim=1), weights).mean()).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    for name, tensor in weights.items():
        updated = tensor.detach().numpy()
        np.testing.assert_allclose(after[name].astype(np.float64), updated, atol=1e-6)
        target = start[name] + 0.01 * (updated - start[name])
        np.testing.assert_allclose(after[f"target_{name}"].astype(np.float64), target, atol=1e-6)


def test_noise_is_constant_in_warm_up_and_has_decayed_at_four_fifths() -> None:
    config = SMALL.model_copy(update={"warmup_trials": 4, "noise_start": 0.5, "noise_end": 0.125})
    agent = _agent(config)
    widths = []
    for _ in range(20):
        widths.append(agent.sigma)
        agent.observe(_one_step(np.array([0.5, 0.0])), reward=0.0)
    assert widths[:5] == [0.5] * 5
    # by hand: a factor of 4 from trial 4 to trial 16 is a half at trial 10
    assert widths[10] == pytest.approx(0.25)
    assert widths[16:] == pytest.approx([0.125] * 4)


def test_the_global_random_state_is_neither_used_nor_moved() -> None:
    def course(global_seed: int) -> list[float]:
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        agent = _agent()
        actions = []
        for number in range(5):
            actions.append(agent.act(np.full(3, 0.1 * number)))
            agent.observe(_one_step(actions[-1]), reward=0.1 * number)
            agent.learn()
        assert torch.equal(before, torch.get_rng_state())
        return [float(action[0]) for action in actions]

    assert course(1) == course(2)


def test_a_state_of_another_network_is_refused() -> None:
    with pytest.raises(StudyError, match="does not fit this agent"):
        _agent(SMALL.model_copy(update={"hidden": (8, 8)})).load_state_dict(_agent().state_dict())


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_a_reward_that_is_not_finite_is_refused(reward: float) -> None:
    with pytest.raises(SearchError, match="not a finite number"):
        _agent().observe(_one_step(np.array([0.5, 0.0])), reward=reward)


def _search(agent: Agent, toy: ToySearch, num_episodes: int) -> FloatArray:
    rewards = []
    for _ in range(num_episodes):
        observation, done = toy.env.reset(seed=0), False
        while not done:
            observation, done = toy.env.step(agent.act(observation))
        rewards.append(toy.reward())
        agent.observe(toy.env.transitions(), reward=rewards[-1])
        agent.learn()
    return np.array(rewards)


def _ddpg_for(toy: ToySearch, config: DDPGConfig, seed: int) -> DDPG:
    env = toy.env
    return DDPG(config, observation_size=env.observation_space.size, action_space=env.action_space, seed=seed)


def test_interrupting_a_search_changes_nothing() -> None:
    config = SMALL.model_copy(update={"warmup_trials": 5})
    toy = ToySearch(num_decisions=5, decoder="level", seed=0)
    through = _search(_ddpg_for(toy, config, 0), toy, 16)
    first = _ddpg_for(toy, config, 0)
    begun = _search(first, toy, 9)
    second = _ddpg_for(toy, config, 77)
    second.load_state_dict(first.state_dict())
    assert np.concatenate([begun, _search(second, toy, 7)]).tolist() == through.tolist()


@pytest.mark.slow
@pytest.mark.parametrize(("bootstrap", "least_gain"), [(True, 0.25), (False, 0.4)])
@pytest.mark.parametrize("decoder", ["wall", "level"])
def test_after_200_episodes_the_agent_beats_its_warm_up_and_random_proposals(
    decoder: DecoderName, bootstrap: bool, least_gain: float
) -> None:
    config = DDPGConfig(warmup_trials=50, num_trials=200, bootstrap=bootstrap)
    gains = []
    for seed in range(3):
        toy = ToySearch(num_decisions=9, decoder=decoder, seed=seed)
        rewards = _search(_ddpg_for(toy, config, seed), toy, 200)
        random = _search(RandomAgent(toy.env.action_space, seed=seed), toy, 200)
        control = max(rewards[:50].mean(), random.mean())
        # share of the way from the control's mean to the optimum that the last trials have gone
        gains.append((rewards[-20:].mean() - control) / (toy.optimum() - control))
    assert min(gains) > 0.0
    assert np.mean(gains) > least_gain


def test_the_optimum_of_the_toy_is_out_of_reach_of_random_vectors_and_above_uniform() -> None:
    toy = ToySearch(num_decisions=6, decoder="level", seed=0)
    found = _search(RandomAgent(toy.env.action_space, seed=0), toy, 200)
    assert toy.uniform() < toy.optimum()
    assert found.max() < toy.optimum()


@pytest.mark.slow
def test_a_learner_gains_on_its_warm_up_within_seconds() -> None:
    config = DDPGConfig(
        hidden=(64, 64), warmup_trials=30, num_trials=100, actor_lr=1e-3, bootstrap=False, updates_per_step=2
    )
    toy = ToySearch(num_decisions=4, decoder="level", seed=0)
    rewards = _search(_ddpg_for(toy, config, 0), toy, 100)
    assert rewards[-10:].mean() > rewards[:30].mean() + 0.3 * (toy.optimum() - rewards[:30].mean())
