"""Deep deterministic policy gradient for episodes whose only reward comes at the end.

The reward of an episode is credited to each of its steps, and the replay holds the actions that were executed, not
those that were proposed: the budget changes many of them, and a critic that learns from proposals sees no effect of
late decisions. During warm-up actions are uniform and nothing is updated; after that each episode is followed by as
many updates as it had steps, or by a given number.

The agent may be given an encoder, a module from observations to states that it does not look into. The replay then
holds what the encoder reads, never what it made of it: every update encodes its steps and their successors anew, in
one pass, and the critic's loss reaches the encoder. The actor is trained on the same states without that gradient.

Source: Lillicrap et al. 2016 (DDPG), arXiv:1509.02971; values and baseline of He et al. 2018 (AMC), arXiv:1802.03494,
as released (mit-han-lab/amc).
Differs: executed actions in the replay, uniform sampling that reaches every stored step, actions scaled to [0, 1].
Of the two losses only the critic's trains the encoder, as in Yarats et al. 2021 (SAC+AE), arXiv:1910.01741, section 5.
"""

from __future__ import annotations

import copy
from typing import Annotated

import numpy as np
import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from tersenet.agents.files import load_networks
from tersenet.agents.losses import actor_loss, critic_loss, critic_targets, descend, moving_average, soft_update
from tersenet.agents.networks import Actor, Critic
from tersenet.agents.noise import decayed_sigma, truncated_normal
from tersenet.agents.random import check_reward
from tersenet.agents.replay import Batch, ReplayBuffer
from tersenet.agents.state import AgentState
from tersenet.core.bounds import Count, Positive, Share
from tersenet.core.protocols import Box, FloatArray, State, Transition


class DDPGConfig(BaseModel, frozen=True, extra="forbid"):
    """Settings of the agent; the defaults are AMC's where AMC has them."""

    hidden: tuple[Count, ...] = (300, 300)
    """Sizes of the hidden layers of actor and critic."""

    actor_lr: Positive = 1e-4
    """Adam's learning rate of the actor."""

    critic_lr: Positive = 1e-3
    """Adam's learning rate of the critic."""

    tau: Share = 0.01
    """Share by which target networks follow per update."""

    discount: Share = 1.0
    """Weight of the next step's value."""

    bootstrap: bool = True
    """Whether the next step's value is added to the episode's reward, which every step already carries in full; AMC's
    code does, but in toys with 9 decisions and 200 episodes some seeds then hardly rise above their warm-up."""

    batch_size: Count = 64
    """Steps per update."""

    replay_size: Count = 2000
    """Steps remembered."""

    warmup_trials: Annotated[int, Field(ge=0)] = 100
    """Episodes with uniform actions at the beginning."""

    num_trials: Count = 400
    """Episodes in all; sets the course of the noise."""

    noise_start: Share = 0.5
    """Standard deviation of the noise after warm-up, as a share of the action's range."""

    noise_end: Positive = 0.05
    """Standard deviation at the end."""

    noise_decay_until: Share = 0.8
    """Share of the trials after which the noise has come down to ``noise_end``."""

    baseline_decay: Share = 0.5
    """Weight of the past in the moving average of batch means that is subtracted from rewards."""

    updates_per_step: Count = 1
    """Updates per step of a finished episode."""

    updates_per_episode: Count | None = None
    """Updates after a finished episode, whatever its steps; None: ``updates_per_step`` counts."""

    encoder_lr: Positive = 1e-3
    """Adam's learning rate of the encoder."""

    first_is_quiet: bool = False
    """Whether the first episode is proposed without noise, as an agent that was trained before should."""


class DDPG:
    """Actor, critic, their targets and a replay; implements ``core.protocols.Agent``."""

    def __init__(
        self,
        config: DDPGConfig,
        *,
        observation_size: int,
        action_space: Box,
        seed: int,
        encoder: nn.Module | None = None,
    ) -> None:
        """Set the agent up.

        Args:
            config: settings.
            observation_size: entries of an observation, each in [0, 1].
            action_space: the box actions lie in.
            seed: for initial weights, exploration and the replay's samples.
            encoder: observations (B, observation_size) to states in [0, 1], (B, any size); trained here. None: the
                observations are the states.
        """
        self._config = config
        self._box = action_space
        actor_seed, critic_seed, replay_seed, noise_seed = _derived_seeds(seed)
        size = action_space.size
        self._encoder = encoder or nn.Identity()
        state_size = _state_size(self._encoder, observation_size)
        self._actor = Actor(state_size, size, hidden=config.hidden, seed=actor_seed)
        self._critic = Critic(state_size, size, hidden=config.hidden, seed=critic_seed)
        self._target_actor = copy.deepcopy(self._actor).requires_grad_(False)
        self._target_critic = copy.deepcopy(self._critic).requires_grad_(False)
        self._actor_optimizer = torch.optim.Adam(self._actor.parameters(), lr=config.actor_lr, fused=True)
        trained = [{"params": list(self._critic.parameters()), "lr": config.critic_lr}]
        if encoder is not None:
            trained.append({"params": list(encoder.parameters()), "lr": config.encoder_lr})
        self._critic_optimizer = torch.optim.Adam(trained, fused=True)
        self._replay = ReplayBuffer(
            config.replay_size, observation_size=observation_size, action_size=size, seed=replay_seed
        )
        self._rng = np.random.default_rng(noise_seed)
        self._num_episodes = 0
        self._pending_updates = 0
        self._baseline: float | None = None

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise in the current episode, as a share of the action's range."""
        config = self._config
        if config.first_is_quiet and self._num_episodes == 0:
            return 0.0
        last = round(config.noise_decay_until * config.num_trials)
        return decayed_sigma(
            self._num_episodes,
            start=config.noise_start,
            end=config.noise_end,
            first=config.warmup_trials,
            last=last,
        )

    def act(self, observation: FloatArray) -> FloatArray:
        """Propose an action, shape (action size,): uniform during warm-up, then the actor's with noise."""
        low, high = self._box.low, self._box.high
        if self._num_episodes < self._config.warmup_trials:
            return self._rng.uniform(low, high)
        with torch.no_grad():
            state = self._encoder(torch.as_tensor(observation, dtype=torch.float32)[None])
            unit = self._actor(state)[0].double().numpy()
        noisy = truncated_normal(unit, self.sigma, np.zeros_like(unit), np.ones_like(unit), self._rng)
        return low + noisy * (high - low)

    def begin_with(self, weights: State) -> None:
        """Take over the networks of an agent that was trained before; target networks become copies of them.

        Raises:
            WeightsError: they are of other sizes.
        """
        load_networks({"encoder": self._encoder, "actor": self._actor, "critic": self._critic}, weights)
        self._target_actor.load_state_dict(self._actor.state_dict())
        self._target_critic.load_state_dict(self._critic.state_dict())

    def observe(self, transitions: list[Transition], *, reward: float) -> None:
        """Remember a finished episode; every step gets the episode's reward.

        Raises:
            SearchError: the reward is not a finite number.
        """
        check_reward(reward)
        width = self._box.high - self._box.low
        taken = np.stack([transition.action_taken for transition in transitions])
        self._replay.add(
            Batch(
                observations=np.stack([t.observation for t in transitions]).astype(np.float32),
                actions=((taken - self._box.low) / width).astype(np.float32),
                rewards=np.full(len(transitions), reward, dtype=np.float32),
                next_observations=np.stack([t.next_observation for t in transitions]).astype(np.float32),
                done=np.array([t.done for t in transitions]),
            )
        )
        self._num_episodes += 1
        if self._num_episodes > self._config.warmup_trials:
            per_step = len(transitions) * self._config.updates_per_step
            self._pending_updates += self._config.updates_per_episode or per_step

    def learn(self) -> None:
        """Do the updates that what was observed since the last call asks for; nothing during warm-up."""
        while self._pending_updates > 0:
            self._update()
            self._pending_updates -= 1

    def _update(self) -> None:
        batch = self._replay.sample(self._config.batch_size)
        self._baseline = moving_average(self._baseline, float(batch.rewards.mean()), decay=self._config.baseline_decay)
        both = torch.from_numpy(np.concatenate([batch.observations, batch.next_observations]))
        states, next_states = self._encoder(both).split(len(batch.rewards))
        values = self._critic(states, torch.from_numpy(batch.actions))
        descend(self._critic_optimizer, critic_loss(values, self._targets(batch, next_states)))
        seen = states.detach()
        descend(self._actor_optimizer, actor_loss(self._critic(seen, self._actor(seen))))
        soft_update(self._target_actor.parameters(), self._actor.parameters(), tau=self._config.tau)
        soft_update(self._target_critic.parameters(), self._critic.parameters(), tau=self._config.tau)

    @torch.no_grad()
    def _targets(self, batch: Batch, next_states: Tensor) -> Tensor:
        assert self._baseline is not None
        return critic_targets(
            torch.from_numpy(batch.rewards),
            self._target_critic(next_states, self._target_actor(next_states)),
            torch.from_numpy(batch.done),
            discount=self._config.discount,
            baseline=self._baseline,
            bootstrap=self._config.bootstrap,
        )

    def state_dict(self) -> State:
        """Networks, optimisers, replay, random state and counters, as copies."""
        return self._state().save() | {
            "num_episodes": np.array(self._num_episodes),
            "pending_updates": np.array(self._pending_updates),
            "baseline": np.array(np.nan if self._baseline is None else self._baseline),
        }

    def load_state_dict(self, state: State) -> None:
        """Put a saved state back.

        Raises:
            StudyError: the state is of an agent with other sizes.
        """
        self._state().restore(state)
        self._num_episodes = int(state["num_episodes"])
        self._pending_updates = int(state["pending_updates"])
        baseline = float(state["baseline"])
        self._baseline = None if np.isnan(baseline) else baseline

    def _state(self) -> AgentState:
        return AgentState(
            modules=self._modules(),
            optimizers={"actor_optimizer": self._actor_optimizer, "critic_optimizer": self._critic_optimizer},
            memories={"replay": self._replay},
            rng=self._rng,
        )

    def _modules(self) -> dict[str, nn.Module]:
        return {
            "encoder": self._encoder,
            "actor": self._actor,
            "critic": self._critic,
            "target_actor": self._target_actor,
            "target_critic": self._target_critic,
        }


@torch.no_grad()
def _state_size(encoder: nn.Module, observation_size: int) -> int:
    states: Tensor = encoder(torch.zeros(1, observation_size))
    return states.shape[1]


def _derived_seeds(seed: int) -> list[int]:
    return [int(number) for number in np.random.SeedSequence(seed).generate_state(4)]
