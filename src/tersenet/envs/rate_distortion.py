"""Lagrangian allocation: bytes go where they lower the distortion most. The strong control that learns nothing.

For a price per byte every decision takes the count with the least distortion plus price times bytes; the price is found
by bisection, so that the bytes just fit. What is left over is handed out step by step, the best gain per byte first.

Source: Shoham and Gersho 1988, "Efficient bit allocation for an arbitrary set of quantizers", section III.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tersenet.core.protocols import FloatArray, IntArray
from tersenet.envs.budget import Budget, refuse_unreachable
from tersenet.envs.storage_space import LookupCost, StorageSpace

NUM_BISECTIONS = 100

LOSS_RANGE = 8.0
"""Factors of 2 of the loss per byte that shares from 0 to 1 would span at the slope they have at 1/2."""


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


def scaled_by_loss(space: StorageSpace, budget: Budget, distortions: Sequence[FloatArray]) -> StorageSpace:
    """The same choices, with shares that say how much of the loss a byte may cost: the less, the larger the share.

    Where an error falls by the same factor with every bit, the next byte lowers it in proportion to the error over the
    bytes of a bit. With equal shares all layers pay about the same for a byte, which is the Lagrangian allocation; what
    is asked for beside it says how much more, or less, layers matter than ``distortions`` have it.

    Args:
        space: linear in bits.
        budget: one bound with a ``LookupCost``.
        distortions: per decision the expected rise of the loss at every count of ``space.counts``.

    Returns:
        With shares from 0 to 1, 1/2 at the price of a byte that the budget sets. Around it a share of
        1 / ``LOSS_RANGE`` is a factor of 2.

    Raises:
        TargetError: the budget cannot be reached.
        ValueError: the budget has another form.
    """
    allocated = rate_distortion(space, budget, distortions)
    table = budget.limits[0].table
    assert isinstance(table, LookupCost)
    choices = space.counts(0)
    bits = np.log2(choices) if space.kind == "clusters" else choices
    logs = []
    for costs, errors in zip(table.tables, distortions, strict=True):
        per_byte = errors / ((costs[-1] - costs[0]) / (bits[-1] - bits[0]))
        floor = per_byte[per_byte > 0.0].min(initial=1.0) / 2.0
        logs.append(np.maximum.accumulate(-np.log2(np.maximum(per_byte, floor))))
    here = np.median([log[np.searchsorted(choices, count)] for log, count in zip(logs, allocated, strict=True)])
    return replace(space, positions=tuple(1.0 / (1.0 + np.exp((here - log) * 4.0 / LOSS_RANGE)) for log in logs))


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
