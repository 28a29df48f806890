"""Operators that keep positions apart, or merge them along whole axes: sums, gates, pooling, means, softmax.

Elementwise operators make the labels of their operands equal. An operand that is broadcast along the channel axis
says nothing about channels; a single channel that is broadcast over many has to stay.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tersenet.graph.labels import FIXED, LabelBook, Labels, Value


def merged_sources(values: Sequence[Value]) -> frozenset[str]:
    """The layers that reach any of ``values``."""
    return frozenset().union(*(value.sources for value in values))


def _aligned(value: Value, ndim: int) -> tuple[Labels, tuple[int, ...]]:
    missing = ndim - len(value.shape)
    labels = value.labels.reshape((1,) * missing + value.labels.shape)
    return labels, (1,) * missing + value.shape


def pointwise(book: LabelBook, operands: Sequence[Value], shape: tuple[int, ...], kind: str) -> Value:
    """Make the labels of all operands equal, position by position, under broadcasting to ``shape``."""
    aligned = [_aligned(value, len(shape)) for value in operands]
    varying = [any(labels.shape[axis] > 1 for labels, _ in aligned) for axis in range(len(shape))]
    full = tuple(size if varies else 1 for size, varies in zip(shape, varying, strict=True))
    result: Labels | None = None
    for labels, sizes in aligned:
        spread = [varies and own == 1 < size for varies, own, size in zip(varying, sizes, shape, strict=True)]
        has_channels = bool((labels > 0).any())
        if has_channels and any(spread) and labels.size == 1:
            book.pin(labels, f"a single channel is spread over many ({book.where})")
            continue
        says_nothing = all(own == 1 for own, varies in zip(sizes, varying, strict=True) if varies)
        if not has_channels and (any(varying) or result is not None) and says_nothing:
            continue
        here = np.broadcast_to(labels, full)
        result = here if result is None else book.tie(result, here, kind)
    if result is None:
        result = np.full((1,) * len(shape), FIXED, dtype=np.int64)
    return Value(compact(result), shape, merged_sources(operands))


def compact(labels: Labels) -> Labels:
    """Length 1 along every axis on which the labels do not change."""
    for axis, size in enumerate(labels.shape):
        first = np.take(labels, [0], axis=axis) if size > 1 else labels
        if size > 1 and (labels == first).all():
            labels = first
    return np.ascontiguousarray(labels)


def fixed(shape: tuple[int, ...], sources: frozenset[str] = frozenset(), *, sentinel: int = FIXED) -> Value:
    """A value without channels."""
    return Value(np.full((1,) * len(shape), sentinel, dtype=np.int64), shape, sources)


def merge_axes(
    book: LabelBook, value: Value, axes: Sequence[int], kind: str, *, reason: str = "channels are mixed with each other"
) -> Labels:
    """The labels after positions along ``axes`` were mixed (pooling, resizing, a sum, a softmax, a fixed choice).

    Labels that change along ``axes`` and elsewhere too are tied along ``axes``: these positions go or stay together,
    so that what the operator sees along ``axes`` is whole. If they change only there, the operator mixes different
    channels, and they are pinned.
    """
    mixed = [axis for axis in axes if value.varies(axis)]
    if not mixed:
        return value.labels
    if not any(value.varies(axis) for axis in range(len(value.shape)) if axis not in axes):
        book.pin(value.labels, f"{reason} ({book.where})")
        return np.full((1,) * len(value.shape), FIXED, dtype=np.int64)
    labels = value.labels
    for axis in mixed:
        labels = book.tie_along(labels, axis, kind)
    return labels


def along_axis(book: LabelBook, value: Value, axis: int, kind: str) -> Labels:
    """The channels along one axis, one label per position, tied over all other axes.

    Args:
        axis: the channel axis, not negative; axis 0 is taken for the batch if it is not the channel axis.
    """
    size = value.shape[axis]
    if axis > 0 and value.varies(0):
        book.pin(value.labels, f"channels are folded into the batch axis ({book.where})")
        return np.full(size, FIXED, dtype=np.int64)
    others = [other for other in range(len(value.shape)) if other != axis]
    if any(value.varies(other) for other in others) and not value.varies(axis) and size > 1:
        book.pin(value.labels, f"channels are mixed with each other ({book.where})")
        return np.full(size, FIXED, dtype=np.int64)
    labels = value.labels
    for other in others:
        labels = book.tie_along(labels, other, kind)
    return np.broadcast_to(labels.reshape(-1), (size,)).copy()


def reduce_axes(book: LabelBook, value: Value, axes: Sequence[int], shape: tuple[int, ...]) -> Value:
    """A sum, mean or maximum over ``axes``; ``shape`` is the result's, with or without these axes."""
    labels = merge_axes(book, value, axes, "reduction", reason="reduced over the channel axis")
    if len(shape) < len(value.shape):
        labels = np.squeeze(labels, axis=tuple(axes))
    return Value(labels, shape, value.sources)


def coupled_along(book: LabelBook, value: Value, axis: int) -> Value:
    """An operator whose result at one position depends on all others along ``axis`` (softmax, cumulative sums)."""
    labels = merge_axes(book, value, [axis], "softmax", reason="every channel depends on all others")
    return Value(labels, value.shape, value.sources)
