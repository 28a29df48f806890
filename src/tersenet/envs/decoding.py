"""From preserve ratios that an agent asks for to counts that keep the budget exactly.

Exactly means: never above, and no group could keep one block more without going above. ``wall`` clips one decision
after the other, as AMC does; ``level`` shifts all ratios by one common amount, up or down, which treats early and
late layers alike; ``sweep`` takes the ratios as they are and lowers one decision after the other, from the last to the
first, until everything fits, as HAQ does. All end with ``fill``, which hands out what is left.

All of it rests on one order: the *need* of a block is how far its middle lies below the ratio its group asked for.
Handing out blocks by falling need is the same as raising a common level, and since costs do not fall when a group
keeps more, the last block that fits is found by bisection. Costs that do fall somewhere are still never exceeded.

Source: He et al. 2018 (AMC), arXiv:1802.03494, algorithm 1, for ``wall``; Wang et al. 2019 (HAQ), arXiv:1811.08886,
section 3.3, for ``sweep``.
Differs: coupled costs instead of a sum over layers; the slack is filled; ``level`` is in neither paper.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from tersenet.core.protocols import FloatArray, IntArray
from tersenet.envs.budget import Budget, refuse_unreachable
from tersenet.envs.space import Space

DecoderName = Literal["wall", "level", "sweep"]
Decoder = Callable[[Space, Budget, FloatArray], IntArray]


def nearest(space: Space, ratios: FloatArray) -> IntArray:
    """Counts nearest to preserve ratios, whatever they cost; (num_decisions,) -> (num_decisions,)."""
    return np.array([space.nearest(decision, ratio) for decision, ratio in enumerate(ratios)], dtype=np.int64)


def wall_step(space: Space, budget: Budget, num_kept: IntArray, decision: int, ratio: float) -> int:
    """Clip one decision so that all later ones still fit at their minimum.

    Args:
        space: the counts to choose from.
        budget: what must be kept.
        num_kept: counts of the decisions before, shape (num_decisions,); entries from ``decision`` on are ignored.
        decision: which group is decided.
        ratio: preserve ratio asked for.

    Returns:
        The count nearest to ``ratio``, or the largest one that leaves room for the rest.
    """
    counts = np.concatenate([num_kept[:decision], space.min_kept[decision:]])
    choices = space.counts(decision)
    wanted = int(np.searchsorted(choices, space.nearest(decision, ratio)))

    def fits(choice: int) -> bool:
        counts[decision] = choices[choice]
        return budget.fits(space.whole(counts))

    if fits(wanted):
        return int(choices[wanted])
    return int(choices[_last_that_fits(fits, 0, wanted)])


def wall(space: Space, budget: Budget, ratios: FloatArray) -> IntArray:
    """Clip decisions one after the other, then fill; arguments, result and errors as of ``level``."""
    refuse_unreachable(space, budget)
    num_kept = space.min_kept.copy()
    for decision, ratio in enumerate(ratios):
        num_kept[decision] = wall_step(space, budget, num_kept, decision, ratio)
    return fill(space, budget, num_kept, ratios)


def level(space: Space, budget: Budget, ratios: FloatArray) -> IntArray:
    """Shift all preserve ratios by one common amount until the budget is used up.

    Args:
        space: the counts to choose from.
        budget: what must be kept; without limits the counts nearest to the ratios are returned.
        ratios: preserve ratio asked for per decision, shape (num_decisions,); only their differences matter.

    Returns:
        Counts per decision, shape (num_decisions,).

    Raises:
        TargetError: the budget cannot be reached.
    """
    refuse_unreachable(space, budget)
    if not budget.limits:
        return nearest(space, ratios)
    return fill(space, budget, space.min_kept, ratios)


def sweep(space: Space, budget: Budget, ratios: FloatArray) -> IntArray:
    """Lower decisions by one step (of storage: one bit) each, last to first, again and again until the budget is kept,
    then fill; arguments, result and errors as of ``level``."""
    refuse_unreachable(space, budget)
    counts = nearest(space, ratios)
    while not budget.fits(space.whole(counts)):
        for decision in reversed(range(space.num_decisions)):
            counts[decision] = space.below(decision, int(counts[decision]))
            if budget.fits(space.whole(counts)):
                break
    return fill(space, budget, counts, ratios)


def fill(space: Space, budget: Budget, num_kept: IntArray, ratios: FloatArray) -> IntArray:
    """Raise counts block by block, each time where the need is largest and a block still fits, until none does.

    Args:
        space: the counts to choose from.
        budget: what must be kept; without limits nothing is raised.
        num_kept: counts to begin with, shape (num_decisions,); must fit.
        ratios: preserve ratio wanted per decision, shape (num_decisions,).

    Returns:
        Counts per decision, shape (num_decisions,).
    """
    counts = num_kept.copy()
    if not budget.limits:
        return counts
    while _can_be_raised(space, budget, counts):
        counts = _raise_in_order(space, budget, counts, ratios)
    return counts


DECODERS: dict[DecoderName, Decoder] = {"wall": wall, "level": level, "sweep": sweep}
"""Decoders of whole vectors of ratios, by name."""


def _raise_in_order(space: Space, budget: Budget, num_kept: IntArray, ratios: FloatArray) -> IntArray:
    decisions, levels = _blocks_by_need(space, num_kept, ratios)
    counts = num_kept.copy()
    start = 0
    while start < len(decisions):
        fitting = _fitting_prefix(space, budget, counts, decisions[start:], levels[start:])
        counts = _with_blocks(counts, decisions[start : start + fitting], levels[start : start + fitting])
        start += fitting
        if start < len(decisions):
            # This block did not fit; with costs that do not fall, no later block of its group does either.
            remaining = decisions[start:] != decisions[start]
            decisions, levels = decisions[start:][remaining], levels[start:][remaining]
            start = 0
    return counts


def _blocks_by_need(space: Space, num_kept: IntArray, ratios: FloatArray) -> tuple[IntArray, IntArray]:
    """All blocks that could be added, neediest first: decision of each block and the count it leads to."""
    decisions, levels, needs = [], [], []
    for decision in range(space.num_decisions):
        choices = space.counts(decision)
        choices = choices[np.searchsorted(choices, num_kept[decision]) :]
        shares = space.shares(decision, choices)
        middles = (shares[:-1] + shares[1:]) / 2.0
        decisions.append(np.full(len(middles), decision, dtype=np.int64))
        levels.append(choices[1:])
        needs.append(ratios[decision] - middles)
    # A stable sort keeps the blocks of one group in their order and ties between groups in the network's order.
    order = np.argsort(-np.concatenate(needs), kind="stable")
    return np.concatenate(decisions)[order], np.concatenate(levels)[order]


def _with_blocks(num_kept: IntArray, decisions: IntArray, levels: IntArray) -> IntArray:
    counts = num_kept.copy()
    np.maximum.at(counts, decisions, levels)
    return counts


def _fitting_prefix(space: Space, budget: Budget, num_kept: IntArray, decisions: IntArray, levels: IntArray) -> int:
    """How many of the blocks, in their order, fit; doubling first, since mostly few or none do."""

    def fits(prefix: int) -> bool:
        return budget.fits(space.whole(_with_blocks(num_kept, decisions[:prefix], levels[:prefix])))

    known, probe = 0, 1
    while probe <= len(decisions) and fits(probe):
        known, probe = probe, 2 * probe
    if probe > len(decisions):
        if fits(len(decisions)):
            return len(decisions)
        probe = len(decisions)
    return _last_that_fits(fits, known, probe)


def _last_that_fits(fits: Callable[[int], bool], good: int, bad: int) -> int:
    """The last number that fits, by bisection between one that does and one that does not."""
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def _can_be_raised(space: Space, budget: Budget, num_kept: IntArray) -> bool:
    for decision in range(space.num_decisions):
        raised = num_kept.copy()
        raised[decision] = space.above(decision, int(num_kept[decision]))
        if raised[decision] > num_kept[decision] and budget.fits(space.whole(raised)):
            return True
    return False
