"""What the counts of a walk mean: a policy's channels, clusters or bits.

A decision point is one (kind, unit) of a walk: channels of a coupled group, what stays inside a layer's kernels
(``joint_space.py``), or the form in which a layer is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from tersenet.core.policy import ChannelDecision, Clusters, Linear, Policy, ratio_for
from tersenet.core.protocols import IntArray
from tersenet.errors import PolicyError

Kind = Literal["channels", "kernels", "clusters", "weight_bits"]


@dataclass(frozen=True, kw_only=True)
class DecisionPoint:
    """One decision of a walk."""

    kind: Kind
    """What is decided."""

    unit: str
    """For channels the group's id, else the layer's name."""


class Decisions(Protocol):
    """Counts to policy and back."""

    @property
    def points(self) -> tuple[DecisionPoint, ...]:
        """In the order of the walk."""
        ...

    def policy(self, counts: IntArray) -> Policy:
        """The policy of these counts, shape (num_decisions,)."""
        ...

    def counts(self, policy: Policy) -> IntArray:
        """The counts of a policy, shape (num_decisions,).

        Raises:
            PolicyError: the policy decides what is not decided here.
        """
        ...


class ChannelDecisions:
    """Counts are channels that a group keeps; a group that keeps all is not named in the policy."""

    def __init__(self, group_ids: Sequence[str], num_channels: IntArray, *, criterion: str | Sequence[str]) -> None:
        """``num_channels``: channels of each group, shape (num_decisions,); ``criterion``: which go first, one for all
        groups or one each."""
        self.points = tuple(DecisionPoint(kind="channels", unit=group_id) for group_id in group_ids)
        self._num_channels = num_channels
        self._criteria = [criterion] * len(group_ids) if isinstance(criterion, str) else list(criterion)

    def policy(self, counts: IntArray) -> Policy:
        """Pruning ratios that keep exactly these counts."""
        channels = {}
        rows = zip(self.points, counts, self._num_channels, self._criteria, strict=True)
        for point, kept, available, criterion in rows:
            if kept < available:
                ratio = ratio_for(int(kept), int(available))
                channels[point.unit] = ChannelDecision(pruning_ratio=ratio, criterion=criterion)
        return Policy(channels=channels)

    def counts(self, policy: Policy) -> IntArray:
        """Channels that each group keeps."""
        decided = {point.unit: decision for decision, point in enumerate(self.points)}
        counts = self._num_channels.copy()
        for group_id, channels in policy.channels.items():
            if group_id not in decided:
                raise PolicyError(f"The policy cuts group {group_id!r}, which is not among those decided here.")
            counts[decided[group_id]] = channels.num_kept(int(counts[decided[group_id]]))
        return counts


def storage_form(kind: Literal["clusters", "weight_bits"], count: int) -> Clusters | Linear:
    """The form of storage that a count of this kind stands for."""
    return Clusters(n_clusters=count) if kind == "clusters" else Linear(weight_bits=count)


class StorageDecisions:
    """Counts are the clusters or the bits of a layer's weight; every decided layer is named in the policy."""

    def __init__(self, layers: Sequence[str], *, kind: Literal["clusters", "weight_bits"]) -> None:
        self.points = tuple(DecisionPoint(kind=kind, unit=layer) for layer in layers)
        self._kind = kind

    def policy(self, counts: IntArray) -> Policy:
        """One form of storage per layer."""
        forms = [storage_form(self._kind, int(count)) for count in counts]
        return Policy(storage={point.unit: form for point, form in zip(self.points, forms, strict=True)})

    def counts(self, policy: Policy) -> IntArray:
        """Clusters or bits of each layer."""
        found = []
        for point in self.points:
            form = policy.storage.get(point.unit)
            wanted = Clusters if self._kind == "clusters" else Linear
            if not isinstance(form, wanted):
                raise PolicyError(
                    f"The policy stores layer {point.unit!r} as {form!r}, but its {self._kind} are decided."
                )
            found.append(form.n_clusters if isinstance(form, Clusters) else form.weight_bits)
        strangers = sorted(set(policy.storage) - {point.unit for point in self.points})
        if strangers:
            raise PolicyError(f"The policy stores layer {strangers[0]!r}, which is not among those decided here.")
        return np.array(found, dtype=np.int64)
