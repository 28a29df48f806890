"""Channels of coupled groups and units inside layers, decided on one walk in the order of the network.

A layer's share is counted in steps: its positions where these are decided, else thousandths. Hundredths were too
coarse: a wide late layer can do with one weight in two hundred, and the bound is spent better elsewhere.

What an agent asks for is the share itself, or a threshold on scores that can be compared between layers
(``threshold_levels``): equal numbers then mean one threshold for all layers, and a layer where little scores high keeps
little, without anyone having to find out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tersenet.core.policy import KernelDecision, KernelUnit, Policy
from tersenet.core.protocols import FloatArray, IntArray
from tersenet.envs.decisions import ChannelDecisions, DecisionPoint
from tersenet.envs.space import ChannelSpace
from tersenet.errors import PolicyError

STEPS = 1000
"""Shares of a layer's kernels, or of its weights, to choose from."""


@dataclass(frozen=True, kw_only=True)
class JointSpace:
    """Counts of both kinds; numbers inside are those of groups first and of layers then, decisions follow ``order``."""

    channels: ChannelSpace
    """The decided groups; may have none."""

    steps: IntArray
    """Largest count of each layer, at which all of it stays, shape (num_layers,)."""

    fewest: IntArray
    """Smallest count of each layer, shape (num_layers,)."""

    order: IntArray
    """Number behind each decision, a permutation, shape (num_decisions,)."""

    unit: KernelUnit
    unit_criterion: str
    """Which units go first."""

    levels: tuple[FloatArray, ...] = ()
    """Per layer, what an agent asks for to get each count from 0 to all, ascending, shape (steps + 1,); empty: the
    count over all."""

    @property
    def num_decisions(self) -> int:
        """Groups and layers."""
        return len(self.order)

    @property
    def one_threshold(self) -> FloatArray:
        """What to ask for so that all channels stay as far as the budget lets them and all layers have one threshold,
        with ``levels``; without these one share. Shape (num_decisions, 1)."""
        asked: FloatArray = np.array([[float(self._layer(decision) < 0)] for decision in range(self.num_decisions)])
        return asked

    @property
    def lower_bound(self) -> float:
        """Smallest share an agent may ask for."""
        smallest = [self.channels.lower_bound] if self.channels.num_decisions else []
        layers = [float(self._asked(number)[fewest]) for number, fewest in enumerate(self.fewest)]
        return float(min([*smallest, *layers], default=1.0))

    @property
    def min_kept(self) -> IntArray:
        """Smallest counts, shape (num_decisions,)."""
        return np.concatenate([self.channels.min_kept, self.fewest])[self.order]

    @property
    def max_kept(self) -> IntArray:
        """Largest counts, shape (num_decisions,)."""
        return np.concatenate([self.channels.max_kept, self.steps])[self.order]

    @property
    def means(self) -> str:
        """For messages."""
        if not len(self.steps):
            return self.channels.means
        return "cutting channels and pruning inside kernels" if len(self.channels.indices) else "pruning inside kernels"

    @property
    def advice(self) -> str:
        """For messages."""
        return (
            "every group keeps at least lower_bound of its channels, and every layer at least units_lower_bound of "
            "what is inside. Raise the bound, lower these, or prune both channels and kernels."
        )

    def counts(self, decision: int) -> IntArray:
        """All counts of a decision, ascending."""
        number = self._layer(decision)
        if number < 0:
            return self.channels.counts(int(self.order[decision]))
        return np.arange(self.fewest[number], self.steps[number] + 1, dtype=np.int64)

    def shares(self, decision: int, counts: IntArray) -> FloatArray:
        """The shares that stay; of layers with ``levels``, those instead."""
        number = self._layer(decision)
        if number < 0:
            return self.channels.shares(int(self.order[decision]), counts)
        shares: FloatArray = self._asked(number)[counts]
        return shares

    def above(self, decision: int, count: int) -> int:
        """The next larger count, or ``count`` itself at the top."""
        number = self._layer(decision)
        if number < 0:
            return self.channels.above(int(self.order[decision]), count)
        return min(count + 1, int(self.steps[number]))

    def below(self, decision: int, count: int) -> int:
        """The next smaller count, or ``count`` itself at the bottom."""
        number = self._layer(decision)
        if number < 0:
            return self.channels.below(int(self.order[decision]), count)
        return max(count - 1, int(self.fewest[number]))

    def nearest(self, decision: int, share: float) -> int:
        """The count nearest to a share; the larger one of two that are as near."""
        number = self._layer(decision)
        if number < 0:
            return self.channels.nearest(int(self.order[decision]), share)
        fewest = int(self.fewest[number])
        distances = np.abs(self._asked(number)[fewest:] - share).round(12)
        return fewest + int(np.flatnonzero(distances == distances.min())[-1])

    def whole(self, counts: IntArray) -> IntArray:
        """Channels of all groups of the graph, then steps of the layers."""
        numbered = self.numbered(counts)
        num_groups = self.channels.num_decisions
        return np.concatenate([self.channels.whole(numbered[:num_groups]), numbered[num_groups:]])

    def numbered(self, counts: IntArray) -> IntArray:
        """Counts in the order of groups and layers instead of decisions."""
        numbered = np.empty_like(counts)
        numbered[self.order] = counts
        return numbered

    def _layer(self, decision: int) -> int:
        """Number of the layer that is decided; negative for a group."""
        return int(self.order[decision]) - self.channels.num_decisions

    def _asked(self, number: int) -> FloatArray:
        """What an agent asks for to get each count of a layer, shape (steps + 1,)."""
        if self.levels:
            return self.levels[number]
        shares: FloatArray = np.arange(self.steps[number] + 1) / self.steps[number]
        return shares


def threshold_levels(scores: Sequence[FloatArray], steps: IntArray, *, least: float) -> tuple[FloatArray, ...]:
    """Thresholds on a common score as numbers from 0 to 1, for ``JointSpace.levels``.

    A threshold is told by the share g of all layers' units that score as high or higher, on a logarithmic scale, since
    few units are wanted: ``1 - log(g) / log(least)``, and 0 where g is below ``least``.

    Args:
        scores: of each layer's units, any shape; high means needed.
        steps: largest count of each layer, shape (num_layers,).
        least: share that the number 0 stands for, above 0 and below 1.

    Returns:
        Per layer and count, the number of the threshold that leaves it, ascending, shape (steps + 1,).
    """
    every = np.sort(np.concatenate([layer.reshape(-1) for layer in scores]))
    levels = []
    for layer, top in zip(scores, steps, strict=True):
        falling = np.sort(layer.reshape(-1))[::-1]
        left = np.ceil(np.arange(top + 1) / top * len(falling) - 1e-9).astype(np.int64).clip(1)
        above = 1.0 - np.searchsorted(every, falling[left - 1], side="left") / len(every)
        levels.append(1.0 - np.log(above.clip(least)) / np.log(least))
    return tuple(levels)


class JointDecisions:
    """Counts are channels that a group keeps, or the share that a layer keeps inside; what stays whole is not named."""

    def __init__(self, space: JointSpace, group_ids: Sequence[str], layers: Sequence[str], *, criterion: str) -> None:
        """``group_ids`` and ``layers`` in the order of the space's numbers; ``criterion``: which channels go first."""
        self._space = space
        self._channels = ChannelDecisions(group_ids, space.channels.num_channels, criterion=criterion)
        self._layers = tuple(layers)
        points = [*self._channels.points, *(DecisionPoint(kind="kernels", unit=layer) for layer in layers)]
        self.points = tuple(points[int(number)] for number in space.order)

    def policy(self, counts: IntArray) -> Policy:
        """The policy of these counts, shape (num_decisions,)."""
        space, numbered = self._space, self._space.numbered(counts)
        num_groups = space.channels.num_decisions
        kernels = {
            layer: KernelDecision(unit=space.unit, keep_ratio=int(count) / int(steps), criterion=space.unit_criterion)
            for layer, count, steps in zip(self._layers, numbered[num_groups:], space.steps, strict=True)
            if count < steps
        }
        return self._channels.policy(numbered[:num_groups]).model_copy(update={"kernels": kernels})

    def counts(self, policy: Policy) -> IntArray:
        """The counts of a policy, shape (num_decisions,).

        Raises:
            PolicyError: the policy decides what is not decided here, or as a mask or threshold.
        """
        counts = self._space.steps.copy()
        for layer, decision in policy.kernels.items():
            if layer not in self._layers or decision.keep_ratio is None or decision.unit != self._space.unit:
                raise PolicyError(f"The policy prunes inside layer {layer!r}, which is not decided so here.")
            place = self._layers.index(layer)
            counts[place] = round(decision.keep_ratio * int(counts[place]))
        groups = self._channels.counts(policy.model_copy(update={"kernels": {}}))
        return np.concatenate([groups, counts])[self._space.order]
