"""Sensitivity first, then greedy moves: what a careful engineer does by hand, as a control for everything that learns.

Three phases. Every decision alone is set to a few ratios, all others whole, and what that costs in reward is its
sensitivity curve. The curves, added up, allot the budget. Then one decision after the other is moved up and down
from the best vector so far (the budget takes from all others what one is given); a step that helps is kept and
repeated, and the step is halved when no decision can be moved any more.

Nothing is random. Source: the per-layer sensitivity of Li et al. 2017, arXiv:1608.08710, section 3.2; the moves are
the pattern search of Hooke and Jeeves 1961, one move at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import BaseModel, Field

from tersenet.agents.random import check_reward
from tersenet.core.bounds import Count
from tersenet.core.protocols import FloatArray, IntArray, State, Transition
from tersenet.errors import StudyError

Allot = Callable[[FloatArray, FloatArray], FloatArray]
"""Probed ratios and the reward lost at them, both (num_decisions, levels), to a vector, (num_decisions,)."""

Execute = Callable[[FloatArray], FloatArray]
"""What the budget makes of a vector of ratios; (num_decisions,) -> (num_decisions,)."""


class GreedyConfig(BaseModel, frozen=True, extra="forbid"):
    """How trials are split between measuring and moving."""

    probe_share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.3
    """Largest share of the trials that measures decisions one by one."""

    max_levels: Count = 3
    """Most ratios that each decision is measured at."""

    step_start: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    """First change of a ratio."""

    step_floor: Annotated[float, Field(gt=0.0, le=1.0)] = 0.01
    """Smallest change of a ratio; when it helps nowhere the best vector is proposed again."""

    def num_levels(self, num_trials: int, num_decisions: int) -> int:
        """Ratios that the trials allow for each decision; 0 if they do not even allow one."""
        return max(0, min(self.max_levels, (int(self.probe_share * num_trials) - 1) // num_decisions))


@dataclass(frozen=True, kw_only=True)
class _Move:
    """The move that comes next."""

    step: float
    """Change of one ratio; 0 if no move leads to anything new."""

    cursor: int
    """Twice the decision that is moved, and 1 more if down."""

    num_failed: int
    """Moves before it, of the same step, that did not help or led to nothing new."""


class Greedy:
    """Sensitivity and pattern search; implements ``core.protocols.Proposer`` for actions of one number."""

    def __init__(
        self,
        config: GreedyConfig,
        *,
        num_trials: int,
        num_decisions: int,
        lowest: float,
        allot: Allot,
        execute: Execute,
    ) -> None:
        """Plan the probes.

        Args:
            config: how trials are split.
            num_trials: trials of the whole search.
            num_decisions: ratios per vector.
            lowest: smallest ratio; the probed ones lie evenly between it and 1, itself included.
            allot: from the sensitivities to the first vector.
            execute: the budget, which tells moves that lead somewhere from those that do not.
        """
        num_levels = config.num_levels(num_trials, num_decisions)
        self._config = config
        self._allot = allot
        self._execute = execute
        self._lowest = lowest
        self._size = num_decisions
        self._ratios = np.linspace(1.0, lowest, num_levels + 1)[1:]
        self._rewards = np.zeros(0)
        self._taken = np.zeros((0, num_decisions))
        self._best = np.ones(num_decisions)
        self._best_reward = -np.inf
        self._step = config.step_start
        self._cursor = 0
        self._num_failed = 0
        self._move: _Move | None = None

    @property
    def num_probes(self) -> int:
        """Trials that measure: one of everything whole and one per decision and ratio; none if trials are too few."""
        return 1 + self._size * len(self._ratios) if len(self._ratios) else 0

    def propose(self) -> FloatArray:
        """The next probe, then the allotted vector, then the next move, shape (num_decisions, 1)."""
        number = len(self._rewards)
        if number < self.num_probes:
            return self._probe(number)[:, None]
        if number == self.num_probes:
            return self._first()[:, None]
        move = self._next_move()
        return (self._moved(move.step, move.cursor) if move.step else self._best)[:, None]

    def observe(self, transitions: list[Transition], *, reward: float) -> None:
        """Take in a probe or a move.

        Raises:
            SearchError: the reward is not a finite number.
        """
        check_reward(reward)
        number = len(self._rewards)
        taken = np.array([transition.action_taken[0] for transition in transitions])
        if number > self.num_probes:
            self._settle(self._next_move(), helped=reward > self._best_reward)
        if number >= self.num_probes and reward > self._best_reward:
            self._best, self._best_reward = taken, float(reward)
        self._rewards = np.append(self._rewards, reward)
        self._taken = np.concatenate([self._taken, taken[None]])
        self._move = None

    def learn(self) -> None:
        """Everything was done in ``observe``."""

    def _settle(self, move: _Move, *, helped: bool) -> None:
        if not move.step:
            return
        self._step, self._cursor, self._num_failed = move.step, move.cursor, move.num_failed
        if helped:  # the same move again
            self._num_failed = 0
        else:
            self._cursor, self._num_failed = (move.cursor + 1) % (2 * self._size), move.num_failed + 1

    def _probe(self, number: int) -> FloatArray:
        ratios = np.ones(self._size)
        if number > 0:
            decision, level = divmod(number - 1, len(self._ratios))
            ratios[decision] = self._ratios[level]
        return ratios

    def _first(self) -> FloatArray:
        if not self.num_probes:
            return np.ones(self._size)
        shape = (self._size, len(self._ratios))
        probed = self._taken[1 : self.num_probes].reshape(*shape, self._size)
        lost = self._rewards[0] - self._rewards[1 : self.num_probes]
        each: IntArray = np.arange(self._size)
        return self._allot(probed[each, :, each], lost.reshape(shape))

    def _moved(self, step: float, cursor: int) -> FloatArray:
        ratios = self._best.copy()
        up = 1.0 if cursor % 2 == 0 else -1.0
        ratios[cursor // 2] = np.clip(ratios[cursor // 2] + up * step, self._lowest, 1.0)
        return ratios

    def _next_move(self) -> _Move:
        if self._move is None:
            self._move = self._first_new_move()
        return self._move

    def _first_new_move(self) -> _Move:
        seen = {self._key(taken) for taken in self._taken[self.num_probes :]}
        step, cursor, num_failed = self._step, self._cursor, self._num_failed
        while step >= self._config.step_floor:
            while num_failed < 2 * self._size:
                if self._key(self._execute(self._moved(step, cursor))) not in seen:
                    return _Move(step=step, cursor=cursor, num_failed=num_failed)
                cursor, num_failed = (cursor + 1) % (2 * self._size), num_failed + 1
            step, num_failed = step / 2.0, 0
        return _Move(step=0.0, cursor=cursor, num_failed=num_failed)

    @staticmethod
    def _key(ratios: FloatArray) -> bytes:
        return np.round(ratios, 9).tobytes()

    def state_dict(self) -> State:
        """All that was measured, the best vector and where the moves are."""
        return {
            "rewards": self._rewards.copy(),
            "taken": self._taken.copy(),
            "best": self._best.copy(),
            "best_reward": np.array(self._best_reward),
            "step": np.array(self._step),
            "cursor": np.array(self._cursor),
            "num_failed": np.array(self._num_failed),
        }

    def load_state_dict(self, state: State) -> None:
        """Put a saved state back.

        Raises:
            StudyError: it was saved for another number of decisions.
        """
        if state["best"].shape != self._best.shape:
            raise StudyError(
                f"The saved vector has shape {state['best'].shape}, this search decides {self._best.shape}. "
                "Continue with the settings the study began with."
            )
        self._rewards = state["rewards"].astype(np.float64)
        self._taken = state["taken"].astype(np.float64)
        self._best = state["best"].astype(np.float64)
        self._best_reward = float(state["best_reward"])
        self._step = float(state["step"])
        self._cursor = int(state["cursor"])
        self._num_failed = int(state["num_failed"])
        self._move = None
