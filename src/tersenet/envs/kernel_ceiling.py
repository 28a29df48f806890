"""What goes off so that a cost comes under its ceiling: the least health per cost first (``envs/kernels.py``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tersenet.core.protocols import FloatArray, IntArray
from tersenet.envs.budget import Limit
from tersenet.envs.kernel_rules import BoolArray
from tersenet.envs.kernel_space import UnitCost
from tersenet.envs.space import Space
from tersenet.errors import SearchError

LARGEST_CUT = 0.25
"""Share of a group's units that the ceiling takes in one round while other groups have any to give; else one group
after the other becomes a bottleneck before its health can show it."""


@dataclass(frozen=True, kw_only=True)
class Preference:
    """What decides which units go, by group."""

    health: Sequence[FloatArray]

    wanted: FloatArray
    """Factor on the health of a group's units, shape (groups,)."""

    spared: Sequence[BoolArray]
    """Units that go only where nothing else is left in their group, and after those of other groups."""


def bring_under(limit: Limit, ceiling: float, masks: list[BoolArray], space: Space, preference: Preference) -> None:
    """Switch units off, in place, until the cost is not above its ceiling.

    Units of groups that have given ``LARGEST_CUT`` of theirs go only where nothing else is left.

    Raises:
        SearchError: the cost cannot be brought down so far.
    """
    counts = np.array([int(mask.sum()) for mask in masks], dtype=np.int64)
    if isinstance(limit.table, UnitCost):  # a unit costs the same whatever else is on
        _at_once(limit, limit.table.prices, ceiling, masks, counts, space.min_kept, preference)
        return
    enough = np.ceil((1.0 - LARGEST_CUT) * counts)
    while (cost := limit.table.cost(space.whole(counts))) > ceiling:
        group, unit = _weakest(limit, cost, counts, masks, space, preference, enough)
        masks[group][unit] = False
        counts[group] -= 1


def _weakest(
    limit: Limit,
    cost: float,
    counts: IntArray,
    masks: list[BoolArray],
    space: Space,
    preference: Preference,
    enough: FloatArray,
) -> tuple[int, int]:
    """Group and number of the unit that goes next."""
    best: tuple[bool, float, int, int] | None = None
    for group in np.flatnonzero(counts > space.min_kept).tolist():
        free = masks[group] & ~preference.spared[group]
        choices = np.flatnonzero(free if free.any() else masks[group])
        unit = int(choices[np.argmin(preference.health[group][choices])])
        fewer = counts.copy()
        fewer[group] -= 1
        saving = max(cost - limit.table.cost(space.whole(fewer)), 1e-12)
        score = float(preference.wanted[group] * preference.health[group][unit] / saving)
        found = (not free.any() or bool(counts[group] <= enough[group]), score, int(group), unit)
        best = found if best is None or found < best else best
    if best is None:
        raise _unreachable(limit, cost)
    return best[2], best[3]


def _at_once(
    limit: Limit,
    prices: FloatArray,
    ceiling: float,
    masks: list[BoolArray],
    counts: IntArray,
    min_kept: IntArray,
    preference: Preference,
) -> None:
    """The same by one sort: each group's units in the order they would go, merged by what would go next."""
    excess = limit.table.cost(counts) - ceiling
    if excess <= 0.0:
        return
    columns: list[tuple[BoolArray, FloatArray, IntArray, IntArray]] = []
    for group in np.flatnonzero((counts > min_kept) & (prices > 0.0)).tolist():
        on, health = np.flatnonzero(masks[group]), preference.health[group]
        spared = preference.spared[group][on]
        units = on[np.lexsort((on, health[on], spared))][: counts[group] - min_kept[group]]
        left = counts[group] - np.arange(len(units))
        late = preference.spared[group][units] | (left <= np.ceil((1.0 - LARGEST_CUT) * counts[group]))
        scores = preference.wanted[group] * health[units] / prices[group]
        for tier in (~late, late):  # one that hides behind a healthier one goes directly after it
            scores[tier] = np.maximum.accumulate(scores[tier])
        columns.append((late, scores, np.full(len(units), group, dtype=np.int64), units))
    if not columns:
        raise _unreachable(limit, limit.table.cost(counts))
    late, scores, groups, units = (np.concatenate(column) for column in zip(*columns, strict=True))
    order = np.lexsort((groups, scores, late))  # stable: a group's own order stays
    saved = np.cumsum(prices[groups[order]])
    number = int(np.searchsorted(saved, excess * (1.0 - 1e-12))) + 1
    if number > len(order):
        raise _unreachable(limit, limit.table.cost(counts) - float(saved[-1]))
    for group, unit in zip(groups[order[:number]].tolist(), units[order[:number]].tolist(), strict=True):
        masks[group][unit] = False


def _unreachable(limit: Limit, cost: float) -> SearchError:
    return SearchError(f"{limit.kind} cannot be brought below {cost:,.0f}. Raise the bound or lower lower_bound.")
