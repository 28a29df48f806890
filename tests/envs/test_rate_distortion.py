"""Lagrangian allocation against all choices there are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tersenet.core.protocols import FloatArray
from tersenet.envs import Budget, Limit, LookupCost, StorageSpace, level, rate_distortion, scaled_by_loss
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


@pytest.mark.parametrize("maximum", [90.0, 120.0, 200.0, 300.0])
@pytest.mark.parametrize("variances", [[16.0, 1.0, 4.0], [1.0, 0.05, 9.0]])
def test_equal_shares_of_the_loss_are_about_as_good_as_the_best_choice(maximum: float, variances: list[float]) -> None:
    budget, distortions = problem([10.0, 30.0, 20.0], variances, maximum)
    counts = level(scaled_by_loss(SPACE, budget, distortions), budget, np.full(3, 0.5))
    assert budget.fits(counts)
    all_choices = itertools.product(range(1, 7), repeat=3)
    best = min(total(distortions, choice) for choice in all_choices if budget.fits(np.array(choice)))
    assert total(distortions, tuple(counts)) <= 1.5 * best


def test_a_layer_that_is_asked_to_matter_more_gets_more() -> None:
    budget, distortions = problem([10.0, 10.0, 10.0], [16.0, 1.0, 4.0], 120.0)
    scaled = scaled_by_loss(SPACE, budget, distortions)
    np.testing.assert_array_equal(level(scaled, budget, np.array([0.5, 0.5, 0.5])), [5, 3, 4])
    # each bit is a factor of four, so the 16 of two bits are half of the range of 2 ** 8
    np.testing.assert_array_equal(level(scaled, budget, np.array([0.5, 0.75, 0.25])), [5, 4, 3])


def test_shares_of_the_loss_rise_from_0_to_1_and_are_a_half_at_the_price_of_the_budget() -> None:
    budget, distortions = problem([10.0, 10.0, 10.0], [16.0, 1.0, 4.0], 120.0)
    scaled = scaled_by_loss(SPACE, budget, distortions)
    for decision, count in enumerate([5, 3, 4]):
        shares = scaled.shares(decision, SPACE.counts(decision))
        assert (np.diff(shares) > 0).all()
        assert shares[0] > 0.0
        assert shares[-1] < 1.0
        assert shares[count - 1] == pytest.approx(0.5)
        assert scaled.nearest(decision, 0.5) == count


def test_layers_without_any_error_do_not_stop_the_scale() -> None:
    budget, distortions = problem([10.0, 10.0, 10.0], [16.0, 0.0, 4.0], 120.0)
    scaled = scaled_by_loss(SPACE, budget, distortions)
    counts = level(scaled, budget, np.full(3, 0.5))
    assert budget.fits(counts)
    assert all(np.isfinite(scaled.shares(decision, SPACE.counts(decision))).all() for decision in range(3))
