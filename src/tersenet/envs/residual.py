"""A walk around a plan that is known to be good: what an agent proposes is how far to go from it, and no further than a
reach.

Proposals stay in the box of the walk inside: the middle of the box is the plan, its ends are the plan less and plus the
reach. Everything else is that walk's: decoding, the budget, observations. An agent whose networks begin in the middle
of the box thus begins with the plan, and its exploration stays near it.

Source: Silver et al. 2018, "Residual policy learning", arXiv:1812.06298; Johannink et al. 2019, "Residual reinforcement
learning for robot control", arXiv:1812.03201.
Differs: the good plan is one vector and not a controller; corrections are bounded.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tersenet.core.policy import Policy
from tersenet.core.protocols import Box, FloatArray, Transition
from tersenet.envs.layerwise import LayerwiseEnv
from tersenet.errors import SearchError


class ResidualEnv:
    """Walks like another environment, around a plan; implements ``core.protocols.Env``."""

    def __init__(self, walk: LayerwiseEnv, plan: FloatArray, *, reach: float) -> None:
        """Set the walk up.

        Args:
            walk: decodes what comes out.
            plan: proposals to begin with, shape (num_decisions, 1). What the budget leaves of them is the middle.
            reach: largest distance from that, above 0; in the unit of the walk's proposals.
        """
        self._walk = walk
        self._middle = walk.executed(plan)
        self._reach = reach
        self._proposals: list[FloatArray] | None = None
        """Of the walk so far, clipped to the box."""

    @property
    def observation_space(self) -> Box:
        """That of the walk."""
        return self._walk.observation_space

    @property
    def action_space(self) -> Box:
        """That of the walk; its middle means the plan."""
        return self._walk.action_space

    @property
    def num_decisions(self) -> int:
        """Decisions of one walk."""
        return self._walk.num_decisions

    def reset(self, *, seed: int) -> FloatArray:
        """Begin a walk."""
        self._proposals = []
        return self._walk.reset(seed=seed)

    def step(self, proposal: FloatArray) -> tuple[FloatArray, bool]:
        """Take the next decision.

        Args:
            proposal: distance from the plan, in the box of the walk, shape (1,).

        Returns:
            The next observation (zeros after the last decision) and whether the walk is over.

        Raises:
            SearchError: the walk has not begun or is over.
        """
        if self._proposals is None:
            raise SearchError("step was called before reset. Call reset to begin a walk.")
        decision = len(self._proposals)
        if decision == self.num_decisions:
            raise SearchError(f"step was called after the last of {self.num_decisions} decisions. Call reset.")
        self._proposals.append(self._clipped(proposal))
        return self._walk.step(self._asked(self._proposals[-1], self._middle[decision]))

    def decode(self, proposals: FloatArray | None = None) -> Policy:
        """The policy of the finished walk, or of a whole vector of proposals, within the budget exactly.

        Args:
            proposals: distances from the plan, in the box of the walk, shape (num_decisions, 1); replaces the walk.

        Raises:
            SearchError: there is no vector and the walk is not over.
        """
        if proposals is None:
            return self._walk.decode()
        clipped = self._clipped(proposals)
        policy = self._walk.decode(self._asked(clipped, self._middle))
        self._proposals = list(clipped)
        return policy

    def transitions(self) -> list[Transition]:
        """The finished walk again; what was executed further away than the reach stands at the end of the box.

        Raises:
            SearchError: the walk is not over.
        """
        steps = self._walk.transitions()
        assert self._proposals is not None
        return [
            replace(step, action_proposed=proposal.copy(), action_taken=self._told(step.action_taken, middle))
            for step, proposal, middle in zip(steps, self._proposals, self._middle, strict=True)
        ]

    def _clipped(self, proposals: FloatArray) -> FloatArray:
        box = self.action_space
        clipped: FloatArray = np.asarray(proposals, dtype=np.float64).clip(box.low, box.high)
        return clipped

    def _asked(self, proposals: FloatArray, middle: FloatArray) -> FloatArray:
        box = self.action_space
        asked: FloatArray = middle + self._reach * (2.0 * (proposals - box.low) / (box.high - box.low) - 1.0)
        return asked

    def _told(self, ratios: FloatArray, middle: FloatArray) -> FloatArray:
        box = self.action_space
        share = ((ratios - middle) / self._reach + 1.0) / 2.0
        told: FloatArray = box.low + share.clip(0.0, 1.0) * (box.high - box.low)
        return told
