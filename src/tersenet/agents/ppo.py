"""Proximal policy optimisation of whole vectors, for episodes of a few steps whose only reward comes at the end.

Each step proposes one number per decision. An encoder, which the agent does not look into, makes one state per decision
of what is observed; actor and critic read these, so that they fit any number of decisions. Proposals are drawn from
normal distributions of fixed width before a sigmoid, which keeps them in the box without cutting their probabilities.
After a number of episodes all their steps are used for several updates, each of which encodes them anew in one pass;
then they are forgotten.

Axes: B steps, D decisions, E entries of a state.

Source: Schulman et al. 2017 (PPO), arXiv:1707.06347, equation 7; constants of Yu et al. 2022 (GNN-RL),
arXiv:2102.03214, as released (discount 0.99, clip 0.2, ten epochs, Adam 3e-4, width 0.5).
Differs: one shared head over decisions in place of one output per layer; the critic's value is not squashed, since it
is regressed on standardised returns; no bonus for entropy, which is constant at a fixed width.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from tersenet.agents.files import load_networks
from tersenet.agents.losses import clipped_surrogate
from tersenet.agents.networks import mlp
from tersenet.agents.random import check_reward
from tersenet.agents.state import AgentState
from tersenet.core.bounds import Count, Positive, Share
from tersenet.core.protocols import Box, FloatArray, State, Transition

_EDGE = 1e-6
"""How near to the ends of the box a proposal counts."""

_FIELDS = ("observations", "actions", "returns")


class PPOConfig(BaseModel, frozen=True, extra="forbid"):
    """Settings of the agent; the defaults are GNN-RL's where it has them."""

    hidden: Count = 64
    """Hidden units of actor and critic."""

    learning_rate: Positive = 3e-4
    """Adam's, for encoder, actor and critic."""

    discount: Share = 0.99
    """Weight of the reward one step before the end."""

    clip: Positive = 0.2
    """How far a step's probability may move before its gradient stops."""

    epochs: Count = 10
    """Updates on the same episodes."""

    episodes_per_update: Count = 10
    """Episodes gathered before these."""

    width: Positive = 0.5
    """Standard deviation of proposals before the sigmoid."""

    value_weight: Positive = 0.5
    """Weight of the critic's loss."""

    first_is_quiet: bool = False
    """Whether the first episode is proposed without noise, as an agent that was trained before should."""


class PPO:
    """Encoder, actor and critic; implements ``core.protocols.Agent``."""

    def __init__(
        self, config: PPOConfig, *, observation_size: int, action_space: Box, encoder: nn.Module, seed: int
    ) -> None:
        """Set the agent up.

        Args:
            config: settings.
            observation_size: entries of an observation.
            action_space: one entry per decision.
            encoder: observations (B, observation_size) to states in [0, 1], (B, D, any size); trained here.
            seed: for initial weights and exploration.
        """
        self._config = config
        self._box = action_space
        actor_seed, critic_seed, noise_seed = (int(n) for n in np.random.SeedSequence(seed).generate_state(3))
        self._encoder = encoder
        with torch.no_grad():
            size = int(encoder(torch.zeros(1, observation_size)).shape[2])
        self._actor = mlp([size, config.hidden, config.hidden, 1], actor_seed)
        self._critic = mlp([size, config.hidden, config.hidden, 1], critic_seed)
        parameters = [parameter for module in self._modules().values() for parameter in module.parameters()]
        self._optimizer = torch.optim.Adam(parameters, lr=config.learning_rate, fused=True)
        self._rng = np.random.default_rng(noise_seed)
        self._num_episodes = 0
        self._gathered: dict[str, FloatArray] = {
            "observations": np.zeros((0, observation_size)),
            "actions": np.zeros((0, action_space.size)),
            "returns": np.zeros(0),
        }
        self._num_gathered = 0

    def act(self, observation: FloatArray) -> FloatArray:
        """Propose a vector, shape (D,)."""
        with torch.no_grad():
            states = self._encoder(torch.as_tensor(observation, dtype=torch.float32)[None])
            mean = self._means(states)[0].double().numpy()
        noise = self._rng.standard_normal(mean.shape) * self._config.width
        if self._config.first_is_quiet and self._num_episodes == 0:
            noise = np.zeros_like(noise)
        return self._box.low + (self._box.high - self._box.low) / (1.0 + np.exp(-mean - noise))

    def begin_with(self, weights: State) -> None:
        """Take over the networks of an agent that was trained before.

        Raises:
            WeightsError: they are of other sizes.
        """
        load_networks(self._modules(), weights)

    def observe(self, transitions: list[Transition], *, reward: float) -> None:
        """Remember a finished episode: what was proposed at each step, and the discounted reward.

        Raises:
            SearchError: the reward is not a finite number.
        """
        check_reward(reward)
        proposed = np.stack([transition.action_proposed for transition in transitions])
        unit = ((proposed - self._box.low) / (self._box.high - self._box.low)).clip(_EDGE, 1.0 - _EDGE)
        new = {
            "observations": np.stack([transition.observation for transition in transitions]),
            "actions": np.log(unit / (1.0 - unit)),
            "returns": reward * self._config.discount ** np.arange(len(transitions) - 1, -1, -1.0),
        }
        self._gathered = {name: np.concatenate([self._gathered[name], new[name]]) for name in _FIELDS}
        self._num_gathered += 1
        self._num_episodes += 1

    def learn(self) -> None:
        """Update once enough episodes were gathered, and forget them."""
        if self._num_gathered < self._config.episodes_per_update:
            return
        observations, actions, returns = (torch.from_numpy(self._gathered[name]).float() for name in _FIELDS)
        targets = (returns - returns.mean()) / returns.std(correction=0).clamp_min(_EDGE)
        with torch.no_grad():
            states = self._encoder(observations)
            before = self._log_probabilities(states, actions)
            advantages = targets - self._values(states)
        for _ in range(self._config.epochs):
            states = self._encoder(observations)
            after = self._log_probabilities(states, actions)
            policy_loss = clipped_surrogate(after - before, advantages, clip=self._config.clip)
            value_loss = (self._values(states) - targets).square().mean()
            loss = policy_loss + self._config.value_weight * value_loss
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
        self._gathered = {name: array[:0] for name, array in self._gathered.items()}
        self._num_gathered = 0

    def _means(self, states_BDE: Tensor) -> Tensor:
        """Middles of the proposals' distributions before the sigmoid, shape (B, D)."""
        means: Tensor = self._actor(2.0 * states_BDE - 1.0)
        return means.squeeze(2)

    def _values(self, states_BDE: Tensor) -> Tensor:
        """Values of whole states, shape (B,)."""
        values: Tensor = self._critic(2.0 * states_BDE - 1.0)
        return values.mean(dim=1).squeeze(1)

    def _log_probabilities(self, states_BDE: Tensor, actions_BD: Tensor) -> Tensor:
        """Of proposals before the sigmoid, shape (B,), up to a constant."""
        scaled = (actions_BD - self._means(states_BDE)) / self._config.width
        return -0.5 * scaled.square().sum(dim=1)

    def state_dict(self) -> State:
        """Networks, optimiser, gathered episodes, random state and counters, as copies."""
        return self._state().save() | {
            **{f"gathered.{name}": array.copy() for name, array in self._gathered.items()},
            "num_gathered": np.array(self._num_gathered),
            "num_episodes": np.array(self._num_episodes),
        }

    def load_state_dict(self, state: State) -> None:
        """Put a saved state back.

        Raises:
            StudyError: the state is of an agent with other sizes.
        """
        self._state().restore(state)
        self._gathered = {name: state[f"gathered.{name}"].astype(np.float64) for name in _FIELDS}
        self._num_gathered = int(state["num_gathered"])
        self._num_episodes = int(state["num_episodes"])

    def _state(self) -> AgentState:
        return AgentState(modules=self._modules(), optimizers={"optimizer": self._optimizer}, rng=self._rng)

    def _modules(self) -> dict[str, nn.Module]:
        return {"encoder": self._encoder, "actor": self._actor, "critic": self._critic}
