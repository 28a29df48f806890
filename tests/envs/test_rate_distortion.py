"""Lagrangian allocation against all choices there are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tersenet.core.protocols import FloatArray
from tersenet.envs import Budget, Limit, LookupCost, StorageSpace, rate_distortion
from tersenet.errors import TargetError

SPACE = StorageSpace(num_decisions=3, kind="weight_bits", fewest=1, most=6)


def problem(weights: list[float], variances: list[float], maximum: float) -> tuple[Budget, list[FloatArray]]:
    """Bits cost weights x bits; each bit divides the error by four, as for fine uniform quantisation."""
    bits = np.arange(1.0, 7.0)
    rates = LookupCost([number * bits for number in weights], np.arange(1, 7), 0.0)
    limit = Limit(kind="size_bytes", table=rates, maximum=maximum, original=32.0 * sum(weights))
    return Budget(limits=(limit,)), [
        number * size * 4.0**-bits for number, size in zip(weights, variances, strict=True)
    ]


def total(distortions: list[FloatArray], counts: tuple[int, ...]) -> float:
    return float(sum(one[count - 1] for one, count in zip(distortions, counts, strict=True)))


@pytest.mark.parametrize("maximum", [61.0, 75.0, 111.0, 160.0, 222.0, 360.0])
def test_no_other_choice_within_the_budget_is_much_better(maximum: float) -> None:
    budget, distortions = problem([10.0, 30.0, 20.0], [1.0, 0.05, 9.0], maximum)
    found = rate_distortion(SPACE, budget, distortions)
    assert budget.fits(found)
    all_choices = itertools.product(range(1, 7), repeat=3)
    best = min(total(distortions, choice) for choice in all_choices if budget.fits(np.array(choice)))
    assert total(distortions, tuple(found)) <= 1.3 * best


def test_at_equal_slopes_it_is_the_optimum() -> None:
    # errors 16, 4 and 1 per weight: two bits more each where the error is sixteen times as large
    budget, distortions = problem([10.0, 10.0, 10.0], [16.0, 1.0, 4.0], 10.0 * (5 + 3 + 4))
    np.testing.assert_array_equal(rate_distortion(SPACE, budget, distortions), [5, 3, 4])


@pytest.mark.parametrize("maximum", [60.0, 73.0, 150.0, 359.0])
def test_no_single_step_could_be_added(maximum: float) -> None:
    budget, distortions = problem([10.0, 30.0, 20.0], [1.0, 0.05, 9.0], maximum)
    found = rate_distortion(SPACE, budget, distortions)
    for decision in range(3):
        more = found.copy()
        more[decision] += 1
        assert found[decision] == 6 or not budget.fits(more)


def test_everything_is_kept_where_everything_fits_and_too_little_is_refused() -> None:
    budget, distortions = problem([10.0, 30.0, 20.0], [1.0, 1.0, 1.0], 360.0)
    np.testing.assert_array_equal(rate_distortion(SPACE, budget, distortions), [6, 6, 6])
    budget, distortions = problem([10.0, 30.0, 20.0], [1.0, 1.0, 1.0], 59.0)
    with pytest.raises(TargetError, match="cannot be reached"):
        rate_distortion(SPACE, budget, distortions)


def test_a_layer_that_gains_nothing_gets_what_is_left_and_not_more() -> None:
    bits = np.arange(1.0, 7.0)
    rates = LookupCost([10 * bits] * 3, np.arange(1, 7), 0.0)
    limit = Limit(kind="size_bytes", table=rates, maximum=90.0, original=960.0)
    flat, steep = np.full(6, 1.0), 4.0**-bits
    found = rate_distortion(SPACE, Budget(limits=(limit,)), [flat, steep, flat])
    assert found[1] == 6
    assert found.sum() == 9
