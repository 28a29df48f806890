"""Intervals against a published table, McNemar's test against sums of binomial coefficients written out."""

from __future__ import annotations

import numpy as np
import pytest

from tersenet.report import accuracy_interval, mcnemar, wilson_interval


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_intervals_agree_with_the_published_table(successes: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_the_interval_of_a_perfect_score_ends_at_one_and_mirrors_that_of_zero() -> None:
    low, high = wilson_interval(20, 20)
    assert high == 1.0
    assert low == pytest.approx(1 - 0.1611, abs=5e-5)


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(successes, n)


def test_accuracies_in_percent_give_intervals_in_percent() -> None:
    # 81 of 263 again
    assert accuracy_interval(100 * 81 / 263, 263) == pytest.approx((25.53, 36.62), abs=5e-3)


def _correct(only_dense: int, only_compressed: int, both: int = 5, neither: int = 3) -> tuple[list[bool], list[bool]]:
    dense = [True] * only_dense + [False] * only_compressed + [True] * both + [False] * neither
    compressed = [False] * only_dense + [True] * only_compressed + [True] * both + [False] * neither
    return dense, compressed


@pytest.mark.parametrize(
    ("only_dense", "only_compressed", "p_value"),
    [
        (8, 2, 2 * (1 + 10 + 45) / 1024),
        (2, 8, 2 * (1 + 10 + 45) / 1024),
        (6, 0, 2 / 64),
        (3, 3, 1.0),
        (1, 0, 1.0),
        (0, 0, 1.0),
    ],
)
def test_mcnemar_is_the_two_sided_binomial_test_of_the_disagreements(
    only_dense: int, only_compressed: int, p_value: float
) -> None:
    found = mcnemar(*_correct(only_dense, only_compressed))
    assert (found.only_dense_right, found.only_compressed_right) == (only_dense, only_compressed)
    assert found.p_value == pytest.approx(p_value, rel=1e-12)


def test_mcnemar_takes_arrays() -> None:
    dense, compressed = _correct(6, 0)
    assert mcnemar(np.array(dense), np.array(compressed)).p_value == pytest.approx(2 / 64)


def test_answers_to_different_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="num_samples"):
        mcnemar([True, False], [True])
