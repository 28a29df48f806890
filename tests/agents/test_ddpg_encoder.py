"""The agent with an encoder that it trains: gradients, passes, and what is remembered."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from tersenet.agents import DDPG, DDPGConfig
from tersenet.core.protocols import Box, State, Transition
from tersenet.testing.contracts import check_agent

BOX = Box(low=np.array([0.0]), high=np.array([1.0]))
SMALL = DDPGConfig(hidden=(8,), batch_size=4, warmup_trials=0, num_trials=10, updates_per_episode=3)


class Counting(nn.Module):
    """A linear encoder of two numbers that counts its passes."""

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(3, 2, generator=generator))
        self.passes = 0

    def forward(self, observations: Tensor) -> Tensor:
        self.passes += 1
        return torch.sigmoid(observations @ self.weight)


def an_agent(config: DDPGConfig = SMALL, *, seed: int = 0, encoder: nn.Module | None = None) -> DDPG:
    return DDPG(config, observation_size=3, action_space=BOX, seed=seed, encoder=encoder or Counting(seed=seed))


def one_step(action: float, observation: float = 0.5) -> list[Transition]:
    taken = np.array([action])
    seen = np.array([observation, 0.25, 1.0])
    return [
        Transition(observation=seen, action_proposed=taken, action_taken=taken, next_observation=np.zeros(3), done=True)
    ]


def test_it_keeps_its_contract() -> None:
    config = SMALL.model_copy(update={"warmup_trials": 2})
    check_agent(lambda seed: an_agent(config, seed=seed), observation_size=3, action_space=BOX)


def test_one_pass_of_the_encoder_serves_an_update_and_updates_are_counted_per_episode() -> None:
    encoder = Counting()
    agent = an_agent(encoder=encoder)
    agent.observe(one_step(0.3) * 5, reward=1.0)
    encoder.passes = 0
    agent.learn()
    assert encoder.passes == 3
    assert float(agent.state_dict()["actor_optimizer.0.step"]) == 3.0


def test_the_replay_holds_what_the_encoder_reads() -> None:
    agent = an_agent()
    agent.observe(one_step(0.3, observation=0.125), reward=1.0)
    np.testing.assert_array_equal(agent.state_dict()["replay.observations"], [[0.125, 0.25, 1.0]])


def test_the_encoder_takes_the_step_of_the_critics_loss_written_out() -> None:
    encoder = Counting()
    agent = an_agent(SMALL.model_copy(update={"updates_per_episode": 1, "bootstrap": False}), encoder=encoder)
    start: State = agent.state_dict()
    agent.observe(one_step(0.75), reward=0.7)
    agent.learn()
    weights = {
        name: torch.from_numpy(array.astype(np.float32)).requires_grad_()
        for name, array in start.items()
        if name.startswith(("encoder", "critic.layers"))
    }
    optimizer = torch.optim.Adam(weights.values(), lr=1e-3)
    observation = torch.tensor([[0.5, 0.25, 1.0]])
    joined = torch.cat([torch.sigmoid(observation @ weights["encoder.weight"]), torch.tensor([[0.75]])], dim=1)
    hidden = torch.relu((2 * joined - 1) @ weights["critic.layers.0.weight"].T + weights["critic.layers.0.bias"])
    value = hidden @ weights["critic.layers.2.weight"].T + weights["critic.layers.2.bias"]
    # the only step is drawn four times, and the baseline is its reward, so that the target is 0
    value.square().mean().backward()  # type: ignore[no-untyped-call]
    assert weights["encoder.weight"].grad is not None
    assert weights["encoder.weight"].grad.abs().min() > 0.0
    optimizer.step()
    after = agent.state_dict()
    for name, tensor in weights.items():
        np.testing.assert_allclose(after[name].astype(np.float64), tensor.detach().numpy(), atol=1e-6)


def test_states_are_made_anew_when_the_encoder_has_changed() -> None:
    encoder = Counting()
    agent = an_agent(SMALL.model_copy(update={"noise_start": 0.0, "actor_lr": 1e-12}), encoder=encoder)
    action = agent.act(np.array([0.5, 0.25, 1.0]))
    with torch.no_grad():
        encoder.weight.mul_(-3.0)
    assert agent.act(np.array([0.5, 0.25, 1.0])) != action
