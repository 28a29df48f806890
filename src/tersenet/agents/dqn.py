"""Double DQN: a network of the values of a few discrete actions, for environments whose action is one number.

The numbers of the action space are cut into ``num_actions`` evenly spread levels. What follows a decision is the next
one of the same episode, with the episode's reward at its end; or, where episodes are rounds of one long training
(``follows="episode"``), the same decision one round later, and every decision of a round has the round's reward.

Source: Mnih et al. 2015 (DQN), Nature 518; van Hasselt et al. 2016 (double DQN), arXiv:1509.06461.
Differs: the replay holds the executed action, as in ``ddpg.py``; the exploring share falls with the episodes.
"""

from __future__ import annotations

import copy
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, Field

from tersenet.agents.losses import double_q_targets, huber_loss
from tersenet.agents.networks import QNetwork
from tersenet.agents.random import check_reward
from tersenet.agents.replay import Batch, ReplayBuffer
from tersenet.agents.state import AgentState
from tersenet.core.bounds import Count, Positive, Share
from tersenet.core.protocols import Box, FloatArray, State, Transition


class DQNConfig(BaseModel, frozen=True, extra="forbid"):
    """Settings of the agent."""

    num_actions: Annotated[int, Field(ge=2)]
    """Levels of the action space, its ends included."""

    num_trials: Count
    """Episodes in all; sets the course of epsilon."""

    hidden: tuple[Count, ...] = (64, 64)
    """Sizes of the hidden layers."""

    learning_rate: Positive = 1e-3
    """Adam's learning rate."""

    discount: Share = 1.0
    """Weight of what follows."""

    follows: Literal["decision", "episode"] = "decision"
    """What comes after a decision: the next one of its episode, or the same one in the next episode."""

    huber_delta: Positive = 1.0
    """Error from which the loss grows linearly."""

    batch_size: Count = 64
    """Steps per update; nothing is learned before so many are remembered."""

    replay_size: Count = 5000
    """Steps remembered."""

    target_every: Count = 100
    """Updates after which the target network is set to the one that learns."""

    updates_per_step: Count = 1
    """Updates per remembered step."""

    epsilon_start: Share = 1.0
    """Share of random actions in the first episode."""

    epsilon_end: Share = 0.05
    """Share of random actions at the end."""

    epsilon_until: Share = 0.6
    """Share of the episodes after which it has come down to ``epsilon_end``, linearly."""


def epsilon_at(episode: int, config: DQNConfig) -> float:
    """Share of random actions in an episode, counted from 0."""
    last = config.epsilon_until * config.num_trials
    done = 1.0 if last <= 0 else min(1.0, episode / last)
    return config.epsilon_start + done * (config.epsilon_end - config.epsilon_start)


class DQN:
    """Q-network, its target and a replay; implements ``core.protocols.Agent``."""

    def __init__(self, config: DQNConfig, *, observation_size: int, action_space: Box, seed: int) -> None:
        """Set the agent up.

        Args:
            config: settings.
            observation_size: entries of an observation, each in [0, 1].
            action_space: the interval actions lie in.
            seed: for initial weights, exploration and the replay's samples.

        Raises:
            ValueError: an action has more than one number.
        """
        if action_space.size != 1:
            raise ValueError(f"DQN chooses one number per decision, action_space has {action_space.size}.")
        self._config = config
        self._levels = np.linspace(action_space.low[0], action_space.high[0], config.num_actions)
        network_seed, replay_seed, rng_seed = (int(n) for n in np.random.SeedSequence(seed).generate_state(3))
        self._online = QNetwork(observation_size, config.num_actions, hidden=config.hidden, seed=network_seed)
        self._target = copy.deepcopy(self._online).requires_grad_(False)
        self._optimizer = torch.optim.Adam(self._online.parameters(), lr=config.learning_rate, fused=True)
        self._replay = ReplayBuffer(
            config.replay_size, observation_size=observation_size, action_size=1, seed=replay_seed
        )
        self._rng = np.random.default_rng(rng_seed)
        self._round: Batch | None = None
        """The last episode, until it is known what follows."""
        self._num_episodes = 0
        self._num_updates = 0
        self._pending_updates = 0

    @property
    def epsilon(self) -> float:
        """Share of random actions in the current episode."""
        return epsilon_at(self._num_episodes, self._config)

    def values(self, observation: FloatArray) -> FloatArray:
        """Value of each level, shape (num_actions,)."""
        with torch.no_grad():
            found = self._online(torch.as_tensor(observation, dtype=torch.float32)[None])[0]
        values: FloatArray = found.double().numpy()
        return values

    def act(self, observation: FloatArray) -> FloatArray:
        """Propose a level, shape (1,): with probability epsilon any, else the one of the highest value."""
        if self._rng.random() < self.epsilon:
            chosen = int(self._rng.integers(self._config.num_actions))
        else:
            chosen = int(np.argmax(self.values(observation)))
        return self._levels[chosen : chosen + 1].copy()

    def observe(self, transitions: list[Transition], *, reward: float) -> None:
        """Remember a finished episode.

        Raises:
            SearchError: the reward is not a finite number.
        """
        check_reward(reward)
        steps = self._steps(transitions, reward)
        self._num_episodes += 1
        if self._config.follows == "episode":
            steps, self._round = self._linked(self._round, steps), steps
        self._replay.add(steps)
        self._pending_updates += len(steps.rewards) * self._config.updates_per_step

    def learn(self) -> None:
        """Update once per step that was remembered since the last call, as soon as there are enough for a batch."""
        if len(self._replay) < self._config.batch_size:
            return
        while self._pending_updates > 0:
            self._update()
            self._pending_updates -= 1

    def _steps(self, transitions: list[Transition], reward: float) -> Batch:
        taken = np.array([transition.action_taken[0] for transition in transitions])
        width = self._levels[-1] - self._levels[0]
        chosen = np.rint((taken - self._levels[0]) / width * (self._config.num_actions - 1))
        everywhere = self._config.follows == "episode"
        last = np.array([transition.done for transition in transitions])
        return Batch(
            observations=np.stack([t.observation for t in transitions]).astype(np.float32),
            actions=chosen.clip(0, self._config.num_actions - 1).astype(np.float32)[:, None],
            rewards=np.where(last | everywhere, reward, 0.0).astype(np.float32),
            next_observations=np.stack([t.next_observation for t in transitions]).astype(np.float32),
            done=last & (not everywhere),
        )

    @staticmethod
    def _linked(before: Batch | None, now: Batch) -> Batch:
        """The steps of the episode before, each followed by the same decision of this one."""
        if before is None:
            return Batch(*(getattr(now, name)[:0] for name in Batch.__dataclass_fields__))
        if len(before.rewards) != len(now.rewards):
            raise ValueError(
                f'follows="episode" needs episodes of one length, got {len(before.rewards)}, {len(now.rewards)}'
            )
        return Batch(before.observations, before.actions, before.rewards, now.observations, before.done)

    def _update(self) -> None:
        batch = self._replay.sample(self._config.batch_size)
        next_observations = torch.from_numpy(batch.next_observations)
        with torch.no_grad():
            targets = double_q_targets(
                torch.from_numpy(batch.rewards),
                self._online(next_observations),
                self._target(next_observations),
                torch.from_numpy(batch.done),
                discount=self._config.discount,
            )
        values = self._online(torch.from_numpy(batch.observations))
        taken = values.gather(1, torch.from_numpy(batch.actions).long()).squeeze(1)
        self._optimizer.zero_grad()
        huber_loss(taken, targets, delta=self._config.huber_delta).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._num_updates += 1
        if self._num_updates % self._config.target_every == 0:
            self._target.load_state_dict(self._online.state_dict())

    def state_dict(self) -> State:
        """Networks, optimiser, replay, the last episode, random state and counters, as copies."""
        state = self._state().save()
        if self._round is not None:
            state |= {f"round.{name}": getattr(self._round, name).copy() for name in Batch.__dataclass_fields__}
        return state | {"counts": np.array([self._num_episodes, self._num_updates, self._pending_updates])}

    def load_state_dict(self, state: State) -> None:
        """Put a saved state back.

        Raises:
            StudyError: the state is of an agent with other sizes.
        """
        self._state().restore(state)
        saved: dict[str, Any] = {
            name: state[f"round.{name}"].copy() for name in Batch.__dataclass_fields__ if f"round.{name}" in state
        }
        self._round = Batch(**saved) if saved else None
        self._num_episodes, self._num_updates, self._pending_updates = (int(count) for count in state["counts"])

    def _state(self) -> AgentState:
        return AgentState(
            modules={"online": self._online, "target": self._target},
            optimizers={"optimizer": self._optimizer},
            memories={"replay": self._replay},
            rng=self._rng,
        )
