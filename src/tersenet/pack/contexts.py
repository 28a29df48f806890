"""What is known of a weight before it is read: the weights beside it in its kernel.

Kernels of trained networks are smooth: a weight resembles the ones left of it and above it. So all kernels' first
weights are coded first, then all second ones and so on, and each weight belongs to one of a few contexts by what its
neighbours predict. Every context has frequencies of its own. The contexts of a whole plane of weights are known before
any of them is read, which keeps this to a few array operations per plane.

Measured on ResNet-20 and ResNet-56, against the empirical entropy of each tensor's symbols: 11, 10 and 8 % less with
4, 8 and 16 clusters, 9 and 8 % less with linear integers of 3 and 4 bits. Left out, because it gained 0.3 % at most: a
second division by how large a kernel's weights are, first counts taken from other contexts, and contexts for linear
layers and 1x1 convolutions by the size of their rows and columns.

Source: context modelling as in DeepCABAC (Wiedemann et al. 2020, arXiv:1907.11900) and lossless image coding (the
prediction is half of LOCO-I's plane). Differs: contexts are ranks, so that they need no constants per network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_CONTEXTS = 9
"""Contexts of weights that have neighbours; one more is for those that have none."""

MAX_CONTEXTS = 16
"""Most contexts that a reader accepts."""

MIN_KERNELS = 64
"""Fewest kernels for which contexts pay, and for which a reader takes the time."""

MAX_POSITIONS = 1024
"""Most weights of one kernel that a reader takes the time for."""

Shape = tuple[int, ...]
Integers = NDArray[np.unsignedinteger[Any]]


def may_have_contexts(shape: Shape) -> bool:
    """Whether weights of this shape have neighbours, and enough of them."""
    return 1 < math.prod(shape[2:]) <= MAX_POSITIONS and math.prod(shape[:2]) >= MIN_KERNELS


def to_planes(values: Integers, contexts: int) -> Integers:
    """One row per position in the kernel, one column per kernel; a single row if there are no contexts."""
    return values.reshape(math.prod(values.shape[:2]), -1).T if contexts else values.reshape(1, -1)


def from_planes(planes: Integers, shape: Shape, contexts: int) -> Integers:
    """The inverse of ``to_planes``."""
    return np.ascontiguousarray(planes.T if contexts else planes).reshape(shape)


def walk(planes: Integers, shape: Shape, contexts: int) -> Iterator[tuple[int, int, slice | NDArray[np.intp]]]:
    """The order of coding: runs of weights of one position and one context.

    Args:
        planes: of ``to_planes``. A reader fills it in on the way: the rows before a position are used once the walk
            comes to it.
        shape: of the weight.
        contexts: 0, or the number of contexts of weights with neighbours.

    Yields:
        Context (0 for weights without neighbours), position, and which of the position's weights, ascending.
    """
    for position in range(len(planes)):
        prediction = _prediction(planes, position, shape) if contexts else None
        if prediction is None:
            yield 0, position, slice(None)
            continue
        num = len(prediction)
        bounds = np.sort(prediction)[[num * rank // contexts for rank in range(1, contexts)]]
        places = np.searchsorted(bounds, prediction, side="right")
        for context in range(contexts):
            which = np.flatnonzero(places == context)
            if len(which):
                yield context + 1, position, which


def _prediction(planes: Integers, position: int, shape: Shape) -> NDArray[np.int32] | None:
    """What the neighbours predict, up to a factor and a constant; None without neighbours."""
    width = shape[-1]
    height = shape[-2] if len(shape) > 3 else 1
    beside = [position - 1] if position % width > 0 else []
    beside += [position - width] if position // width % height > 0 else []
    if len(beside) == 2:
        left, upper = planes[beside].astype(np.int32)
        both: NDArray[np.int32] = 2 * (left + upper) - planes[position - width - 1]
        return both
    return planes[beside[0]].astype(np.int32) if beside else None
