"""Budgets, and what can be reached within them: several upper bounds that hold together."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tersenet.core.protocols import CostTable, IntArray
from tersenet.core.target import CostKind
from tersenet.envs.space import Space
from tersenet.errors import TargetError

_BOUND_NAMES: dict[CostKind, str] = {
    "macs": "max_macs_ratio",
    "params": "max_params_ratio",
    "size_bytes": "max_size_ratio",
}


@dataclass(frozen=True, kw_only=True)
class Limit:
    """An upper bound on one cost."""

    kind: CostKind
    """Which cost."""

    table: CostTable
    """Cost as a function of all counts (``Space.whole``); should not fall when a count grows."""

    maximum: float
    """Largest cost allowed, absolute."""

    original: float
    """Cost of the uncompressed network, absolute."""

    asked: str = ""
    """The bound as the user gave it, for messages; empty where nobody did."""


def nonzero_params_limit(table: CostTable, *, original: float, max_nonzero_ratio: float | None) -> Limit:
    """The bound of recipes that prune inside layers on parameters that are not zero; without a ratio everything fits.

    Args:
        table: parameters that are not zero.
        original: parameters of the uncompressed network.
        max_nonzero_ratio: share of them, as the user gave it.
    """
    return Limit(
        kind="nonzero_params",
        table=table,
        maximum=math.inf if max_nonzero_ratio is None else max_nonzero_ratio * original,
        original=original,
        asked="" if max_nonzero_ratio is None else f"max_nonzero_ratio={max_nonzero_ratio:g}",
    )


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Upper bounds that hold together; without any, everything fits."""

    limits: tuple[Limit, ...]

    def fits(self, num_kept: IntArray) -> bool:
        """Whether no bound is exceeded.

        Args:
            num_kept: counts as ``Space.whole`` gives them; for channels those kept per group, shape (num_groups,).
        """
        return all(limit.table.cost(num_kept) <= limit.maximum for limit in self.limits)

    def ratios(self, num_kept: IntArray) -> dict[str, float]:
        """Cost over original cost, by kind; ``num_kept`` as for ``fits``."""
        return {limit.kind: limit.table.cost(num_kept) / limit.original for limit in self.limits}


def reachable(space: Space, table: CostTable) -> float:
    """The smallest cost that any choice can reach, absolute, in the units of the table."""
    return table.cost(space.whole(space.min_kept))


def refuse_unreachable(space: Space, budget: Budget) -> None:
    """Refuse a budget that no choice can keep.

    Raises:
        TargetError: a bound is below what can be reached; the message says how far the cost can be brought down.
    """
    for limit in budget.limits:
        smallest = reachable(space, limit.table)
        if smallest > limit.maximum:
            raise TargetError(
                f"Target: {limit.asked or _as_ratio(limit)} ({limit.maximum:,.0f} of {limit.original:,.0f}) cannot be "
                f"reached: {space.means} gets {limit.kind} down to {100.0 * smallest / limit.original:.1f} % "
                f"({smallest:,.0f}) while {space.advice}"
            )


def _as_ratio(limit: Limit) -> str:
    return f"{_BOUND_NAMES[limit.kind]}={limit.maximum / limit.original:.4g}"
