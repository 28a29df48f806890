"""Every executed plan of a search with its reward, and how much each member of an ensemble minds it.

Searches have hundreds of episodes, so nothing is ever forgotten.

Axes: T episodes, N actions of a plan, M members.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tersenet.core.protocols import FloatArray, State
from tersenet.errors import StudyError

Plans = NDArray[np.float32]


class PlanMemory:
    """Plans in [0, 1], rewards and weights, in the order of the episodes."""

    def __init__(self, *, num_actions: int, num_members: int) -> None:
        self.plans: Plans = np.zeros((0, num_actions), dtype=np.float32)
        """Shape (T, N)."""
        self.rewards: FloatArray = np.zeros(0)
        """Shape (T,)."""
        self.weights: Plans = np.zeros((0, num_members), dtype=np.float32)
        """Weight of each episode in each member's loss, shape (T, M)."""

    def __len__(self) -> int:
        return len(self.rewards)

    def add(self, plan_N: Plans, reward: float, *, weights_M: FloatArray) -> None:
        """Remember one episode."""
        self.plans = np.concatenate([self.plans, plan_N[None]])
        self.rewards = np.append(self.rewards, reward)
        self.weights = np.concatenate([self.weights, weights_M[None].astype(np.float32)])

    def best(self) -> Plans:
        """The plan of the highest reward, the first of equal ones, shape (N,); there must be one."""
        best: Plans = self.plans[int(np.argmax(self.rewards))]
        return best

    def holds(self, plan_N: Plans) -> bool:
        """Whether a plan was executed before."""
        return bool((self.plans == plan_N).all(axis=1).any())

    def state_dict(self) -> State:
        """Copies of all arrays."""
        return {"plans": self.plans.copy(), "rewards": self.rewards.copy(), "weights": self.weights.copy()}

    def load_state_dict(self, state: State) -> None:
        """Put a saved state back.

        Raises:
            StudyError: its plans have another length, or it is of another number of members.
        """
        own = (self.plans.shape[1], self.weights.shape[1])
        saved = (state["plans"].shape[1], state["weights"].shape[1])
        if saved != own:
            raise StudyError(
                f"The saved plans have (actions, members) {saved}, this search {own}. Continue with the settings the "
                "study began with."
            )
        self.plans = state["plans"].astype(np.float32)
        self.rewards = state["rewards"].astype(np.float64)
        self.weights = state["weights"].astype(np.float32)
