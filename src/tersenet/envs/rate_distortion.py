"""Lagrangian allocation: bytes go where they lower the distortion most. The strong control that learns nothing.

For a price per byte every decision takes the count with the least distortion plus price times bytes; the price is found
by bisection, so that the bytes just fit. What is left over is handed out step by step, the best gain per byte first.

Source: Shoham and Gersho 1988, "Efficient bit allocation for an arbitrary set of quantizers", section III.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tersenet.core.protocols import FloatArray, IntArray
from tersenet.envs.budget import Budget, refuse_unreachable
from tersenet.envs.storage_space import LookupCost, StorageSpace

NUM_BISECTIONS = 100


def rate_distortion(space: StorageSpace, budget: Budget, distortions: Sequence[FloatArray]) -> IntArray:
    """Counts that keep the budget at (nearly) the least sum of distortions.

    Args:
        space: the counts to choose from.
        budget: exactly one bound, on a sum over decisions.
        distortions: per decision the distortion of every count of ``space.counts``; any unit that can be
            added up over decisions.

    Returns:
        Counts, shape (num_decisions,).

    Raises:
        TargetError: the budget cannot be reached.
        ValueError: the budget has another form.
    """
    if len(budget.limits) != 1 or not isinstance(budget.limits[0].table, LookupCost):
        raise ValueError("rate_distortion needs a budget of one bound with a LookupCost.")
    refuse_unreachable(space, budget)
    rates, choices = budget.limits[0].table.tables, space.counts(0)

    def chosen(price: float) -> IntArray:
        best = [np.argmin(d + price * rate) for d, rate in zip(distortions, rates, strict=True)]
        return choices[np.array(best, dtype=np.int64)]

    low, high = 0.0, 1.0
    if budget.fits(chosen(low)):
        return _filled(space, budget, chosen(low), distortions)
    while not budget.fits(chosen(high)) and high < 1e30:
        low, high = high, 4.0 * high
    for _ in range(NUM_BISECTIONS):
        middle = (low + high) / 2.0
        low, high = (low, middle) if budget.fits(chosen(middle)) else (middle, high)
    counts = chosen(high)
    return _filled(space, budget, counts if budget.fits(counts) else space.min_kept, distortions)


def _filled(space: StorageSpace, budget: Budget, counts: IntArray, distortions: Sequence[FloatArray]) -> IntArray:
    """Larger counts where they fit, the largest fall of distortion per unit of cost first; then any that fits."""
    table = budget.limits[0].table
    assert isinstance(table, LookupCost)
    counts, choices = counts.copy(), space.counts(0)
    while True:
        room = budget.limits[0].maximum - table.cost(counts)
        best, gain = None, -1.0
        for decision, count in enumerate(counts):
            here = int(np.searchsorted(choices, count))
            extra = table.tables[decision][here + 1 :] - table.tables[decision][here]
            falls = distortions[decision][here] - distortions[decision][here + 1 :]
            fitting = np.flatnonzero(extra <= room)
            if len(fitting):
                gains = np.maximum(falls[fitting], 0.0) / np.maximum(extra[fitting], 1e-12)
                top = int(np.argmax(gains))
                if gains[top] > gain:
                    best, gain = (decision, int(choices[here + 1 + int(fitting[top])])), float(gains[top])
        if best is None:
            return counts
        counts[best[0]] = best[1]
