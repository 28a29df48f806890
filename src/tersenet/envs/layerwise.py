"""A walk over the decisions of a network: one share per decision, decoded to an exact budget.

A share says how much is kept: for channel groups the preserve ratio, for a layer's clusters or bits where they lie
between fewest and most, for what stays inside a layer that or a threshold (``space.py``, ``storage_space.py``,
``joint_space.py``). The observation of a decision is its static features, then per bound of the budget the share of the
cost that earlier decisions saved and the share that this and later ones still can save, then the last share that was
executed (1 before the first decision). All of it lies in [0, 1].

What the budget leaves of a proposal is known for certain only at the end of a walk. ``transitions`` therefore walks
again with the executed ratios, so that an agent learns from what happened and not from what it asked for.

Source: He et al. 2018 (AMC), arXiv:1802.03494, sections 3.1 and 3.3.
Differs: costs saved and left follow the coupled costs of the really cut network, in the order of the walk; the
released code orders them by kind of layer and its replay holds the proposed action.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tersenet.core.policy import Policy
from tersenet.core.protocols import Box, FloatArray, IntArray, Transition
from tersenet.envs.budget import Budget, refuse_unreachable
from tersenet.envs.decisions import Decisions
from tersenet.envs.decoding import DECODERS, DecoderName, nearest, wall_step
from tersenet.envs.space import Space, shares_of
from tersenet.errors import SearchError


@dataclass(frozen=True)
class _Episode:
    ratios: FloatArray
    """Proposed preserve ratios, clipped to the box, shape (num_decisions,)."""

    num_kept: IntArray
    """Executed counts, shape (num_decisions,)."""


class LayerwiseEnv:
    """Walks over decisions in the network's order; implements ``core.protocols.Env``."""

    def __init__(
        self,
        space: Space,
        budget: Budget,
        features: FloatArray,
        *,
        decisions: Decisions,
        decoder: DecoderName,
    ) -> None:
        """Set the walk up.

        Args:
            space: the counts to choose from.
            budget: bounds that every decoded policy keeps exactly.
            features: static features of the decisions in [0, 1], shape (num_decisions, F).
            decisions: what the counts of ``space`` mean, in its order.
            decoder: ``wall``, ``level`` or ``sweep``, see ``envs/decoding.py``.

        Raises:
            TargetError: the budget cannot be reached.
            ValueError: the arguments' lengths do not fit together.
        """
        if len(features) != space.num_decisions or len(decisions.points) != space.num_decisions:
            raise ValueError(
                f"features ({len(features)}) and decisions ({len(decisions.points)}) must have one entry per decision "
                f"of the space ({space.num_decisions})"
            )
        refuse_unreachable(space, budget)
        self.points = decisions.points
        self._space = space
        self._budget = budget
        self._features = features
        self._decisions = decisions
        self._decoder = decoder
        self._walked: list[float] | None = None
        self._num_kept = space.max_kept.copy()
        self._episode: _Episode | None = None

    @property
    def observation_space(self) -> Box:
        """Features, two entries per bound, and the last ratio; all in [0, 1]."""
        size = self._features.shape[1] + 2 * len(self._budget.limits) + 1
        return Box(low=np.zeros(size), high=np.ones(size))

    @property
    def action_space(self) -> Box:
        """One share, from the lower bound to 1."""
        return Box(low=np.array([self._space.lower_bound]), high=np.array([1.0]))

    @property
    def num_decisions(self) -> int:
        """Decisions of one walk."""
        return self._space.num_decisions

    @property
    def features(self) -> FloatArray:
        """Static features of the decisions, shape (num_decisions, F)."""
        return self._features.copy()

    def executed(self, proposals: FloatArray) -> FloatArray:
        """What the budget would leave of a whole vector of proposals; the walk stays as it is.

        Args:
            proposals: preserve ratios, shape (num_decisions, 1).

        Returns:
            Executed preserve ratios, shape (num_decisions, 1).
        """
        ratios = self._checked(proposals, self.num_decisions)
        counts = DECODERS[self._decoder](self._space, self._budget, ratios)
        return shares_of(self._space, counts)[:, None]

    def prices(self, executed: FloatArray) -> FloatArray:
        """What a decision's share costs near a policy, under the bound that leaves it the least room.

        Args:
            executed: executed preserve ratios, shape (num_decisions, 1).

        Returns:
            Change of cost over original cost per unit of each ratio, shape (num_decisions, 1); 0 without bounds.
        """
        counts = nearest(self._space, executed[:, 0])
        if not self._budget.limits:
            return np.zeros((self.num_decisions, 1))
        here = self._space.whole(counts)
        tightest = max(self._budget.limits, key=lambda limit: limit.table.cost(here) / limit.maximum)
        prices = np.zeros((self.num_decisions, 1))
        for decision in range(self.num_decisions):
            other, step = self._neighbour(decision, int(counts[decision]))
            moved = counts.copy()
            moved[decision] = other
            change = tightest.table.cost(self._space.whole(moved)) - tightest.table.cost(here)
            prices[decision] = change / step / tightest.original
        return prices.clip(0.0)

    def reset(self, *, seed: int) -> FloatArray:
        """Begin a walk; nothing here is random, so ``seed`` changes nothing."""
        self._walked = []
        self._episode = None
        self._num_kept = self._space.max_kept.copy()
        return self._observation(0, self._num_kept, 1.0)

    def step(self, proposal: FloatArray) -> tuple[FloatArray, bool]:
        """Take the next decision.

        Args:
            proposal: preserve ratio, shape (1,); clipped to the action space.

        Returns:
            The next observation (zeros after the last decision) and whether the walk is over.

        Raises:
            SearchError: the walk has not begun or is over.
        """
        if self._walked is None:
            raise SearchError("step was called before reset. Call reset to begin a walk.")
        decision = len(self._walked)
        if decision == self.num_decisions:
            raise SearchError(f"step was called after the last of {self.num_decisions} decisions. Call reset.")
        ratio = float(self._checked(np.reshape(proposal, (1, -1)), 1)[0])
        self._walked.append(ratio)
        self._num_kept[decision] = self._executed(decision, ratio)
        if decision + 1 == self.num_decisions:
            return np.zeros(self.observation_space.size), True
        last = float(self._space.shares(decision, self._num_kept[decision : decision + 1])[0])
        return self._observation(decision + 1, self._num_kept, last), False

    def decode(self, proposals: FloatArray | None = None) -> Policy:
        """The policy of the finished walk, or of a whole vector of proposals, within the budget exactly.

        Args:
            proposals: preserve ratios, shape (num_decisions, 1); replaces the walk.

        Raises:
            SearchError: there is no vector and the walk is not over.
        """
        if proposals is not None:
            ratios = self._checked(proposals, self.num_decisions)
            self._walked = [float(ratio) for ratio in ratios]
            self._episode = None
        if self._episode is None:
            ratios = np.array(self._finished_walk("decode"))
            counts = DECODERS[self._decoder](self._space, self._budget, ratios)
            self._episode = _Episode(ratios, counts)
        return self._decisions.policy(self._episode.num_kept)

    def transitions(self) -> list[Transition]:
        """The finished walk again with the executed ratios, as the decoded policy has them.

        Raises:
            SearchError: the walk is not over.
        """
        self._finished_walk("transitions")
        self.decode()
        assert self._episode is not None
        num_kept = self._episode.num_kept
        executed = shares_of(self._space, num_kept)
        last_ratios = np.concatenate([[1.0], executed[:-1]])
        steps = range(self.num_decisions)
        observations = [self._observation(step, num_kept, last_ratios[step]) for step in steps]
        observations.append(np.zeros(self.observation_space.size))
        return [
            Transition(
                observation=observations[step],
                action_proposed=self._episode.ratios[step : step + 1].copy(),
                action_taken=executed[step : step + 1].copy(),
                next_observation=observations[step + 1],
                done=step == self.num_decisions - 1,
            )
            for step in steps
        ]

    def num_kept(self, policy: Policy) -> IntArray:
        """Counts that a policy has, as cost tables take them (``Space.whole``).

        Raises:
            PolicyError: the policy decides what is not decided here.
        """
        return self._space.whole(self._decisions.counts(policy))

    def costs(self, policy: Policy) -> dict[str, float]:
        """Cost of a policy over the original cost, for each bound of the budget, by kind."""
        return self._budget.ratios(self.num_kept(policy))

    def _checked(self, proposals: FloatArray, num_rows: int) -> FloatArray:
        if np.shape(proposals) != (num_rows, 1):
            raise ValueError(f"proposals must have shape ({num_rows}, 1), got {np.shape(proposals)}")
        ratios = np.asarray(proposals, dtype=np.float64)[:, 0]
        if not np.isfinite(ratios).all():
            raise ValueError(f"proposals must be numbers, got {ratios}")
        return ratios.clip(self._space.lower_bound, 1.0)

    def _finished_walk(self, call: str) -> list[float]:
        if self._walked is None or len(self._walked) < self.num_decisions:
            done = 0 if self._walked is None else len(self._walked)
            raise SearchError(
                f"{call} was called after {done} of {self.num_decisions} decisions. Finish the walk, or hand a whole "
                "vector of proposals to decode."
            )
        return self._walked

    def _executed(self, decision: int, ratio: float) -> int:
        if self._decoder == "wall":
            return wall_step(self._space, self._budget, self._num_kept, decision, ratio)
        return self._space.nearest(decision, ratio)

    def _observation(self, decision: int, num_kept: IntArray, last_ratio: float) -> FloatArray:
        rest_whole, rest_least = num_kept.copy(), num_kept.copy()
        rest_whole[decision:] = self._space.max_kept[decision:]
        rest_least[decision:] = self._space.min_kept[decision:]
        dynamic = []
        for limit in self._budget.limits:
            here = limit.table.cost(self._space.whole(rest_whole))
            least = limit.table.cost(self._space.whole(rest_least))
            dynamic += [(limit.original - here) / limit.original, (here - least) / limit.original]
        values: FloatArray = np.concatenate([self._features[decision], dynamic, [last_ratio]])
        return values.clip(0.0, 1.0)

    def _neighbour(self, decision: int, count: int) -> tuple[int, float]:
        """The count next to one, below it where there is one, and by how much its share differs."""
        choices = self._space.counts(decision)
        place = int(np.searchsorted(choices, count))
        other = int(choices[place - 1] if place else choices[min(1, len(choices) - 1)])
        here, there = self._space.shares(decision, np.array([count, other]))
        return other, float(there - here) or 1.0
