"""One-dimensional k-means: sorted values, prefix sums, dynamic programming; one pass serves every number of clusters.

On a line the clusters of an optimal solution are intervals, so that the best k clusters of the first j points are the
best k - 1 clusters of the first i and one more from i to j. The best i grows with j and with k, which leaves a narrow
window to search; all positions of one step length are searched at once. Exact for up to 4,096 distinct values. More
are put into as many bins, narrow where a quantiser's steps are; the boundaries of few clusters, which other methods
find well, are looked at again through finer bins, and all are moved by Lloyd's iteration on the values themselves.
Measured (benchmarks/clustering.py): squared error at most 0.05 % above that of the full recurrence up to k = 256.

Axes: U distinct values or points, ascending; K numbers of clusters. ``edges`` are positions between points: cluster c
of a row holds points ``edges[c]`` to ``edges[c + 1] - 1``; rows with fewer clusters are filled with U.

Source: Wang and Song 2011 (Ckmeans.1d.dp), R Journal 3(2), eq. 1; Grønlund et al. 2017, arXiv:1701.07204, section 2.2
(divide and conquer). Bins: Panter and Dite 1951 (steps as the cube root of the density). Linear start: Han et al. 2016,
arXiv:1510.00149, section 3.2. Differs: every k from one pass, windows bounded by the solution for k - 1 as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LARGEST_K = 1024
"""Most clusters that one pass is made for; ``companded_lloyd`` serves more."""

_MOST_POINTS = 4096
_POINTS_PER_CLUSTER = 16
_FEW_CLUSTERS = 32
_FINER = 32
_LLOYD_STEPS = 10
_NEIGHBOURS = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Clusterings:
    """The best clusters of some values, for every k from 1 to ``max_k``."""

    values: Floats
    """Distinct values, ascending, shape (U,)."""

    weights: Floats
    """How often each occurs, shape (U,)."""

    edges: Ints
    """Row k - 1: where the clusters of k begin and end, shape (K, K + 1)."""

    @property
    def max_k(self) -> int:
        """Largest k that changes anything: at most the number of distinct values."""
        return len(self.edges)

    def codebook(self, k: int) -> Floats:
        """Means of the k clusters, ascending; fewer if there are fewer distinct values, then the values themselves.

        Raises:
            ValueError: ``k`` is below 1.
        """
        edges = self._edges(k)
        sums = np.add.reduceat(self.values * self.weights, edges[:-1])
        return np.asarray(sums / np.add.reduceat(self.weights, edges[:-1]))

    def error(self, k: int) -> float:
        """Sum of squared differences between the values and the means of their clusters."""
        means = np.repeat(self.codebook(k), np.diff(self._edges(k)))
        return float(self.weights @ np.square(self.values - means))

    def assign(self, values: ArrayLike, k: int) -> Ints:
        """Entry of ``codebook(k)`` for every one of ``values``, in their shape."""
        return nearest(self.codebook(k), values)

    def _edges(self, k: int) -> Ints:
        if k < 1:
            raise ValueError(f"k={k}: there must be at least 1 cluster.")
        return np.unique(self.edges[min(k, self.max_k) - 1])


def cluster(values: ArrayLike, *, max_k: int, weights: ArrayLike | None = None) -> Clusterings:
    """Cluster for every k from 1 to ``max_k`` at once.

    Sums run over float64 differences from the mean, so that errors below about 1e-13 of the total sum of squares are
    lost in rounding.

    Args:
        values: any shape, any order.
        max_k: largest number of clusters.
        weights: how often each value counts, positive, same shape; None: once.

    Raises:
        ValueError: there are no values or some are not finite, a weight is not positive, or ``max_k`` is not between 1
            and ``LARGEST_K``.
    """
    if not 1 <= max_k <= LARGEST_K:
        raise ValueError(f"max_k={max_k}: give 1 to {LARGEST_K} (companded_lloyd finds one codebook of more).")
    points = _distinct(values, weights)
    size = len(points.values)
    most = max(_MOST_POINTS, _POINTS_PER_CLUSTER * max_k)
    max_k = min(max_k, size)
    if size <= most:
        edges = _best_edges(points, max_k)
    else:
        bins = _companded(points, most)
        edges = _binned(points, bins, max_k)
        few = min(_FEW_CLUSTERS, max_k)
        edges[:few, : few + 1] = _binned(points, _finer(bins, edges[:few]), few)
        edges = _lloyd(points, _means(points, edges), steps=_LLOYD_STEPS)
    return Clusterings(values=points.values, weights=np.diff(points.weight), edges=edges)


def linear_init_lloyd(values: ArrayLike, k: int, *, steps: int = 300) -> Floats:
    """Codebook of Deep Compression: entries spread evenly from the smallest to the largest value, then Lloyd.

    Args:
        values: any shape.
        k: number of entries.
        steps: most iterations; fewer where nothing changes any more.

    Returns:
        Means of the clusters that hold a value, ascending, shape (at most k,).

    Raises:
        ValueError: there are no values, some are not finite, or ``k`` is below 1.
    """
    points = _distinct(values, None)
    if k < 1:
        raise ValueError(f"k={k}: there must be at least 1 cluster.")
    start = np.linspace(points.values[0], points.values[-1], k) - points.center
    return _codebook(points, _lloyd(points, start, steps=steps))


def companded_lloyd(values: ArrayLike, k: int, *, steps: int = 100) -> Floats:
    """Codebook of very many entries, not the best one: steps as the cube root of the density, then Lloyd.

    With ten values per entry its error is 1.4 times the least, with more values less.

    Args:
        values: any shape.
        k: number of entries.
        steps: most iterations.

    Returns:
        Means of the clusters, ascending, shape (at most k,); the values themselves where k reaches their number.

    Raises:
        ValueError: there are no values, some are not finite, or ``k`` is below 1.
    """
    points = _distinct(values, None)
    if k < 1:
        raise ValueError(f"k={k}: there must be at least 1 cluster.")
    if k >= len(points.values):
        return points.values
    return _codebook(points, _lloyd(points, _means(points, _companded(points, k)), steps=steps))


def nearest(codebook: NDArray[np.floating[Any]], values: ArrayLike) -> Ints:
    """Entry of an ascending codebook that is nearest to each value, in the shape of ``values``; of two the lower."""
    return _between(codebook.astype(np.float64)).searchsorted(np.asarray(values, dtype=np.float64))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Points:
    """Distinct values and their prefix sums, shape (U + 1,), of weight, weight times value and its square."""

    values: Floats
    center: float
    """Mean; the sums are of differences from it."""
    weight: Floats
    first: Floats
    second: Floats


def _distinct(values: ArrayLike, weights: ArrayLike | None) -> _Points:
    flat = np.asarray(values, dtype=np.float64).reshape(-1)
    if not flat.size or not np.isfinite(flat).all():
        raise ValueError(f"values must be finite numbers, at least one; got {flat.size} values.")
    if weights is None:
        distinct, counts = np.unique(flat, return_counts=True)
        return _points(distinct, counts.astype(np.float64))
    given = np.asarray(weights, dtype=np.float64).reshape(-1)
    if given.shape != flat.shape or not (given > 0).all() or not np.isfinite(given).all():
        raise ValueError(f"weights must be positive, one for each of the {flat.size} values; got {given.size}.")
    distinct, which = np.unique(flat, return_inverse=True)
    return _points(distinct, np.bincount(which, weights=given).astype(np.float64))


def _points(values: Floats, weights: Floats) -> _Points:
    center = float(values @ weights / weights.sum())
    centred = values - center
    return _Points(
        values=values,
        center=center,
        weight=_prefix(weights),
        first=_prefix(weights * centred),
        second=_prefix(weights * centred * centred),
    )


def _prefix(terms: Floats) -> Floats:
    return np.concatenate(([0.0], np.cumsum(terms)))


def _best_edges(points: _Points, max_k: int) -> Ints:
    """The recurrence for every k up to ``max_k``, at most U, and the way back from its end; shape (K, K + 1)."""
    size = len(points.values)
    last = np.zeros((max_k + 1, size + 1), dtype=np.int32)  # where the last of k clusters begins
    errors = points.second.copy()
    errors[1:] -= np.square(points.first[1:]) / points.weight[1:]
    for k in range(2, max_k + 1):
        errors, last[k] = _one_more(points, errors, last[k - 1], k)
    edges = np.full((max_k, max_k + 1), size, dtype=np.int64)
    edges[:, 0] = 0
    for k in range(max_k, 1, -1):
        edges[k - 1 :, k - 1] = last[k, edges[k - 1 :, k]]
    return edges


def _one_more(points: _Points, errors: Floats, before: NDArray[np.int32], k: int) -> tuple[Floats, Ints]:
    """Squared error of k clusters of the first 0, ..., U points, and where the last of them begins.

    Positions are visited in steps of powers of two, counted from U: first those some clusters apart, then those
    halfway between positions that are known, whose windows are bounded on both sides.

    Args:
        errors: of k - 1 clusters.
        before: where the last of k - 1 clusters begins, a lower bound.
    """
    size = len(points.values)
    offset = errors - points.second
    found, begins = np.zeros(size + 1), np.arange(-1, size)  # up to k points: each its own cluster
    begins[0] = 0
    step = 1 << max(0, (size // k).bit_length() - 1)
    at = np.arange(size, k, -step)[::-1]
    low, high = np.maximum(before[at], k - 1), at - 1
    while True:
        if len(at):
            least, begins[at] = _least(points, offset, at, low, high)
            found[at] = np.maximum(least + points.second[at], 0.0)
        if step == 1:
            return found, begins
        step //= 2
        at = np.arange(size - step, k, -2 * step)[::-1]
        low = np.maximum(before[at], begins[np.maximum(at - step, k)])
        high = np.minimum(begins[at + step], at - 1)


def _least(points: _Points, offset: Floats, at: Ints, low: Ints, high: Ints) -> tuple[Floats, Ints]:
    """Least of ``offset[i] - (first[at] - first[i])^2 / (weight[at] - weight[i])`` over i from low to high, and its i.

    The windows of all positions lie one after the other in long arrays.
    """
    widths = high - low + 1
    ends = np.cumsum(widths)
    starts = ends - widths
    i = np.arange(ends[-1]) + np.repeat(low - starts, widths)
    gain = np.repeat(points.first[at], widths)
    gain -= points.first.take(i)
    gain *= gain
    weight = np.repeat(points.weight[at], widths)
    weight -= points.weight.take(i)
    gain /= weight
    totals = offset.take(i)
    totals -= gain
    least = np.minimum.reduceat(totals, starts)
    hits = np.flatnonzero(totals == np.repeat(least, widths))
    return least, i[hits[np.searchsorted(hits, starts)]]


def _companded(points: _Points, num_bins: int) -> Ints:
    """Edges of at most ``num_bins`` bins, nearly that many, with steps as the cube root of the density of values.

    The density around a value is the weight of its neighbours over the gap they span.
    """
    size = len(points.values)
    below = np.maximum(np.arange(size) - _NEIGHBOURS, 0)
    above = np.minimum(np.arange(size) + _NEIGHBOURS, size - 1)
    gaps = points.values[above] - points.values[below]
    places = np.cumsum(np.cbrt((points.weight[above + 1] - points.weight[below]) * np.square(gaps)))
    places /= places[-1] * (1.0 + 1e-12)
    edges = np.array([0, size])
    asked = float(num_bins)
    for _ in range(4):  # bins between far values are empty: ask for more until enough are not
        numbers = np.floor(places * asked)
        tried = np.concatenate(([0], np.flatnonzero(np.diff(numbers)) + 1, [size]))
        if len(tried) - 1 > num_bins:
            break
        edges = tried
        asked *= num_bins / (len(tried) - 1)
    if len(edges) <= num_bins // 2:  # a few values are so far away that all others are in a handful of bins
        edges = np.unique(np.concatenate((edges, np.linspace(0, size, num_bins // 2 + 1).astype(np.int64))))
    return edges


def _finer(bins: Ints, edges: Ints) -> Ints:
    """The bins, with those next to any of these edges divided."""
    places = np.searchsorted(bins, np.unique(edges))
    low, high = bins[np.maximum(places - 1, 0)], bins[np.minimum(places + 1, len(bins) - 1)]
    return np.unique(np.concatenate((bins, np.linspace(low, high, _FINER + 1).astype(np.int64).reshape(-1))))


def _binned(points: _Points, bins: Ints, max_k: int) -> Ints:
    """Best edges among those of the bins, shape (K, K + 1) with K at most the number of bins."""
    weights = np.diff(points.weight[bins])
    means = np.diff(points.first[bins]) / weights
    return bins[_best_edges(_points(means, weights), max_k)]


def _lloyd(points: _Points, means: Floats, *, steps: int) -> Ints:
    """Lloyd's iteration from some means, shape (..., k), ascending, infinite where unused; an empty cluster waits."""
    centred = points.values - points.center
    edges = np.zeros(0, dtype=np.int64)
    for _ in range(steps):
        inner = np.searchsorted(centred, _between(means))
        ends = np.zeros((*means.shape[:-1], 1), dtype=np.int64)
        moved = np.concatenate((ends, inner, ends + len(centred)), axis=-1)
        if np.array_equal(moved, edges):
            break
        edges = moved
        means = _means(points, edges, empty=means)
    return edges


def _between(means: Floats) -> Floats:
    return 0.5 * (means[..., :-1] + means[..., 1:])


def _means(points: _Points, edges: Ints, *, empty: Floats | float = np.inf) -> Floats:
    """Means of clusters less the mean of all values, shape (..., k)."""
    weights = np.diff(points.weight[edges], axis=-1)
    sums = np.diff(points.first[edges], axis=-1)
    return np.where(weights > 0, sums / np.where(weights > 0, weights, 1.0), empty)


def _codebook(points: _Points, edges: Ints) -> Floats:
    means = _means(points, edges)
    return np.asarray(means[np.isfinite(means)] + points.center)
