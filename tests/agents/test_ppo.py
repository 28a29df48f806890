"""The agent of whole vectors: its contract, its loss by hand, and a toy that it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tersenet.agents import PPO, PPOConfig
from tersenet.agents.losses import clipped_surrogate
from tersenet.core.protocols import Box, FloatArray, Transition
from tersenet.errors import StudyError
from tersenet.testing.contracts import check_agent

BOX = Box(low=np.array([0.2, -3.0, 0.0]), high=np.array([1.0, 5.0, 0.5]))
SMALL = PPOConfig(hidden=8, episodes_per_update=2, epochs=2)


class PerDecision(nn.Module):
    """One state per decision: which it is, scaled by something to learn, beside what is observed of it."""

    def __init__(self, decisions: int = 3) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(decisions))
        self.passes = 0

    def forward(self, observations: Tensor) -> Tensor:
        self.passes += 1
        which = torch.sigmoid(torch.diag(self.scale)).expand(len(observations), -1, -1)
        return torch.cat([which, observations[:, : len(self.scale), None]], dim=2)


def an_agent(config: PPOConfig = SMALL, *, seed: int = 0, box: Box = BOX, encoder: nn.Module | None = None) -> PPO:
    encoder = encoder or PerDecision()
    return PPO(config, observation_size=4, action_space=box, encoder=encoder, seed=seed)


def steps(actions: FloatArray, observation: FloatArray | None = None) -> list[Transition]:
    seen = np.full(4, 0.5) if observation is None else observation
    return [
        Transition(
            observation=seen,
            action_proposed=action,
            action_taken=np.zeros_like(action),
            next_observation=seen,
            done=number == len(actions) - 1,
        )
        for number, action in enumerate(actions)
    ]


def test_it_keeps_its_contract() -> None:
    check_agent(lambda seed: an_agent(seed=seed), observation_size=4, action_space=BOX)


def test_the_clipped_loss_by_hand() -> None:
    log_ratios = torch.log(torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1]))
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0])
    # better steps count up to 1.2, worse ones down to 0.8; the pessimistic side is never clipped
    by_hand = -(1.2 - 1.5 + 0.5 - 0.8 + 2.2) / 5
    assert float(clipped_surrogate(log_ratios, advantages, clip=0.2)) == pytest.approx(by_hand)


def test_proposals_are_drawn_around_the_actors_before_the_sigmoid() -> None:
    agent = an_agent(SMALL.model_copy(update={"width": 0.5}))
    drawn = np.stack([agent.act(np.full(4, 0.5)) for _ in range(2000)])
    unit = (drawn - BOX.low) / (BOX.high - BOX.low)
    before = np.log(unit / (1.0 - unit))
    np.testing.assert_allclose(before.std(axis=0), 0.5, atol=0.04)
    np.testing.assert_allclose(before.mean(axis=0), before.mean(), atol=0.06)  # untrained: alike for all


def test_nothing_moves_until_enough_episodes_are_gathered_and_then_everything_does() -> None:
    encoder = PerDecision()
    agent = an_agent(SMALL.model_copy(update={"episodes_per_update": 3, "epochs": 4}), encoder=encoder)
    start = agent.state_dict()
    rng = np.random.default_rng(0)
    for count in range(1, 4):
        actions = np.stack([agent.act(np.full(4, 0.5)) for _ in range(2)])
        agent.observe(steps(actions, rng.random(4)), reward=float(rng.random()))
        encoder.passes = 0
        agent.learn()
        assert encoder.passes == (5 if count == 3 else 0)  # one to begin with, then one per update
        state = agent.state_dict()
        trained = [name for name in state if name.split(".")[0] in ("encoder", "actor", "critic")]
        moved = [name for name in trained if not np.array_equal(state[name], start[name])]
        assert moved == (trained if count == 3 else [])
    assert state["gathered.actions"].shape == (0, 3)


def test_rewards_are_discounted_back_from_the_last_step_and_proposals_remembered() -> None:
    agent = an_agent()
    middle = (BOX.low + BOX.high) / 2.0
    agent.observe(steps(np.stack([middle] * 3)), reward=2.0)
    state = agent.state_dict()
    np.testing.assert_allclose(state["gathered.returns"].astype(float), [2 * 0.99**2, 2 * 0.99, 2.0])
    np.testing.assert_allclose(state["gathered.actions"].astype(float), np.zeros((3, 3)), atol=1e-12)


def _distances(seed: int, episodes: int) -> list[float]:
    box = Box(low=np.zeros(3), high=np.ones(3))
    goal = np.array([0.2, 0.5, 0.8])
    config = PPOConfig(hidden=16, learning_rate=1e-2)
    agent = an_agent(config, seed=seed, box=box)
    found = []
    for _ in range(episodes):
        action = agent.act(np.full(4, 0.5))
        found.append(float(np.square(action - goal).sum()))
        agent.observe(steps(action[None]), reward=-found[-1])
        agent.learn()
    return found


def test_different_goals_of_decisions_are_learnt() -> None:
    distances = _distances(seed=0, episodes=150)
    assert np.mean(distances[-20:]) < 0.5 * np.mean(distances[:20])


def test_a_state_of_another_network_is_refused() -> None:
    with pytest.raises(StudyError, match="does not fit this agent"):
        an_agent(SMALL.model_copy(update={"hidden": 9})).load_state_dict(an_agent().state_dict())
