"""Proposals drawn uniformly from the box: the control that every learner has to beat."""

from __future__ import annotations

import math

import numpy as np

from tersenet.agents.state import restore_rng, rng_state
from tersenet.core.protocols import Box, FloatArray, State, Transition
from tersenet.errors import SearchError


class RandomAgent:
    """Draws actions uniformly and learns nothing; implements ``core.protocols.Agent``."""

    def __init__(self, action_space: Box, *, seed: int) -> None:
        self._action_space = action_space
        self._rng = np.random.default_rng(seed)

    def act(self, observation: FloatArray) -> FloatArray:
        """A uniform action, shape (action size,), whatever is observed."""
        return self._rng.uniform(self._action_space.low, self._action_space.high)

    def observe(self, transitions: list[Transition], *, reward: float) -> None:
        """Take notice of an episode.

        Raises:
            SearchError: the reward is not a finite number.
        """
        check_reward(reward)

    def learn(self) -> None:
        """There is nothing to learn."""

    def state_dict(self) -> State:
        """The random state."""
        return {"rng": rng_state(self._rng)}

    def load_state_dict(self, state: State) -> None:
        """Put a saved random state back."""
        restore_rng(self._rng, state["rng"])


def check_reward(reward: float) -> None:
    """Refuse a reward that would poison what is learnt from it.

    Raises:
        SearchError: the reward is not a finite number.
    """
    if not math.isfinite(reward):
        raise SearchError(
            f"The reward of an episode is {reward}, not a finite number. Look for NaN in the network's outputs or in "
            "the user's own evaluate function."
        )
