"""How finely each layer's weights are stored: the numbers of clusters, or of bits, to choose from.

An agent's share is linear in bits: for clusters the position of log2(k) between fewest and most, for bits that of b, so
that the same step of an action costs about the same bytes everywhere in the range. Costs are looked up per decision
and count, since the bytes of a layer depend on nothing else.

Source: Wang et al. 2019 (HAQ), arXiv:1811.08886, section 3.2, for the mapping of actions to bits.
Differs: clusters need not be powers of two; the nearest count is taken where the paper rounds a widened range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tersenet.core.protocols import FloatArray, IntArray
from tersenet.errors import TargetError


@dataclass(frozen=True, kw_only=True)
class StorageSpace:
    """The same range of counts for every decided layer."""

    num_decisions: int

    kind: Literal["clusters", "weight_bits"]

    fewest: int
    """Smallest count: clusters or bits."""

    most: int
    """Largest count."""

    powers_of_two: bool = False
    """Whether only powers of two are chosen from, as in papers, where an index has a whole number of bits."""

    lower_bound: float = 0.0
    """Smallest share an agent may ask for."""

    positions: tuple[FloatArray, ...] = ()
    """Per decision the shares of ``counts``, rising, from 0 to 1 over all decisions; empty: linear in bits."""

    def __post_init__(self) -> None:
        lowest, highest = (2, 65536) if self.kind == "clusters" else (1, 8)
        if not lowest <= self.fewest < self.most <= highest:
            raise TargetError(
                f"{self.kind} from {self.fewest} to {self.most}: both must lie between {lowest} and {highest}, the "
                "first below the second."
            )
        if self.powers_of_two and not all(_is_power_of_two(count) for count in (self.fewest, self.most)):
            raise TargetError(
                f"powers_of_two: {self.kind} from {self.fewest} to {self.most} must begin and end with a power of two."
            )

    @property
    def min_kept(self) -> IntArray:
        """Smallest counts, shape (num_decisions,)."""
        return np.full(self.num_decisions, self.fewest, dtype=np.int64)

    @property
    def max_kept(self) -> IntArray:
        """Largest counts, shape (num_decisions,)."""
        return np.full(self.num_decisions, self.most, dtype=np.int64)

    @property
    def means(self) -> str:
        """For messages."""
        return "storing weights as clusters" if self.kind == "clusters" else "storing weights in fewer bits"

    @property
    def advice(self) -> str:
        """For messages."""
        what = "clusters" if self.kind == "clusters" else "bits"
        return f"every layer has at least {self.fewest} {what}. Raise the bound, or lower min_{self.kind}."

    def counts(self, decision: int) -> IntArray:
        """All counts, ascending."""
        if self.powers_of_two:
            return 2 ** np.arange(self.fewest.bit_length() - 1, self.most.bit_length(), dtype=np.int64)
        return np.arange(self.fewest, self.most + 1, dtype=np.int64)

    def shares(self, decision: int, counts: IntArray) -> FloatArray:
        """Positions in the range, from 0 to 1."""
        if self.positions:
            found: FloatArray = self.positions[decision][np.searchsorted(self.counts(decision), counts)]
            return found
        low, high, here = (
            self._scaled(np.array([self.fewest])),
            self._scaled(np.array([self.most])),
            self._scaled(counts),
        )
        positions: FloatArray = (here - low) / (high - low)
        return positions

    def above(self, decision: int, count: int) -> int:
        """The next larger one, up to the largest."""
        return min(2 * count if self.powers_of_two else count + 1, self.most)

    def below(self, decision: int, count: int) -> int:
        """One bit less: half as many clusters, rounded down."""
        return max(count // 2 if self.kind == "clusters" else count - 1, self.fewest)

    def nearest(self, decision: int, share: float) -> int:
        """The count whose position is nearest to a share; the larger one of two that are as near."""
        counts = self.counts(decision)
        distance = np.abs(self.shares(decision, counts) - share)
        return int(counts[len(counts) - 1 - int(np.argmin(distance[::-1]))])

    def whole(self, counts: IntArray) -> IntArray:
        """The counts themselves."""
        return counts

    def _scaled(self, counts: IntArray) -> FloatArray:
        return np.log2(counts.astype(np.float64)) if self.kind == "clusters" else counts.astype(np.float64)


@dataclass(frozen=True)
class LookupCost:
    """A cost that is a sum over decisions of what was computed for each count; implements ``CostTable``."""

    tables: Sequence[FloatArray]
    """Per decision the cost of every count."""

    counts: IntArray
    """The counts that the tables' entries belong to, ascending."""

    rest: float
    """What does not depend on the decisions."""

    def cost(self, num_kept: IntArray) -> float:
        """The cost of these counts, shape (num_decisions,)."""
        chosen = zip(self.tables, np.searchsorted(self.counts, num_kept), strict=True)
        return self.rest + float(sum(table[position] for table, position in chosen))


def _is_power_of_two(count: int) -> bool:
    return count & (count - 1) == 0
