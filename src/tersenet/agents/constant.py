"""Proposes the same always: what a rule such as "the same ratio everywhere" is made of."""

from __future__ import annotations

from tersenet.agents.random import check_reward
from tersenet.core.protocols import FloatArray, State, Transition


class ConstantAgent:
    """One action for every decision; learns nothing; implements ``core.protocols.Agent``."""

    def __init__(self, action: FloatArray) -> None:
        self._action = action

    def act(self, observation: FloatArray) -> FloatArray:
        """The action, shape (action size,), whatever is observed."""
        return self._action.copy()

    def observe(self, transitions: list[Transition], *, reward: float) -> None:
        """Take notice of an episode.

        Raises:
            SearchError: the reward is not a finite number.
        """
        check_reward(reward)

    def learn(self) -> None:
        """There is nothing to learn."""

    def state_dict(self) -> State:
        """There is nothing to keep."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """There is nothing to put back."""


class FixedPlan:
    """One vector for all decisions together; learns nothing; implements ``core.protocols.Proposer``."""

    def __init__(self, actions: FloatArray) -> None:
        """``actions``: shape (num_decisions, action size)."""
        self._actions = actions

    def propose(self) -> FloatArray:
        """The vector, always."""
        return self._actions.copy()

    def observe(self, transitions: list[Transition], *, reward: float) -> None:
        """Take notice of an episode.

        Raises:
            SearchError: the reward is not a finite number.
        """
        check_reward(reward)

    def learn(self) -> None:
        """There is nothing to learn."""

    def state_dict(self) -> State:
        """There is nothing to keep."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """There is nothing to put back."""
