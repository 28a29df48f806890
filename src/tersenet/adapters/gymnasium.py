"""A search as a ``gymnasium.Env``, for agents of other libraries: one episode walks the decisions, its end is measured.

The reward is 0 until the last decision, and then what the measured policy is worth; ``info`` of that step holds the
policy and its evaluation. Actions are scaled to [-1, 1] as most libraries expect, left as they are, or cut into levels
for agents that choose from a list. This bridge has no study: such a run is not durable and not resumed.

Source: the interface of Gymnasium (Farama Foundation), https://gymnasium.farama.org.
"""

from __future__ import annotations

import math
from typing import Any, SupportsFloat

import numpy as np
from numpy.typing import NDArray

from tersenet.core.metrics import Evaluation
from tersenet.core.policy import Policy
from tersenet.core.protocols import Box, Env, Evaluator, FloatArray
from tersenet.errors import MissingExtraError, SearchError
from tersenet.search import Reward

try:
    import gymnasium
    from gymnasium import spaces
except ImportError as error:
    raise MissingExtraError("gymnasium", "gymnasium") from error

Observation = NDArray[np.float32]
Action = NDArray[np.float32] | np.int64 | int


class GymnasiumEnv(gymnasium.Env[Observation, Any]):
    """Walks a tersenet environment and measures where the walk ends."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (gymnasium's own attribute)

    def __init__(
        self, env: Env, evaluator: Evaluator, reward: Reward, *, scaled: bool = True, num_levels: int | None = None
    ) -> None:
        """Describe the spaces; nothing is measured yet.

        Args:
            env: the walk; used by nobody else meanwhile.
            evaluator: measures the policy of every finished episode.
            reward: what a measured policy is worth; higher is better.
            scaled: whether actions are in [-1, 1] and are stretched over ``env.action_space``, else they are in that.
            num_levels: if given, actions are whole numbers from 0 to ``num_levels - 1``: so many values, evenly spread
                over ``env.action_space``. Needs an environment with one number per decision.

        Raises:
            SearchError: ``num_levels`` is below 2, or a decision has more than one number.
        """
        self._env = env
        self._evaluator = evaluator
        self._reward = reward
        self._scaled = scaled
        self._levels = None if num_levels is None else _levels(env.action_space, num_levels)
        self._best: tuple[float, Policy, Evaluation] | None = None
        self.observation_space = _gym_box(env.observation_space)
        self.action_space = self._make_action_space()

    @property
    def best(self) -> tuple[float, Policy, Evaluation] | None:
        """Reward, policy and evaluation of the best episode so far, the first of equals; None before the first."""
        return self._best

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: of this and all later episodes.
            options: not used.
        """
        super().reset(seed=seed, options=options)
        episode_seed = int(self.np_random.integers(2**31))
        return self._seen(self._env.reset(seed=episode_seed)), {}

    def step(self, action: Action) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        """Take one decision; the last one of an episode is followed by a measurement.

        Args:
            action: shape (action size,), or the number of a level.

        Returns:
            Observation, shape (observation size,); reward; whether the episode is over; False; and, at its end, a
            dictionary with ``policy`` and ``evaluation``.

        Raises:
            SearchError: there was no ``reset`` before, or the reward is not a finite number.
            ValueError: the action has another shape, or there is no such level.
        """
        observation, done = self._env.step(self._proposal(action))
        if not done:
            return self._seen(observation), 0.0, False, False, {}
        policy = self._env.decode()
        evaluation = self._evaluator.evaluate(policy)
        reward = self._reward(evaluation, policy)
        if not math.isfinite(reward):
            raise SearchError(
                f"The reward of policy {policy.digest()} is {reward}. Check the metric, the data and the weights for "
                "NaN."
            )
        if self._best is None or reward > self._best[0]:
            self._best = reward, policy, evaluation
        return self._seen(observation), reward, True, False, {"policy": policy, "evaluation": evaluation}

    def _make_action_space(self) -> spaces.Space[Any]:
        if self._levels is not None:
            return spaces.Discrete(len(self._levels))
        size = self._env.action_space.size
        if self._scaled:
            return spaces.Box(-1.0, 1.0, shape=(size,), dtype=np.float32)
        return _gym_box(self._env.action_space)

    def _proposal(self, action: Action) -> FloatArray:
        box = self._env.action_space
        if self._levels is not None:
            if not 0 <= int(action) < len(self._levels):
                raise ValueError(f"action must be a level from 0 to {len(self._levels) - 1}, got {action}")
            chosen: FloatArray = self._levels[int(action)]
            return chosen
        values: FloatArray = np.asarray(action, dtype=np.float64)
        if values.shape != (box.size,):
            raise ValueError(f"action must have shape ({box.size},), got {values.shape}")
        if self._scaled:
            values = box.low + (values + 1.0) / 2.0 * (box.high - box.low)
        return values

    def _seen(self, observation: FloatArray) -> Observation:
        # the observation after the last decision is all zeros, which need not lie in the box
        low, high = self._env.observation_space.low, self._env.observation_space.high
        return observation.clip(low, high).astype(np.float32)


def _gym_box(box: Box) -> spaces.Space[Any]:
    return spaces.Box(box.low.astype(np.float32), box.high.astype(np.float32), dtype=np.float32)


def _levels(box: Box, num_levels: int) -> FloatArray:
    """Evenly spread actions, shape (num_levels, 1)."""
    if num_levels < 2:
        raise SearchError(f"num_levels={num_levels} leaves nothing to choose. Give at least 2.")
    if box.size != 1:
        raise SearchError(
            f"num_levels={num_levels} needs decisions of one number, these have {box.size}. Leave num_levels out."
        )
    values: FloatArray = np.linspace(box.low, box.high, num_levels)
    return values
