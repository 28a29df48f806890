"""A walk of a few steps, each of which cuts every decision a little further.

A step's action is one number per decision: the share that goes of what was left. What is left at the end is decoded to
the exact budget by one level for all decisions. The largest action is such that the last step can just reach the lower
bound. The observation is what is left of each decision, then how far the walk is.

``transitions`` tells of the walk as it was proposed: an agent that learns from the probability of its own proposals
must see them where they were made. ``action_taken`` is the executed plan in equal steps.

Source: Yu et al. 2022 (GNN-RL), arXiv:2102.03214, section 4.1.
Differs: a fixed number of steps, and the budget is kept exactly instead of ending the walk, with a penalty where it is
never reached.
"""

from __future__ import annotations

import numpy as np

from tersenet.core.policy import Policy
from tersenet.core.protocols import Box, FloatArray, Transition
from tersenet.envs.layerwise import LayerwiseEnv
from tersenet.errors import SearchError


class StagedEnv:
    """A few steps over all decisions at once; implements ``core.protocols.Env``."""

    def __init__(self, plans: LayerwiseEnv, *, num_steps: int) -> None:
        """Set the walk up.

        Args:
            plans: decodes what is left at the end, a vector of preserve ratios.
            num_steps: steps of a walk, at least 1.
        """
        self._plans = plans
        self._num_steps = num_steps
        self._largest = 1.0 - float(plans.action_space.low[0]) ** (1.0 / num_steps)
        self._walked: list[FloatArray] | None = None

    @property
    def observation_space(self) -> Box:
        """What is left of each decision, and the share of the steps that were taken."""
        size = self._plans.num_decisions + 1
        return Box(low=np.zeros(size), high=np.ones(size))

    @property
    def action_space(self) -> Box:
        """One entry per decision: the share that goes of what is left."""
        size = self._plans.num_decisions
        return Box(low=np.zeros(size), high=np.full(size, self._largest))

    @property
    def num_decisions(self) -> int:
        """Steps of one walk."""
        return self._num_steps

    def reset(self, *, seed: int) -> FloatArray:
        """Begin a walk; nothing here is random, so ``seed`` changes nothing."""
        self._walked = []
        return self._observation(0)

    def step(self, proposal: FloatArray) -> tuple[FloatArray, bool]:
        """Cut every decision.

        Args:
            proposal: shape (D,); clipped to the action space.

        Returns:
            The next observation (zeros after the last step) and whether the walk is over.

        Raises:
            SearchError: the walk has not begun or is over.
        """
        if self._walked is None or len(self._walked) == self._num_steps:
            when = "before reset" if self._walked is None else f"after the last of {self._num_steps} steps"
            raise SearchError(f"step was called {when}. Call reset to begin a walk.")
        self._walked.append(self._checked(np.asarray(proposal)[None])[0])
        done = len(self._walked) == self._num_steps
        return (np.zeros(self.observation_space.size) if done else self._observation(len(self._walked))), done

    def decode(self, proposals: FloatArray | None = None) -> Policy:
        """The policy of the finished walk, or of a whole walk's proposals, shape (num_steps, D).

        Raises:
            SearchError: there are no proposals and the walk is not over.
        """
        if proposals is not None:
            self._walked = list(self._checked(proposals))
        return self._plans.decode(self._left(len(self._finished("decode")))[:, None])

    def transitions(self) -> list[Transition]:
        """The finished walk as it was proposed.

        Raises:
            SearchError: the walk is not over.
        """
        walked = self._finished("transitions")
        self.decode()
        executed = np.array([transition.action_taken[0] for transition in self._plans.transitions()])
        taken = 1.0 - executed ** (1.0 / self._num_steps)
        last = self._num_steps - 1
        seen = [self._observation(step) for step in range(self._num_steps)]
        seen.append(np.zeros(self.observation_space.size))
        return [
            Transition(
                observation=seen[step],
                action_proposed=proposal.copy(),
                action_taken=taken.copy(),
                next_observation=seen[step + 1],
                done=step == last,
            )
            for step, proposal in enumerate(walked)
        ]

    def _checked(self, proposals: FloatArray) -> FloatArray:
        expected = self._plans.num_decisions
        if np.ndim(proposals) != 2 or np.shape(proposals)[1] != expected:
            raise ValueError(f"proposals must have {expected} numbers per step, got shape {np.shape(proposals)}")
        if not np.isfinite(proposals).all():
            raise ValueError(f"proposals must be numbers, got {proposals}")
        return np.asarray(proposals, dtype=np.float64).clip(0.0, self._largest)

    def _finished(self, call: str) -> list[FloatArray]:
        done = 0 if self._walked is None else len(self._walked)
        if self._walked is None or done != self._num_steps:
            raise SearchError(f"{call} was called after {done} of {self._num_steps} steps. Finish the walk first.")
        return self._walked

    def _left(self, step: int) -> FloatArray:
        """Preserve ratios before a step, shape (D,)."""
        assert self._walked is not None
        left = np.ones(self._plans.num_decisions)
        for proposal in self._walked[:step]:
            left *= 1.0 - proposal
        return left

    def _observation(self, step: int) -> FloatArray:
        return np.append(self._left(step), step / self._num_steps)
