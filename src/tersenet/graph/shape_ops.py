"""Shape operators, executed on the label array itself.

Permutations, views and concatenations need no rule of their own: what they do to the values, they do to the labels.
Two things are added. Sizes and positions written into the forward cannot follow a cut, so channels picked by
position are pinned, and channels that are dealt out in equal parts are tied part by part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tersenet.graph.labels import ZERO, LabelBook, Labels, Split, Value
from tersenet.graph.pointwise import compact, fixed, merge_axes, merged_sources


def _blocks(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[list[int], list[int]]] | None:
    """Pair the axes of two shapes of equal size so that each pair of lists has equal products, as fine as possible."""
    pairs: list[tuple[list[int], list[int]]] = []
    old = [axis for axis, size in enumerate(before) if size != 1]
    new = [axis for axis, size in enumerate(after) if size != 1]
    i = j = 0
    while i < len(old) and j < len(new):
        left, right = [old[i]], [new[j]]
        size_left, size_right = before[old[i]], after[new[j]]
        i, j = i + 1, j + 1
        while size_left != size_right:
            if size_left < size_right:
                if i == len(old):
                    return None
                left.append(old[i])
                size_left *= before[old[i]]
                i += 1
            else:
                if j == len(new):
                    return None
                right.append(new[j])
                size_right *= after[new[j]]
                j += 1
        pairs.append((left, right))
    return pairs if i == len(old) and j == len(new) else None


def reshape(book: LabelBook, value: Value, shape: tuple[int, ...], given: Sequence[int] = ()) -> Value:
    """View the value in another shape; a channel axis that is split into several is noted for later.

    Args:
        given: the new sizes as the forward writes them, with -1 for the one that follows from the others.
    """
    blocks = _blocks(value.shape, shape)
    if blocks is None or 0 in shape:
        book.pin(value.labels, f"a view that cannot be followed ({book.where})")
        return fixed(shape, value.sources)
    expanded = list(value.labels.shape)
    result = [1] * len(shape)
    split_blocks = []
    for left, right in blocks:
        if not any(value.varies(axis) for axis in left):
            continue
        for axis in left:
            expanded[axis] = value.shape[axis]
        for axis in right:
            result[axis] = shape[axis]
        if len(left) > 1 and len(right) > 1:
            book.pin(value.labels, f"a view mixes channels and positions ({book.where})")
        elif len(right) > 1:
            split_blocks.append(right)
    labels = compact(np.broadcast_to(value.labels, expanded).reshape(result))
    for right in split_blocks:
        others = [axis for axis in range(len(shape)) if axis not in right]
        moved = np.transpose(labels, [*others, *right])
        moved = moved.reshape(-1, *(labels.shape[axis] for axis in right))
        # (groups, rest), as in channel shuffles: the number of groups is written into the forward
        shrinks = -1 if len(right) == 2 and len(value.shape) > 2 else None
        if len(given) == len(shape):
            shrinks = next((place - len(right) for place, axis in enumerate(right) if given[axis] == -1), shrinks)
        book.splits.extend(Split(part, book.where, shrinks) for part in moved)
    return Value(labels, shape, value.sources)


def reorder(value: Value, order: Sequence[int]) -> Value:
    """Put the axes into another order."""
    shape = tuple(value.shape[axis] for axis in order)
    return Value(np.transpose(value.labels, order), shape, value.sources)


def expand(value: Value, shape: tuple[int, ...]) -> Value:
    """Broadcast to ``shape``; labels are broadcast by themselves."""
    labels = value.labels.reshape((1,) * (len(shape) - len(value.shape)) + value.labels.shape)
    return Value(labels, shape, value.sources)


def pick(book: LabelBook, value: Value, axis: int, positions: slice, shape: tuple[int, ...]) -> Value:
    """A slice along ``axis``; channels picked by position have to stay, unless all of them are picked."""
    if not value.varies(axis):
        return Value(value.labels, shape, value.sources)
    index = [slice(None)] * len(shape)
    index[axis] = positions
    labels = value.labels[tuple(index)]
    if labels.shape[axis] != value.shape[axis]:
        book.pin(value.labels, f"channels are picked by their position ({book.where})")
    return Value(labels, shape, value.sources)


def select(book: LabelBook, value: Value, axis: int) -> Value:
    """One position along ``axis``, which disappears; of parts side by side, the i-th channels are tied."""
    shape = value.shape[:axis] + value.shape[axis + 1 :]
    labels = merge_axes(book, value, [axis], "select", reason="channels are picked by their position")
    return Value(np.squeeze(labels, axis=axis), shape, value.sources)


def parts(book: LabelBook, value: Value, axis: int, sizes: Sequence[int]) -> list[Value]:
    """Cut into consecutive parts along ``axis``; equal parts tie their i-th channels, unequal ones pin them."""
    shapes = [(*value.shape[:axis], size, *value.shape[axis + 1 :]) for size in sizes]
    if not value.varies(axis) or len(sizes) == 1:
        return [Value(value.labels, shape, value.sources) for shape in shapes]
    pieces = np.split(value.labels, np.cumsum(sizes)[:-1], axis=axis)
    if len(set(sizes)) == 1:
        for piece in pieces[1:]:
            book.tie(pieces[0], piece, "chunk")
    else:
        book.pin(value.labels, f"channels are split at fixed positions ({book.where})")
    return [Value(piece, shape, value.sources) for piece, shape in zip(pieces, shapes, strict=True)]


def concatenate(book: LabelBook, values: Sequence[Value], axis: int, shape: tuple[int, ...]) -> Value:
    """Join along ``axis``; where other axes carry channels as well, the parts are tied there."""
    values = [value for value in values if len(value.shape) == len(shape)]
    lengths = [max(value.labels.shape[k] for value in values) for k in range(len(shape))]
    pieces = [
        np.broadcast_to(value.labels, [*lengths[:axis], value.shape[axis], *lengths[axis + 1 :]]) for value in values
    ]
    labels = np.concatenate(pieces, axis=axis)
    carrying = [k for k, length in enumerate(lengths) if k != axis and length > 1]
    if carrying:
        for other in carrying if lengths[axis] > 1 else [axis]:
            labels = book.tie_along(labels, other, "cat")
    elif (labels == labels.reshape(-1)[0]).all():
        labels = labels[tuple(slice(0, 1) for _ in shape)]
    return Value(labels, shape, merged_sources(values))


def stack(book: LabelBook, values: Sequence[Value], axis: int, shape: tuple[int, ...]) -> Value:
    """Join along a new axis."""
    raised = [
        replace(value, labels=np.expand_dims(value.labels, axis), shape=(*value.shape[:axis], 1, *value.shape[axis:]))
        for value in values
    ]
    return concatenate(book, raised, axis, shape)


def pad(book: LabelBook, value: Value, widths: Sequence[int], shape: tuple[int, ...], mode: str = "constant") -> Value:
    """Pad, ``widths`` as in PyTorch (last axis first); padded channels are structural zeros."""
    labels = value.labels
    for number in range(len(widths) // 2):
        axis = len(shape) - 1 - number
        before, after = widths[2 * number], widths[2 * number + 1]
        if not value.varies(axis) or before == after == 0:
            continue
        if mode != "constant" or before < 0 or after < 0:
            book.pin(value.labels, f"channels are padded by other channels or cut off ({book.where})")
            return fixed(shape, value.sources)
        amounts = [(0, 0)] * len(shape)
        amounts[axis] = (before, after)
        labels = np.pad(labels, amounts, constant_values=ZERO)
    return Value(labels, shape, value.sources)


def repeat(value: Value, times: Sequence[int], shape: tuple[int, ...]) -> Value:
    """Repeat whole axes, ``times`` per axis of the result."""
    raised = expand(value, (1,) * (len(shape) - len(value.shape)) + value.shape)
    counts = [count if raised.varies(axis) else 1 for axis, count in enumerate(times)]
    return Value(np.tile(raised.labels, counts), shape, value.sources)


def _block_first(book: LabelBook, labels: Labels, axis: int, size: int) -> Labels:
    split = labels.reshape(*labels.shape[:axis], -1, size, *labels.shape[axis + 1 :])
    return np.squeeze(book.tie_along(split, axis + 1, "pixel_shuffle"), axis=axis + 1)


def pixel_shuffle(book: LabelBook, value: Value, factor: int, shape: tuple[int, ...]) -> Value:
    """Blocks of factor x factor channels become positions: a block is removed as a whole."""
    axis = len(shape) - 3
    if value.varies(axis + 1) or value.varies(axis + 2):
        book.pin(value.labels, f"channels are mixed with positions ({book.where})")
        return fixed(shape, value.sources)
    labels = _block_first(book, value.labels, axis, factor * factor) if value.varies(axis) else value.labels
    return Value(labels, shape, value.sources)


def pixel_unshuffle(book: LabelBook, value: Value, factor: int, shape: tuple[int, ...]) -> Value:
    """Positions become channels: every channel turns into factor x factor neighbours."""
    axis = len(shape) - 3
    if value.varies(axis + 1) or value.varies(axis + 2):
        book.pin(value.labels, f"channels are mixed with positions ({book.where})")
        return fixed(shape, value.sources)
    labels = np.repeat(value.labels, factor * factor, axis=axis) if value.varies(axis) else value.labels
    return Value(labels, shape, value.sources)


def windows(book: LabelBook, value: Value, size: int, shape: tuple[int, ...]) -> Value:
    """Every window of a map as a column (im2col): each channel turns into ``size`` neighbours."""
    axis = len(value.shape) - 3
    labels = merge_axes(book, value, [axis + 1, axis + 2], "unfold")
    labels = np.repeat(labels, size, axis=axis) if labels.shape[axis] > 1 else labels
    return Value(np.squeeze(labels, axis=axis + 2), shape, value.sources)


def from_windows(book: LabelBook, value: Value, size: int, shape: tuple[int, ...]) -> Value:
    """Columns summed into a map (col2im): a block of ``size`` neighbours is one channel, removed as a whole."""
    axis = len(value.shape) - 2
    labels = merge_axes(book, value, [axis + 1], "fold")
    labels = _block_first(book, labels, axis, size) if labels.shape[axis] > 1 else labels
    return Value(labels[..., None], shape, value.sources)


def channel_shuffle(book: LabelBook, value: Value, groups: int) -> Value:
    """View axis 1 as (groups, rest), swap the two and flatten them again."""
    batch, channels, *rest = value.shape
    split = reshape(book, value, (batch, groups, channels // groups, *rest))
    swapped = reorder(split, [0, 2, 1, *range(3, len(value.shape) + 1)])
    return reshape(book, swapped, value.shape)
