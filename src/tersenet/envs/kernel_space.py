"""How many 2-D kernels each layer may keep, and what they cost: every kernel of a layer costs the same."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tersenet.core.policy import Policy
from tersenet.core.protocols import FloatArray, IntArray
from tersenet.envs.switched import SwitchedKernels


@dataclass(frozen=True)
class UnitCost:
    """A sum over units; implements ``CostTable``."""

    base: float
    """What no unit costs."""

    prices: FloatArray
    """Of one unit of each layer, shape (num_decisions,)."""

    def cost(self, num_kept: IntArray) -> float:
        """The cost, of units kept per layer, shape (num_decisions,)."""
        return self.base + float(self.prices @ num_kept)


@dataclass(frozen=True, kw_only=True)
class KernelSpace:
    """Counts of 2-D kernels by layer; implements ``Space``."""

    switched: SwitchedKernels
    """The layers, in the order of the decisions."""

    lower_bound: float
    """Smallest share of its kernels that a layer keeps."""

    @property
    def num_decisions(self) -> int:
        """Layers."""
        return len(self.switched.shapes)

    @property
    def min_kept(self) -> IntArray:
        """Fewest kernels of each layer, at least one."""
        fewest: IntArray = np.maximum(1, np.ceil(self.lower_bound * self.max_kept - 1e-9)).astype(np.int64)
        return fewest

    @property
    def max_kept(self) -> IntArray:
        """All kernels of each layer."""
        return np.array([math.prod(shape) for shape in self.switched.shapes.values()], dtype=np.int64)

    @property
    def means(self) -> str:
        """For messages."""
        return "switching 2-D kernels off"

    @property
    def advice(self) -> str:
        """For messages."""
        return (
            f"every layer keeps at least {100.0 * self.lower_bound:g} % of its kernels, and the last one all. Raise "
            "the bound or lower lower_bound."
        )

    def counts(self, decision: int) -> IntArray:
        """All counts of a layer, ascending."""
        return np.arange(self.min_kept[decision], self.max_kept[decision] + 1, dtype=np.int64)

    def shares(self, decision: int, counts: IntArray) -> FloatArray:
        """Kept kernels over all kernels."""
        shares: FloatArray = counts / self.max_kept[decision]
        return shares

    def above(self, decision: int, count: int) -> int:
        """One more, or ``count`` itself at the top."""
        return min(count + 1, int(self.max_kept[decision]))

    def below(self, decision: int, count: int) -> int:
        """One less, or ``count`` itself at the bottom."""
        return max(count - 1, int(self.min_kept[decision]))

    def nearest(self, decision: int, share: float) -> int:
        """The count nearest to a share; the larger one of two that are as near."""
        size = int(self.max_kept[decision])
        return int(np.clip(math.floor(share * size + 0.5), self.min_kept[decision], size))

    def whole(self, counts: IntArray) -> IntArray:
        """The counts themselves."""
        return counts

    def counts_of(self, policy: Policy) -> IntArray:
        """Kernels that a policy keeps, shape (num_decisions,).

        Raises:
            PolicyError: the policy decides something else.
        """
        return np.array([int(mask.sum()) for mask in self.switched.masks(policy).values()], dtype=np.int64)
