"""Past steps in a ring of arrays, sampled uniformly.

Every stored step can be drawn, the first of an episode and the oldest included; samples are drawn with replacement.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tersenet.agents.state import restore_rng, rng_state
from tersenet.core.protocols import State
from tersenet.errors import StudyError

_FIELDS = ("observations", "actions", "rewards", "next_observations", "done")


@dataclass(frozen=True)
class Batch:
    """Steps side by side; B steps."""

    observations: NDArray[np.float32]
    """Shape (B, observation size)."""

    actions: NDArray[np.float32]
    """Shape (B, action size)."""

    rewards: NDArray[np.float32]
    """Shape (B,)."""

    next_observations: NDArray[np.float32]
    """Shape (B, observation size)."""

    done: NDArray[np.bool_]
    """Shape (B,)."""


class ReplayBuffer:
    """Holds the latest ``capacity`` steps."""

    def __init__(self, capacity: int, *, observation_size: int, action_size: int, seed: int) -> None:
        self._capacity = capacity
        self._store = Batch(
            observations=np.zeros((capacity, observation_size), dtype=np.float32),
            actions=np.zeros((capacity, action_size), dtype=np.float32),
            rewards=np.zeros(capacity, dtype=np.float32),
            next_observations=np.zeros((capacity, observation_size), dtype=np.float32),
            done=np.zeros(capacity, dtype=np.bool_),
        )
        self._num_added = 0
        self._rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return min(self._num_added, self._capacity)

    def add(self, steps: Batch) -> None:
        """Add steps, each in place of the oldest once the ring is full."""
        count = len(steps.rewards)
        slots = (self._num_added + np.arange(count)) % self._capacity
        for name in _FIELDS:
            getattr(self._store, name)[slots] = getattr(steps, name)
        self._num_added += count

    def sample(self, batch_size: int) -> Batch:
        """Draw steps uniformly, with replacement.

        Raises:
            ValueError: nothing was added yet.
        """
        if len(self) == 0:
            raise ValueError("an empty replay buffer cannot be sampled")
        chosen = self._rng.integers(len(self), size=batch_size)
        return Batch(*(getattr(self._store, name)[chosen] for name in _FIELDS))

    def state_dict(self) -> State:
        """Stored steps, counter and random state, as copies."""
        state: State = {name: getattr(self._store, name)[: len(self)].copy() for name in _FIELDS}
        return state | {"num_added": np.array(self._num_added), "rng": rng_state(self._rng)}

    def load_state_dict(self, state: State) -> None:
        """Put a saved state back.

        Raises:
            StudyError: the state is of a buffer of another size.
        """
        num_added = int(state["num_added"])
        for name in _FIELDS:
            own = getattr(self._store, name)
            if state[name].shape != (min(num_added, self._capacity), *own.shape[1:]):
                raise StudyError(
                    f"The saved replay ({name}: {state[name].shape}) does not fit this agent's ({own.shape}). "
                    "Continue with the settings the study began with."
                )
        for name in _FIELDS:
            getattr(self._store, name)[: len(state[name])] = state[name]
        self._num_added = num_added
        restore_rng(self._rng, state["rng"])
