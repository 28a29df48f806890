"""Optimal clusters of numbers: against every partition, the plain recurrence and scikit-learn."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from tersenet.transforms import kmeans
from tersenet.transforms.kmeans import LARGEST_K, cluster, companded_lloyd, linear_init_lloyd, nearest

Floats = NDArray[np.float64]


def drawn(num: int, *, seed: int, kind: str = "laplace") -> Floats:
    rng = np.random.default_rng(seed)
    if kind == "outliers":
        return np.append(rng.normal(size=num - 2), [-1e3, 1e3])
    kinds = {"laplace": rng.laplace(size=num), "cauchy": rng.standard_cauchy(size=num), "uniform": rng.random(num)}
    return kinds[kind]


def spread(values: Floats, weights: Floats) -> float:
    """Squared differences from the weighted mean, summed."""
    mean = (values * weights).sum() / weights.sum()
    return float((weights * (values - mean) ** 2).sum())


def error_of(values: Floats, codebook: Floats) -> float:
    return float(np.square(values[:, None] - codebook).min(axis=1).sum())


def recurrence(values: Floats, weights: Floats, max_k: int) -> Floats:
    """Least error for 1, ..., max_k clusters, by the recurrence over all prefixes and all last clusters."""
    order = np.argsort(values)
    values, weights = values[order], weights[order]
    size = len(values)
    least = np.full((max_k + 1, size + 1), np.inf)
    least[:, 0] = 0.0
    costs = {(i, j): spread(values[i:j], weights[i:j]) for j in range(1, size + 1) for i in range(j)}
    for k in range(1, max_k + 1):
        for j in range(1, size + 1):
            least[k, j] = min(least[k - 1, i] + costs[i, j] for i in range(j))
    return least[1:, size]


def test_small_sets_are_divided_as_the_best_of_all_partitions() -> None:
    for seed in range(20):
        values = np.sort(drawn(9, seed=seed))
        found = cluster(values, max_k=9)
        for k in range(1, 10):
            cuts = itertools.combinations(range(1, 9), k - 1)
            parts = [np.split(values, list(cut)) for cut in cuts]
            best = min(sum(spread(p, np.ones(len(p))) for p in partition) for partition in parts)
            assert found.error(k) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("size", [1, 2, 7, 33, 64])
def test_weighted_values_in_any_order_reach_the_error_of_the_recurrence(size: int) -> None:
    rng = np.random.default_rng(size)
    values, weights = rng.permutation(drawn(size, seed=size)), rng.integers(1, 6, size).astype(float)
    found = cluster(values, max_k=20, weights=weights)
    expected = recurrence(values, weights, 20)
    np.testing.assert_allclose([found.error(k) for k in range(1, 21)], expected, atol=1e-11)


def test_a_weight_counts_as_so_many_equal_values() -> None:
    values, weights = drawn(50, seed=1), np.arange(1, 51)
    weighted, repeated = cluster(values, max_k=12, weights=weights), cluster(np.repeat(values, weights), max_k=12)
    for k in range(1, 13):
        np.testing.assert_allclose(weighted.codebook(k), repeated.codebook(k), rtol=1e-12)
        assert weighted.error(k) == pytest.approx(repeated.error(k))


def test_codebook_error_and_assignment_of_four_numbers_are_as_by_hand() -> None:
    found = cluster([0.0, 10.0, 1.0, 12.0], max_k=2)
    np.testing.assert_array_equal(found.codebook(2), [0.5, 11.0])
    assert found.error(2) == pytest.approx(0.25 + 0.25 + 1.0 + 1.0)
    np.testing.assert_array_equal(found.assign([[0.0, 10.0], [1.0, 12.0]], 2), [[0, 1], [0, 1]])
    np.testing.assert_array_equal(found.codebook(1), [5.75])


def test_as_many_clusters_as_distinct_values_are_the_values() -> None:
    values = np.array([0.1, -3.0, 0.1, 7.25])
    found = cluster(values, max_k=10)
    np.testing.assert_array_equal(found.codebook(3), [-3.0, 0.1, 7.25])
    np.testing.assert_array_equal(found.codebook(10), [-3.0, 0.1, 7.25])
    assert found.error(10) == 0.0
    assert found.max_k == 3


def test_a_large_mean_does_not_drown_the_differences() -> None:
    values = drawn(300, seed=4)
    near, far = cluster(values, max_k=16), cluster(values + 2.0**20, max_k=16)
    assert far.error(16) == pytest.approx(near.error(16), rel=1e-6)


@pytest.mark.parametrize("k", [2, 3, 5, 12, 40])
@pytest.mark.parametrize("num", [700, 9000])
def test_the_error_is_never_above_that_of_scikit_learn(num: int, k: int) -> None:
    values = drawn(num, seed=k)
    other = KMeans(n_clusters=k, n_init=3, tol=0.0, random_state=0).fit(values[:, None])
    assert cluster(values, max_k=k).error(k) <= other.inertia_ * (1.0 + 1e-9)


@pytest.mark.parametrize("kind", ["laplace", "uniform", "cauchy", "outliers"])
def test_binned_values_come_within_a_thousandth_of_the_full_recurrence(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = drawn(6000, seed=7, kind=kind)
    max_k = 40
    binned = cluster(values, max_k=max_k)
    monkeypatch.setattr(kmeans, "_MOST_POINTS", len(values))
    full = cluster(values, max_k=max_k)
    ratios = np.array([binned.error(k) / full.error(k) for k in range(1, max_k + 1)])
    assert ratios.max() < 1.001
    assert ratios.min() > 1.0 - 1e-9
    assert ratios[10:].max() > 1.0  # they were binned


def test_no_more_bins_than_allowed_are_made_and_most_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    exact = kmeans._best_edges
    monkeypatch.setattr(kmeans, "_FEW_CLUSTERS", 0)

    def noting(points: Any, max_k: int) -> Any:
        sizes.append(len(points.values))
        return exact(points, max_k)

    monkeypatch.setattr(kmeans, "_best_edges", noting)
    for kind in ("laplace", "uniform", "cauchy", "outliers"):
        cluster(drawn(6000, seed=7, kind=kind), max_k=3)
    assert all(2000 < size <= 4096 for size in sizes), sizes


def test_lloyd_from_a_linear_start_is_as_by_hand() -> None:
    # start 0, 5, 10: the middle cluster stays empty until the others have moved, then it goes
    np.testing.assert_array_equal(linear_init_lloyd([0.0, 1.0, 9.0, 10.0], 3), [0.5, 9.5])
    # start 0, 10: {0, 4} and {6, 10} -> 2 and 8, the boundary stays
    np.testing.assert_array_equal(linear_init_lloyd([0.0, 4.0, 6.0, 10.0], 2), [2.0, 8.0])


def test_lloyd_from_a_linear_start_ends_where_scikit_learn_does() -> None:
    values = drawn(500, seed=2)
    start = np.linspace(values.min(), values.max(), 6)[:, None]
    other = KMeans(n_clusters=6, init=start, n_init=1, tol=0.0).fit(values[:, None])
    np.testing.assert_allclose(linear_init_lloyd(values, 6), np.sort(other.cluster_centers_[:, 0]), rtol=1e-9)


def test_a_companded_codebook_of_many_entries_is_not_far_from_the_best() -> None:
    values = drawn(2000, seed=3)
    codebook = companded_lloyd(values, 200)
    assert 180 <= len(codebook) <= 200
    best = cluster(values, max_k=200).error(200)
    assert best <= error_of(values, codebook) < 1.5 * best  # half as many entries: 4 times
    np.testing.assert_array_equal(companded_lloyd(values, 2000), np.sort(values))


def test_the_nearest_entry_is_that_of_a_full_comparison_and_of_two_the_lower() -> None:
    codebook, values = np.sort(drawn(9, seed=0)), drawn(400, seed=1)
    np.testing.assert_array_equal(nearest(codebook, values), np.abs(values[:, None] - codebook).argmin(axis=1))
    np.testing.assert_array_equal(nearest(np.array([0.0, 2.0], dtype=np.float16), [1.0, 1.5]), [0, 1])


@pytest.mark.parametrize("bad", [[], [1.0, float("nan")], [float("inf")]])
def test_what_is_no_number_is_refused(bad: list[float]) -> None:
    for function in (lambda: cluster(bad, max_k=2), lambda: linear_init_lloyd(bad, 2), lambda: companded_lloyd(bad, 2)):
        with pytest.raises(ValueError, match="finite"):
            function()


def test_numbers_of_clusters_and_weights_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="max_k=0"):
        cluster([1.0], max_k=0)
    with pytest.raises(ValueError, match="companded_lloyd"):
        cluster([1.0], max_k=LARGEST_K + 1)
    with pytest.raises(ValueError, match="weights must be positive"):
        cluster([1.0, 2.0], max_k=1, weights=[1.0, 0.0])
    with pytest.raises(ValueError, match="k=0"):
        cluster([1.0], max_k=1).codebook(0)
    with pytest.raises(ValueError, match="k=0"):
        linear_init_lloyd([1.0], 0)
