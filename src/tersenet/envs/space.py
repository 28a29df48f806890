"""What is decided, and the counts each decision may choose from.

For channels counts come in steps: a group may keep any multiple of its block, or all of its channels, but not fewer
than its minimum. Arrays over decided groups have shape (num_decisions,), arrays over all groups of the graph
(num_groups,). How weights are stored is decided in ``storage_space.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tersenet.core.policy import ChannelDecision
from tersenet.core.protocols import FloatArray, IntArray
from tersenet.core.rules import ChannelRule
from tersenet.errors import ModelError, TargetError
from tersenet.graph.model_graph import ChannelGroup, ModelGraph


class Space(Protocol):
    """Counts to choose from: channels kept, clusters or bits. A larger count keeps more and costs more."""

    @property
    def num_decisions(self) -> int: ...

    @property
    def min_kept(self) -> IntArray:
        """Smallest count of each decision, shape (num_decisions,)."""
        ...

    @property
    def max_kept(self) -> IntArray:
        """Largest count of each decision, shape (num_decisions,)."""
        ...

    @property
    def lower_bound(self) -> float:
        """Smallest share an agent may ask for."""
        ...

    @property
    def means(self) -> str:
        """What the counts do to the network, for messages: ``cutting channels alone``."""
        ...

    @property
    def advice(self) -> str:
        """What holds costs up, and what to change, for messages; follows ``while``."""
        ...

    def counts(self, decision: int) -> IntArray:
        """All counts of a decision, ascending."""
        ...

    def shares(self, decision: int, counts: IntArray) -> FloatArray:
        """Counts of one decision as what an agent asks for, rising, at most 1; same shape."""
        ...

    def above(self, decision: int, count: int) -> int:
        """The next larger count of a decision, or ``count`` itself at the top."""
        ...

    def below(self, decision: int, count: int) -> int:
        """What a sweep lowers a count of a decision to, or ``count`` itself at the bottom."""
        ...

    def nearest(self, decision: int, share: float) -> int:
        """The count of a decision that is nearest to a share."""
        ...

    def whole(self, counts: IntArray) -> IntArray:
        """Counts as cost tables take them."""
        ...


def shares_of(space: Space, counts: IntArray) -> FloatArray:
    """Counts of all decisions as shares, shape (num_decisions,)."""
    found = [space.shares(decision, counts[decision : decision + 1])[0] for decision in range(space.num_decisions)]
    return np.array(found, dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class ChannelSpace:
    """How many channels each decided group may keep."""

    indices: IntArray
    """Positions of the decided groups in ``graph.channel_groups``, ascending, shape (num_decisions,)."""

    all_channels: IntArray
    """Channels of every group of the graph, shape (num_groups,)."""

    num_channels: IntArray
    """Channels of each decided group, shape (num_decisions,)."""

    min_kept: IntArray
    """Fewest channels each decided group may keep, shape (num_decisions,)."""

    max_kept: IntArray
    """Most channels each decided group may keep, shape (num_decisions,)."""

    block: IntArray
    """Step between counts of each decided group, shape (num_decisions,); the last step up to all may be shorter."""

    lower_bound: float
    """Smallest preserve ratio an agent may ask for."""

    @property
    def num_decisions(self) -> int:
        """Decided groups."""
        return len(self.indices)

    @property
    def means(self) -> str:
        """For messages."""
        return "cutting channels alone"

    @property
    def advice(self) -> str:
        """For messages."""
        return (
            f"every group keeps at least {100.0 * self.lower_bound:g} % of its channels. Raise the bound, lower "
            "lower_bound, or let groups that residual sums tie together be cut as well (prune_residual)."
        )

    def shares(self, decision: int, counts: IntArray) -> FloatArray:
        """Preserve ratios: kept channels over all channels."""
        ratios: FloatArray = counts / self.num_channels[decision]
        return ratios

    def whole(self, num_kept: IntArray) -> IntArray:
        """Counts of all groups, shape (num_groups,): those given for decided groups, all channels of the others."""
        counts = self.all_channels.copy()
        counts[self.indices] = num_kept
        return counts

    def above(self, decision: int, num_kept: int) -> int:
        """The next larger count of a decided group, or ``num_kept`` itself at the top."""
        block = int(self.block[decision])
        return min((num_kept // block + 1) * block, int(self.max_kept[decision]))

    def below(self, decision: int, num_kept: int) -> int:
        """The next smaller count of a decided group, or ``num_kept`` itself at the bottom."""
        return max(self._at_most(decision, num_kept - 1), int(self.min_kept[decision]))

    def nearest(self, decision: int, ratio: float) -> int:
        """The count of a decided group nearest to a preserve ratio; the larger one of two that are as near."""
        wanted = float(ratio) * int(self.num_channels[decision])
        lowest, highest = int(self.min_kept[decision]), int(self.max_kept[decision])
        below = max(lowest, min(highest, self._at_most(decision, wanted)))
        above = self.above(decision, below)
        return above if above - wanted <= wanted - below else below

    def _at_most(self, decision: int, wanted: float) -> int:
        if wanted >= int(self.max_kept[decision]):
            return int(self.max_kept[decision])
        block = int(self.block[decision])
        return math.floor(wanted / block + 1e-9) * block

    def counts(self, decision: int) -> IntArray:
        """All counts a decided group may have, ascending."""
        lowest, highest = int(self.min_kept[decision]), int(self.max_kept[decision])
        steps = np.arange(lowest, highest, int(self.block[decision]), dtype=np.int64)
        return np.append(steps, np.int64(highest))


def channel_space(
    graph: ModelGraph,
    *,
    prune_residual: bool,
    lower_bound: float = 0.2,
    round_to: int = 1,
    round_from: int = 64,
    rules: Mapping[str, ChannelRule] | None = None,
) -> ChannelSpace:
    """The counts that may be decided for a network.

    Args:
        graph: the traced network.
        prune_residual: whether groups that residual sums tie together across several layers are decided too.
        lower_bound: smallest share of its channels that a group keeps, in (0, 1].
        round_to: large groups keep a multiple of this many channels, or all.
        round_from: groups with at least this many channels are large.
        rules: what holds instead for some groups, by group id. A fixed pruning ratio leaves a group one count.

    Raises:
        ModelError: no group can be decided; the message says why.
        TargetError: ``lower_bound`` or ``round_to`` is out of its range.
    """
    if not 0.0 < lower_bound <= 1.0:
        raise TargetError(f"lower_bound={lower_bound} must be above 0 and at most 1; 0.2 is usual.")
    if round_to < 1:
        raise TargetError(f"round_to={round_to} must be at least 1; 8 suits most processors.")
    indices = [i for i, group in enumerate(graph.channel_groups) if is_decided(group, prune_residual)]
    if not indices:
        raise ModelError(_nothing_to_decide(graph, prune_residual))
    all_channels = np.array([group.num_channels for group in graph.channel_groups], dtype=np.int64)
    num_channels = all_channels[indices]
    own = [(rules or {}).get(graph.channel_groups[i].group_id, ChannelRule()) for i in indices]
    blocks = [rule.round_to or (round_to if n >= round_from else 1) for rule, n in zip(own, num_channels, strict=True)]
    block = np.array(blocks, dtype=np.int64)
    bounds = np.array([rule.lower_bound or lower_bound for rule in own])
    fewest = np.maximum(1, np.ceil(bounds * num_channels - 1e-9)).astype(np.int64)
    min_kept, max_kept = np.minimum(num_channels, -(-fewest // block) * block), num_channels.copy()
    for decision, rule in enumerate(own):
        if rule.pruning_ratio is not None:
            fixed = ChannelDecision(pruning_ratio=rule.pruning_ratio).num_kept(int(num_channels[decision]))
            min_kept[decision] = max_kept[decision] = fixed
    return ChannelSpace(
        indices=np.array(indices, dtype=np.int64),
        all_channels=all_channels,
        num_channels=num_channels,
        min_kept=min_kept,
        max_kept=max_kept,
        block=block,
        lower_bound=float(bounds.min()),
    )


def nothing_to_cut(graph: ModelGraph) -> ChannelSpace:
    """The space of a network whose channels are left alone: no decisions."""
    none = np.zeros(0, dtype=np.int64)
    return ChannelSpace(
        indices=none,
        all_channels=np.array([group.num_channels for group in graph.channel_groups], dtype=np.int64),
        num_channels=none,
        min_kept=none,
        max_kept=none,
        block=none,
        lower_bound=1.0,
    )


def is_decided(group: ChannelGroup, prune_residual: bool) -> bool:
    """Whether it is decided how many channels of a group stay."""
    is_residual = "add" in group.joined_by and len(group.producers) > 1
    return group.prunable and group.num_channels > 1 and (prune_residual or not is_residual)


def _nothing_to_decide(graph: ModelGraph, prune_residual: bool) -> str:
    if not prune_residual and any(is_decided(group, True) for group in graph.channel_groups):
        return (
            "Every channel group that could be cut is tied by residual sums, and prune_residual=False keeps those "
            "whole. Set prune_residual=True."
        )
    reasons = sorted({group.reason for group in graph.channel_groups if group.reason})
    because = "; ".join(reasons[:3]) if reasons else "it has no coupled channels of two layers"
    return f"No channel group of the network can be cut: {because}. See `tersenet inspect` for every group."
