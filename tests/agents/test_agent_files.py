"""Files of what agents have learned: networks only, checked before anything is taken over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn

from tersenet.agents import DDPG, PPO, DDPGConfig, PPOConfig, read_agent, write_agent
from tersenet.core.protocols import Box, State
from tersenet.errors import NotFoundError, WeightsError

BOX = Box(low=np.zeros(1), high=np.ones(1))


class Pair(nn.Module):
    """Three numbers from two."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 3, generator=torch.Generator().manual_seed(seed)))

    def forward(self, observations: Tensor) -> Tensor:
        return torch.sigmoid(observations @ self.weight)


class Scaled(nn.Module):
    """One state per entry of the observation."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((2,), factor))

    def forward(self, observations: Tensor) -> Tensor:
        return torch.sigmoid(observations[..., None] * self.factor)


def a_ddpg(*, seed: int, hidden: int = 4) -> DDPG:
    config = DDPGConfig(hidden=(hidden,), warmup_trials=0, num_trials=5, first_is_quiet=True)
    return DDPG(config, observation_size=2, action_space=BOX, seed=seed, encoder=Pair(seed))


def a_ppo(*, seed: int, decisions: int = 2) -> PPO:
    box = Box(low=np.zeros(decisions), high=np.ones(decisions))
    config = PPOConfig(hidden=4, first_is_quiet=True)
    return PPO(config, observation_size=decisions, action_space=box, encoder=Scaled(float(seed)), seed=seed)


def networks(state: State) -> State:
    return {name: array for name, array in state.items() if name.split(".")[0] in ("encoder", "actor", "critic")}


def test_a_file_holds_the_networks_and_what_they_are(tmp_path: Path) -> None:
    state = a_ddpg(seed=0).state_dict()
    write_agent(tmp_path / "a.safetensors", state, recipe="yu2021", network="resnet56")
    with safe_open(tmp_path / "a.safetensors", "np") as file:
        assert sorted(file.keys()) == sorted(networks(state))
        assert file.metadata() == {"format": "tersenet-agent-1", "recipe": "yu2021", "network": "resnet56"}
    found = read_agent(tmp_path / "a.safetensors")
    assert (found.recipe, found.network, len(found.sha256)) == ("yu2021", "resnet56", 64)
    for name, array in networks(state).items():
        np.testing.assert_array_equal(found.weights[name], array)


def test_an_agent_that_begins_with_another_ones_networks_decides_as_it_would_without_noise(tmp_path: Path) -> None:
    one, other = a_ddpg(seed=0), a_ddpg(seed=1)
    write_agent(tmp_path / "a", one.state_dict(), recipe="yu2021", network="")
    seen = np.array([0.25, 0.75])
    assert other.act(seen) != one.act(seen)
    other.begin_with(read_agent(tmp_path / "a").weights)
    assert other.act(seen) == one.act(seen)  # both first episodes are quiet
    state = other.state_dict()
    for name in networks(state):
        if not name.startswith("encoder"):
            np.testing.assert_array_equal(state[f"target_{name}"], state[name])


def test_a_vector_agent_fits_another_number_of_decisions(tmp_path: Path) -> None:
    one, other = a_ppo(seed=0), a_ppo(seed=1, decisions=5)
    write_agent(tmp_path / "a", one.state_dict(), recipe="gnnrl2022", network="")
    other.begin_with(read_agent(tmp_path / "a").weights)
    # the same state of a decision gives the same action, wherever it stands
    np.testing.assert_allclose(other.act(np.full(5, 0.5)), np.repeat(one.act(np.full(2, 0.5))[:1], 5), rtol=1e-6)


def test_networks_of_other_sizes_are_refused_and_nothing_is_taken_over(tmp_path: Path) -> None:
    write_agent(tmp_path / "a", a_ddpg(seed=0, hidden=5).state_dict(), recipe="yu2021", network="")
    agent = a_ddpg(seed=1)
    before = agent.state_dict()
    with pytest.raises(WeightsError, match=r"actor\.layers\.0\.bias has shape \(5,\) in the file and \(4,\) here"):
        agent.begin_with(read_agent(tmp_path / "a").weights)
    after = agent.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in networks(before))


def test_what_is_no_agent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="is no file"):
        read_agent(tmp_path / "none")
    (tmp_path / "text").write_text("agent")
    with pytest.raises(WeightsError, match="no whole safetensors file"):
        read_agent(tmp_path / "text")
    save_file({"actor.x": np.zeros(2)}, tmp_path / "weights")
    with pytest.raises(WeightsError, match="holds no agent"):
        read_agent(tmp_path / "weights")
    write_agent(tmp_path / "nan", {"actor.x": np.array([1.0, np.nan])}, recipe="yu2021", network="")
    with pytest.raises(WeightsError, match=r"actor\.x in .*NaN"):
        read_agent(tmp_path / "nan")
