"""From what each decision costs alone to a first allotment of the budget.

The losses of single decisions are taken to add up. From everything whole, one block after the other is given up,
each time where the loss per share of the budget saved is smallest, until the budget is kept.

Source: NetAdapt (Yang et al. 2018), arXiv:1804.03230, algorithm 1, for the order of greedy steps.
Differs: curves that were measured once instead of a measurement per step.
"""

from __future__ import annotations

import numpy as np

from tersenet.core.protocols import FloatArray, IntArray
from tersenet.envs.budget import Budget, refuse_unreachable
from tersenet.envs.space import Space, shares_of


def allot(space: Space, budget: Budget, ratios: FloatArray, losses: FloatArray) -> FloatArray:
    """Preserve ratios that keep the budget at the smallest sum of single losses, greedily.

    Args:
        space: the counts to choose from.
        budget: what must be kept; without limits everything stays whole.
        ratios: preserve ratios at which each decision was measured alone, shape (num_decisions, levels).
        losses: reward lost there, shape (num_decisions, levels); what looks like a gain, or less than at a larger
            ratio, is taken for noise.

    Returns:
        Preserve ratios, shape (num_decisions,).

    Raises:
        TargetError: the budget cannot be reached.
    """
    refuse_unreachable(space, budget)
    choices = [space.counts(decision) for decision in range(space.num_decisions)]
    curves = [
        _curve(space.shares(decision, counts), ratios[decision], losses[decision])
        for decision, counts in enumerate(choices)
    ]
    kept = np.array([len(counts) - 1 for counts in choices])
    num_kept = space.max_kept.copy()

    def price(decision: int) -> tuple[float, float]:
        fewer, level = num_kept.copy(), kept[decision]
        fewer[decision] = choices[decision][level - 1]
        saved = _saved(space, budget, num_kept, fewer)
        lost = curves[decision][level - 1] - curves[decision][level]
        return (float(lost / saved) if saved > 0.0 else np.inf), -saved  # among equals the larger saving first

    while not budget.fits(space.whole(num_kept)):
        cheapest = min((int(decision) for decision in np.flatnonzero(kept > 0)), key=price)
        kept[cheapest] -= 1
        num_kept[cheapest] = choices[cheapest][kept[cheapest]]
    return shares_of(space, num_kept)


def _curve(at: FloatArray, ratios: FloatArray, losses: FloatArray) -> FloatArray:
    """Loss at each ratio of ``at``: straight lines between what was measured, never falling as less is kept."""
    order = np.argsort(-ratios, kind="stable")
    falling = np.concatenate([[1.0], ratios[order]])
    rising = np.maximum.accumulate(np.concatenate([[0.0], losses[order]]))
    return np.interp(at, falling[::-1], rising[::-1])


def _saved(space: Space, budget: Budget, num_kept: IntArray, fewer: IntArray) -> float:
    """What fewer channels save of the bounds that are not kept yet, as shares of these bounds, summed."""
    before, after = space.whole(num_kept), space.whole(fewer)
    over = [limit for limit in budget.limits if limit.table.cost(before) > limit.maximum]
    return sum((limit.table.cost(before) - limit.table.cost(after)) / limit.maximum for limit in over)
