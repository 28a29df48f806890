"""A round of switching: one sweep over the channel groups of a network in training, one action for each.

Where 2-D kernels are switched instead of channels, a layer takes the place of a group and a kernel that of a channel.

An action switches one channel, or a share of the group, off or on, or does nothing: the least healthy of those that are
on go off, the healthiest of those that are off come on. Where the target bounds a cost, a ceiling falls from the whole
network to that bound while rounds go by, and below the bound no action switches anything off. What is above the ceiling
after the sweep goes off, least health per cost first, from groups that the agent wanted smaller before others, and
never what the same sweep has switched on while anything else is left. The replay gets what a group's count really did.

Source: Khatri and Won 2020 (RACS): kernels off by significance, the healthiest re-activated, one reward per epoch;
state, actions and rewards are not public, ours follow what is known of them. The ceiling is the schedule of Zhu and
Gupta 2017, arXiv:1710.01878, eq. 1; in Auto-AEC only rounds that kept the accuracy move it on, until the last rounds:
what has to go goes while there is training left.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np

from tersenet.core.metrics import Evaluation
from tersenet.core.policy import Policy
from tersenet.core.protocols import Box, FloatArray, IntArray, State, Transition
from tersenet.envs.budget import Budget, Limit
from tersenet.envs.kernel_ceiling import Preference, bring_under
from tersenet.envs.kernel_rules import BoolArray, KernelRules, Signals
from tersenet.envs.rewards import aec_reward, ceca_reward, quality_gap
from tersenet.envs.space import Space
from tersenet.envs.switched import Switched
from tersenet.errors import SearchError

NOTHING = 2
"""Number of the action that leaves a group as it is."""

WANTED = np.array([0.5, 0.7, 1.0, 1.4, 2.0])
"""By action: factor on the health of a group's channels when the ceiling makes some go off."""

FEATURES = (
    "place of the group", "channels on", "what it could save", "cost left", "ceiling", "health beside other groups",
    "spread of health", "weakest channel on", "healthiest channel off", "gap to the reference", "slope of quality",
    "rounds done", "last action",
)  # fmt: skip
"""Entries of an observation, each in [0, 1]."""


class KernelEnv:
    """One episode is one round; implements ``core.protocols.Env``."""

    def __init__(
        self,
        space: Space,
        switched: Switched,
        budget: Budget,
        price: Limit,
        *,
        rules: KernelRules,
        signals: Signals,
    ) -> None:
        """Set the walk up.

        Args:
            space: how few units each group keeps.
            switched: the groups that may be switched, in the order of the space.
            budget: the target's bounds; where there are none, nothing but the agent switches anything off.
            price: the cost that compression is counted in; its own bound is not looked at.
            rules: actions and rewards.
            signals: the network in training.
        """
        self._space = space
        self._switched = switched
        self._ids = list(switched.sizes)
        self._sizes = np.array(list(switched.sizes.values()), dtype=np.int64)
        self._budget = budget
        self._price = price
        self._rules = rules
        self._signals = signals
        self._last = np.full(len(self._ids), NOTHING)
        self._savings = self._possible_savings()
        self._masks: list[BoolArray] | None = None
        self._policy: Policy | None = None

    @property
    def observation_space(self) -> Box:
        """Entries between 0 and 1, see ``FEATURES``."""
        return Box(low=np.zeros(len(FEATURES)), high=np.ones(len(FEATURES)))

    @property
    def action_space(self) -> Box:
        """Number of an action, as a real number."""
        return Box(low=np.zeros(1), high=np.full(1, self._rules.num_actions - 1.0))

    @property
    def num_decisions(self) -> int:
        """Groups."""
        return len(self._ids)

    def reset(self, *, seed: int) -> FloatArray:
        """Begin a round with the network as it is now; nothing here is random."""
        active, health = self._signals.active, self._signals.health()
        self._before = [active[group_id] for group_id in self._ids]
        self._masks = [mask.copy() for mask in self._before]
        self._health = [health[group_id] for group_id in self._ids]
        self._observations: list[FloatArray] = []
        self._proposed: list[FloatArray] = []
        self._actions: list[int] = []
        self._policy = None
        return self._observe(0)

    def step(self, proposal: FloatArray) -> tuple[FloatArray, bool]:
        """Decide the next group.

        Args:
            proposal: number of an action, shape (1,); rounded, and clipped to those there are.

        Raises:
            SearchError: the round has not begun or is over.
        """
        if self._masks is None or len(self._actions) == self.num_decisions:
            raise SearchError(f"step was called before reset, or after the last of {self.num_decisions} groups.")
        group = len(self._actions)
        action = int(np.clip(np.rint(proposal[0]), 0, self._rules.num_actions - 1))
        self._proposed.append(np.reshape(np.asarray(proposal, dtype=np.float64), (1,)).copy())
        self._actions.append(action)
        self._switch(group, action)
        done = len(self._actions) == self.num_decisions
        return (np.zeros(len(FEATURES)) if done else self._observe(group + 1)), done

    def decode(self, proposals: FloatArray | None = None) -> Policy:
        """The masks after the sweep, under the ceiling, as a policy.

        Args:
            proposals: actions of all groups, shape (num_decisions, 1); replaces the walk.

        Raises:
            SearchError: there are none and the walk is not over.
        """
        if proposals is not None:
            self.reset(seed=0)
            for proposal in np.reshape(proposals, (-1, 1)):
                self.step(proposal)
        if self._masks is None or len(self._actions) < self.num_decisions:
            raise SearchError("decode was called before the sweep was over. Finish the walk, or give all actions.")
        if self._policy is None:
            spared = [mask & ~before for mask, before in zip(self._masks, self._before, strict=True)]
            wanted = WANTED[np.array(self._actions)]
            preference = Preference(health=self._health, wanted=wanted, spared=spared)
            ceilings = self._ceilings(len(self._signals.qualities))
            self._masks = self._under(ceilings, self._masks, preference, self._budget)
            self._policy = self._policy_of(self._masks)
            self._last = np.array([self._executed(group) for group in range(self.num_decisions)])
        return self._policy

    def transitions(self) -> list[Transition]:
        """The round's decisions with what each group's count really did."""
        self.decode()
        ends = [*self._observations[1:], np.zeros(len(FEATURES))]
        return [
            Transition(
                observation=self._observations[group],
                action_proposed=self._proposed[group].copy(),
                action_taken=np.array([float(self._last[group])]),
                next_observation=ends[group],
                done=group == self.num_decisions - 1,
            )
            for group in range(self.num_decisions)
        ]

    def reward(self, evaluation: Evaluation, policy: Policy) -> float:
        """What the round was worth, by the rules' mode."""
        gap = quality_gap(evaluation.metrics.quality, self._rules.reference)
        after, rules = self._cost(self._masks_of(policy)), self._rules
        worth = aec_reward if rules.mode == "auto_aec" else ceca_reward
        return worth(gap, after=after, tolerance=rules.tolerance, penalty=rules.penalty)

    def within_bounds(self, policy: Policy, budget: Budget) -> Policy:
        """The policy with as many of the least healthy units switched off as these bounds ask for."""
        health = self._signals.health()
        masks = self._masks_of(policy)
        preference = Preference(
            health=[health[group_id] for group_id in self._ids],
            wanted=np.ones(len(masks)),
            spared=[np.zeros_like(mask) for mask in masks],
        )
        ceilings = [limit.maximum for limit in budget.limits]
        return self._policy_of(self._under(ceilings, masks, preference, budget))

    def state_dict(self) -> State:
        """The last actions."""
        return {"last": self._last.copy()}

    def load_state_dict(self, state: State) -> None:
        """Put saved last actions back."""
        self._last = np.asarray(state["last"], dtype=np.int64).copy()

    def _switch(self, group: int, action: int) -> None:
        assert self._masks is not None
        mask, health = self._masks[group], self._health[group]
        largest = max(1, round(self._rules.share * len(mask)))
        count = largest if action in (0, 4) else 1
        order = np.argsort(health, kind="stable")
        if action < NOTHING:
            spare = int(mask.sum()) - int(self._space.min_kept[group])
            weakest = order[mask[order]]
            mask[weakest[: self._num_needed(group, min(count, spare))]] = False
        elif action > NOTHING and not self._settles(len(self._signals.qualities)):
            off = order[~mask[order]]
            mask[off[len(off) - min(count, len(off)) :]] = True

    def _settles(self, round_number: int) -> bool:
        """Whether a round, counted from 0, is one of the last, in which nothing is switched on any more."""
        return round_number >= (1.0 - self._rules.settle) * self._rules.num_rounds

    def _num_needed(self, group: int, most: int) -> int:
        """How many units of a group may go, at most so many: none once the target's bounds hold; without bounds there
        is always more to save."""
        assert self._masks is not None
        if not self._budget.limits:
            return most
        counts = self._counts(self._masks)

        def holds(number: int) -> bool:
            fewer = counts.copy()
            fewer[group] -= number
            return self._budget.fits(self._space.whole(fewer))

        return bisect.bisect_left(range(most), True, key=holds)

    def _under(
        self, ceilings: Sequence[float], masks: list[BoolArray], preference: Preference, budget: Budget
    ) -> list[BoolArray]:
        """Switch units off until no cost is above its ceiling."""
        masks = [mask.copy() for mask in masks]
        for limit, ceiling in zip(budget.limits, ceilings, strict=True):
            bring_under(limit, ceiling, masks, self._space, preference)
        return masks

    def _ceilings(self, round_number: int) -> list[float]:
        """The most that each bounded cost may be in a round, counted from 0."""
        rules = self._rules
        moved = round_number + 1
        if rules.mode == "auto_aec" and not self._settles(round_number):
            gaps = [quality_gap(quality, rules.reference) for quality in self._signals.qualities]
            moved = 1 + sum(gap >= -rules.tolerance for gap in gaps)
        rest = (1.0 - min(1.0, moved / max(1.0, rules.ramp * rules.num_rounds))) ** 3
        return [limit.maximum + rest * max(0.0, limit.original - limit.maximum) for limit in self._budget.limits]

    def _executed(self, group: int) -> int:
        """The action nearest to what happened to a group's count; of several, the one nearest to the proposal."""
        assert self._masks is not None
        change = int(self._masks[group].sum()) - int(self._before[group].sum())
        largest = max(1, round(self._rules.share * len(self._masks[group])))
        distances = np.abs(np.array([-largest, -1, 0, 1, largest][: self._rules.num_actions]) - change)
        nearest = np.flatnonzero(distances == distances.min())
        return int(nearest[np.argmin(np.abs(nearest - self._actions[group]))])

    def _observe(self, group: int) -> FloatArray:
        assert self._masks is not None
        mask, health = self._masks[group], self._health[group]
        on, off = health[mask], health[~mask]
        mean = max(float(on.mean()), 1e-300)
        others = max(float(np.mean([h[m].mean() for h, m in zip(self._health, self._masks, strict=True)])), 1e-300)
        qualities, rules = self._signals.qualities, self._rules
        gap = quality_gap(qualities[-1], rules.reference) if qualities else 0.0
        recent = qualities[-4:]
        slope = quality_gap(recent[-1], recent[0]) / (len(recent) - 1) if len(recent) > 1 else 0.0
        ceilings = self._ceilings(len(qualities))
        shares = [c / limit.original for c, limit in zip(ceilings, self._budget.limits, strict=True)]
        values = np.array(
            [
                group / max(1, self.num_decisions - 1),
                mask.mean(),
                self._savings[group],
                self._cost(self._masks),
                min(shares, default=1.0),
                mean / (mean + others),
                float(on.std()) / mean / 2.0,
                float(on.min()) / mean,
                float(off.max()) / mean / 2.0 if len(off) else 0.0,
                0.5 + gap / 4.0,
                0.5 + slope / 2.0,
                len(qualities) / rules.num_rounds,
                self._last[group] / (rules.num_actions - 1),
            ]
        ).clip(0.0, 1.0)
        self._observations = [*self._observations[:group], values]
        return values.copy()

    def _masks_of(self, policy: Policy) -> list[BoolArray]:
        return list(self._switched.masks(policy).values())

    def _policy_of(self, masks: Sequence[BoolArray]) -> Policy:
        return self._switched.policy(dict(zip(self._ids, masks, strict=True)))

    def _counts(self, masks: Sequence[BoolArray]) -> IntArray:
        return np.array([int(mask.sum()) for mask in masks], dtype=np.int64)

    def _cost(self, masks: Sequence[BoolArray]) -> float:
        """Cost over the original cost."""
        return self._price.table.cost(self._space.whole(self._counts(masks))) / self._price.original

    def _possible_savings(self) -> list[float]:
        """What each group alone could save, over the original cost."""
        whole = self._price.table.cost(self._space.whole(self._sizes))
        found = []
        for group in range(self.num_decisions):
            fewest = self._sizes.copy()
            fewest[group] = self._space.min_kept[group]
            found.append((whole - self._price.table.cost(self._space.whole(fewest))) / self._price.original)
        return found
