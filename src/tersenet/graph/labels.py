"""Channel labels, and the book of what is known about them.

A value in the network carries an integer array that names, position by position, the channel it belongs to. The
array is broadcastable: an axis along which the labels do not change has length 1. Positive numbers are channels;
the others are places where no channel can be removed (see ``FIXED``, ``ZERO``, ``INPUT``). Whatever operators say
about channels (these two are the same, this one must stay, this slice of that weight belongs to it) is written into
the book, and solved in ``coupling``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tersenet.graph.model_graph import Role

Labels = NDArray[np.int64]

FIXED = 0
"""A position of a value whose size cannot change."""

ZERO = -1
"""A structural zero: channel padding, or a tensor of zeros made in the forward."""

INPUT = -2
"""A position of the model's input."""

_MEETS = {
    FIXED: "meets a value of fixed size",
    ZERO: "meets the zeros of a channel padding, whose width is fixed in the forward",
    INPUT: "meets the model's input",
}


@dataclass(frozen=True)
class Value:
    """What is known about one tensor of the forward pass."""

    labels: Labels
    """Broadcastable to ``shape``."""

    shape: tuple[int, ...]

    sources: frozenset[str] = frozenset()
    """Layers whose output reaches this value without passing another layer."""

    made_by: str = ""
    """The layer whose output this is, if nothing lies in between."""

    def varies(self, axis: int) -> bool:
        """Whether the labels change along ``axis``."""
        return bool(self.labels.shape[axis] > 1)


class Edges(NamedTuple):
    """Pairs of channels that are the same, and the operator that says so."""

    first: Labels
    second: Labels
    kind: str


class Pin(NamedTuple):
    """Channels that have to stay, and why."""

    labels: Labels
    reason: str


class Split(NamedTuple):
    """A channel axis that was viewed as several axes."""

    labels: Labels
    """In the new shape."""

    where: str

    shrinks: int | None
    """Which of the new axes may shrink, from the end (-1 is the last); None if ties decide."""


@dataclass(frozen=True)
class Use:
    """The channels along one axis of a parameter or buffer, at one place where it is used."""

    labels: Labels
    """One label per position of the axis."""

    role: Role
    scales: str = ""


@dataclass
class LabelBook:
    """Everything that operators said about channels."""

    edges: list[Edges] = field(default_factory=list)
    pins: list[Pin] = field(default_factory=list)
    uses: dict[tuple[str, int], list[Use]] = field(default_factory=dict)
    """By (tensor, axis)."""

    splits: list[Split] = field(default_factory=list)
    """Channel axes that were viewed as several axes."""

    widths: dict[str, Labels] = field(default_factory=dict)
    """Channels seen by modules that have no tensors but check their width, by module."""

    plain: dict[str, Labels] = field(default_factory=dict)
    """Parameters and buffers used as plain values, one label per element."""

    producer_order: list[str] = field(default_factory=list)
    """Layers that issued labels, in order of execution."""

    cut_norms: bool = False
    """Whether channels may be cut whose statistics run over channels."""

    inexact: list[Pin] = field(default_factory=list)
    """Channels that may be cut although removing them is not the same as zeroing them, and why."""

    where: str = ""
    """The operator at work, for reasons."""

    num_labels: int = 1
    """One more than the highest label."""

    _origins: list[tuple[int, int]] = field(default_factory=list)

    def fresh(self, count: int, layer: str = "") -> Labels:
        """Issue ``count`` new labels, shape (count,), in the name of ``layer`` if it produces channels."""
        if layer and layer not in self.producer_order:
            self.producer_order.append(layer)
        labels = np.arange(self.num_labels, self.num_labels + count, dtype=np.int64)
        self._origins.append((count, self.producer_order.index(layer) if layer else -1))
        self.num_labels += count
        return labels

    def origins(self) -> Labels:
        """For each label the place of its layer in ``producer_order``, -1 for none; shape (num_labels,)."""
        counts = [1] + [count for count, _ in self._origins]
        return np.repeat(np.array([-1] + [layer for _, layer in self._origins], dtype=np.int64), counts)

    def pin(self, labels: Labels, reason: str) -> None:
        """Note that these channels have to stay; places without a channel are passed over."""
        real = np.unique(labels[labels > 0])
        if real.size:
            self.pins.append(Pin(real, reason))

    def tie(self, first: Labels, second: Labels, kind: str) -> Labels:
        """Make labels equal position by position; a channel that meets a place without one is pinned.

        Returns:
            One of the two labels for each position, a channel where there is one.
        """
        first, second = np.broadcast_arrays(first, second)
        both = (first > 0) & (second > 0) & (first != second)
        if both.any():
            self.edges.append(Edges(first[both], second[both], kind))
        for channels, others in ((first, second), (second, first)):
            for sentinel, meets in _MEETS.items():
                met = (channels > 0) & (others == sentinel)
                if met.any():
                    self.pin(channels[met], f"{meets} ({self.where})")
        return np.where(first > 0, first, second)

    def tie_along(self, labels: Labels, axis: int, kind: str) -> Labels:
        """Make all labels along ``axis`` equal; the axis has length 1 afterwards."""
        if labels.shape[axis] == 1:
            return labels
        best = np.take(labels, [0], axis=axis)
        for index in range(1, labels.shape[axis]) if not (best > 0).all() else ():
            other = np.take(labels, [index], axis=axis)
            best = np.where(best > 0, best, other)
        self.tie(np.broadcast_to(best, labels.shape), labels, kind)
        return best

    def use(self, tensor: str, axis: int, labels: Labels, role: Role, *, scales: str = "") -> None:
        """Note that the positions along one axis of a parameter or buffer belong to these channels."""
        self.uses.setdefault((tensor, axis), []).append(Use(labels, role, scales))
