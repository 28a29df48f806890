"""Toy costs, spaces and a toy search problem with a known optimum, for tests of budgets, environments and agents.

The costs are written out in plain numpy, so that nothing here depends on the tables of real networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tersenet.core.protocols import FloatArray, IntArray
from tersenet.envs import Budget, ChannelDecisions, ChannelSpace, DecoderName, LayerwiseEnv, Limit


@dataclass(frozen=True)
class BilinearCost:
    """constant + linear . k + k . pairs . k, the form of the MACs and parameters of a network."""

    constant: float
    linear: FloatArray
    """Shape (num_groups,)."""
    pairs: FloatArray
    """Shape (num_groups, num_groups)."""

    def cost(self, num_kept: IntArray) -> float:
        """The cost of these counts, shape (num_groups,)."""
        return float(self.constant + self.linear @ num_kept + num_kept @ self.pairs @ num_kept)


def chain_cost(channels: Sequence[int]) -> BilinearCost:
    """MACs per output position of a chain of 3x3 convolutions from 3 inputs to these channels to 10 classes."""
    size = len(channels)
    linear, pairs = np.zeros(size), np.zeros((size, size))
    linear[0] += 27.0
    linear[-1] += 10.0
    for first in range(size - 1):
        pairs[first, first + 1] = 9.0
    return BilinearCost(0.0, linear, pairs)


def toy_space(
    channels: Sequence[int], *, lower_bound: float = 0.2, block: int = 1, undecided: Sequence[int] = ()
) -> ChannelSpace:
    """A space over groups of these sizes, all decided but those listed."""
    all_channels = np.array(channels, dtype=np.int64)
    decided = np.array([i for i in range(len(channels)) if i not in undecided], dtype=np.int64)
    num_channels = all_channels[decided]
    fewest = np.maximum(1, np.ceil(lower_bound * num_channels - 1e-9)).astype(np.int64)
    return ChannelSpace(
        indices=decided,
        all_channels=all_channels,
        num_channels=num_channels,
        min_kept=np.minimum(num_channels, -(-fewest // block) * block),
        max_kept=num_channels.copy(),
        block=np.full(len(decided), block, dtype=np.int64),
        lower_bound=lower_bound,
    )


def toy_budget(space: ChannelSpace, table: BilinearCost, max_ratio: float) -> Budget:
    """At most this share of the cost of everything."""
    original = table.cost(space.all_channels)
    return Budget(limits=(Limit(kind="macs", table=table, maximum=max_ratio * original, original=original),))


class ToySearch:
    """Layers that matter differently under one linear budget: concave gains, so the optimum is known.

    The reward of preserve ratios r is sum(importance * (1 - (1 - r)^2)) / sum(importance), with importances between
    0.05 and 1 in random order; every layer costs the same per ratio, as in a residual network of one stage.
    """

    def __init__(self, *, num_decisions: int, decoder: DecoderName, seed: int, max_ratio: float = 0.5) -> None:
        """Draw the importances.

        Args:
            num_decisions: layers.
            decoder: of the environment.
            seed: for the importances.
            max_ratio: share of the cost that may be left.
        """
        order = np.random.default_rng(seed).permutation(num_decisions)
        self.importance = np.geomspace(0.05, 1.0, num_decisions)[order]
        self._space = toy_space([64] * num_decisions)
        linear = np.ones(num_decisions)
        table = BilinearCost(0.0, linear, np.zeros((num_decisions, num_decisions)))
        self._max_ratio = max_ratio
        self.env = LayerwiseEnv(
            self._space,
            toy_budget(self._space, table, max_ratio),
            np.linspace(0.0, 1.0, num_decisions)[:, None],
            decisions=ChannelDecisions(
                [f"layer{i}" for i in range(num_decisions)], self._space.num_channels, criterion="l1"
            ),
            decoder=decoder,
        )

    def reward(self) -> float:
        """Reward of the episode that the environment has just finished."""
        kept = self.env.num_kept(self.env.decode())
        return self._value(kept / self._space.num_channels)

    def uniform(self) -> float:
        """Reward of the same ratio everywhere."""
        return self._value(np.full(len(self.importance), self._max_ratio))

    def optimum(self) -> float:
        """Best reward of real-valued ratios: every gain per cost equal, by bisection on it."""
        low, high = 0.0, 2.0
        for _ in range(60):
            price = (low + high) / 2.0
            ratios = self._ratios_at(price)
            low, high = (price, high) if ratios.mean() > self._max_ratio else (low, price)
        return self._value(self._ratios_at(high))

    def _ratios_at(self, price: float) -> FloatArray:
        ratios: FloatArray = (1.0 - price / (2.0 * self.importance)).clip(self._space.lower_bound, 1.0)
        return ratios

    def _value(self, ratios: FloatArray) -> float:
        return float(self.importance @ (1.0 - (1.0 - ratios) ** 2) / self.importance.sum())
