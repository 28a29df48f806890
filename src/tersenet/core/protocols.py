"""The shapes by which parts know each other: cost tables, spaces, environments, agents, evaluators.

Arrays only: nothing here knows torch, a graph or a file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tersenet.core.metrics import Evaluation
from tersenet.core.policy import Policy

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
State = dict[str, NDArray[np.generic]]
"""Flat name to array: how an agent is saved, without pickle."""


class CostTable(Protocol):
    """One cost of the network as a function of how many channels each group keeps."""

    def cost(self, num_kept: IntArray) -> float:
        """The cost.

        Args:
            num_kept: channels kept per group, shape (num_groups,), in the order of ``ModelGraph.channel_groups``.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Box:
    """A box of real vectors."""

    low: FloatArray
    """Lowest value per entry, shape (size,)."""

    high: FloatArray
    """Highest value per entry, shape (size,)."""

    @property
    def size(self) -> int:
        """Entries of one vector."""
        return len(self.low)


@dataclass(frozen=True, kw_only=True)
class Transition:
    """One decision of an episode, after the budget was applied."""

    observation: FloatArray
    """State before the decision, shape (observation size,)."""

    action_proposed: FloatArray
    """What the agent asked for, shape (action size,)."""

    action_taken: FloatArray
    """What was executed, shape (action size,)."""

    next_observation: FloatArray
    """State after the decision; zeros after the last one."""

    done: bool
    """Whether this was the last decision of the episode."""


class Env(Protocol):
    """A walk over an ordered list of decisions."""

    @property
    def observation_space(self) -> Box: ...

    @property
    def action_space(self) -> Box: ...

    @property
    def num_decisions(self) -> int:
        """Steps of one episode."""
        ...

    def reset(self, *, seed: int) -> FloatArray:
        """Begin an episode; returns the first observation."""
        ...

    def step(self, proposal: FloatArray) -> tuple[FloatArray, bool]:
        """Take one decision; returns the next observation and whether the episode is over."""
        ...

    def decode(self, proposals: FloatArray | None = None) -> Policy:
        """The policy of the finished walk, or of a whole vector of proposals, shape (num_decisions, action size).

        The budget is applied exactly. A whole vector replaces the walk: ``transitions`` then tells of it.
        """
        ...

    def transitions(self) -> list[Transition]:
        """The episode walked again with the executed actions."""
        ...


class Learner(Protocol):
    """What everything that searches has in common: it learns from rewarded episodes and can be saved exactly."""

    def observe(self, transitions: list[Transition], *, reward: float) -> None:
        """Take in one finished episode, with what was proposed and what was executed, and its reward.

        Raises:
            SearchError: the reward is not a finite number.
        """
        ...

    def learn(self) -> None:
        """Update from what was observed."""
        ...

    def state_dict(self) -> State:
        """Everything needed to go on exactly: networks, optimisers, replay, random state, counters."""
        ...

    def load_state_dict(self, state: State) -> None:
        """Put a saved state back."""
        ...


class Agent(Learner, Protocol):
    """Walks: proposes one action after the other, each from what it observes."""

    def act(self, observation: FloatArray) -> FloatArray:
        """Propose an action, shape (action size,), exploring as far as its schedule says."""
        ...


@runtime_checkable
class Proposer(Learner, Protocol):
    """Proposes all actions of an episode at once, without looking at observations."""

    def propose(self) -> FloatArray:
        """Propose a whole vector of actions, shape (num_decisions, action size), inside the action space."""
        ...


class Evaluator(Protocol):
    """Measures what a policy does to the network; expensive."""

    @property
    def signature(self) -> dict[str, str]:
        """What must be equal for two evaluations to be comparable: dtype, threads, versions, ..."""
        ...

    def evaluate(self, policy: Policy, *, hopeless_below: float | None = None) -> Evaluation:
        """Build the smaller network and measure it on the trial images.

        Args:
            hopeless_below: quality that the trial must be able to reach; as soon as it hardly can, it may stop early.
                None measures to the end.
        """
        ...

    def confirm(self, policy: Policy) -> Evaluation:
        """The same in fp32 on the search images that trials never see."""
        ...


@runtime_checkable
class ParallelEvaluator(Evaluator, Protocol):
    """Measures several policies at once, each as if it were alone."""

    @property
    def workers(self) -> int:
        """How many."""
        ...

    def begin(
        self, policy: Policy, *, hopeless_below: float | None = None, confirm: bool = False
    ) -> Callable[[], Evaluation]:
        """Begin what ``evaluate`` does, or ``confirm``; does not wait.

        Returns:
            Waits for the result, or raises what ``evaluate`` would have raised.
        """
        ...
