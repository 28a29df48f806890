"""Rewards on numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from tersenet.envs.rewards import accuracy_reward, aec_reward, ceca_reward, error_log_cost, quality_gap


def test_ninety_percent_are_worth_nine_tenths() -> None:
    assert accuracy_reward(90.0) == pytest.approx(0.9)


def test_an_error_of_a_tenth_at_e_to_the_twenty_macs_costs_two() -> None:
    assert error_log_cost(0.1, math.exp(20.0)) == pytest.approx(-2.0)


def test_a_ratio_instead_of_a_cost_is_refused() -> None:
    with pytest.raises(ValueError, match="cost must be above 1"):
        error_log_cost(0.1, 0.5)


def test_a_gap_is_in_percent_of_the_reference() -> None:
    assert quality_gap(98.0, 100.0) == pytest.approx(-2.0)
    assert quality_gap(0.3, 0.2) == pytest.approx(50.0)
    assert quality_gap(-8.0, -10.0) == pytest.approx(20.0)  # a score that is negative, such as minus an error


def test_auto_aec_counts_what_is_saved_only_while_accuracy_is_kept() -> None:
    assert aec_reward(-0.2, after=0.4, tolerance=0.3, penalty=0.1) == pytest.approx(0.6)
    assert aec_reward(-0.5, after=0.4, tolerance=0.3, penalty=0.1) == pytest.approx(-0.05)


def test_auto_ceca_pays_for_being_small_less_the_gap_beyond_the_tolerance() -> None:
    assert ceca_reward(0.4, after=0.06, tolerance=0.3, penalty=0.1) == pytest.approx(0.94)
    assert ceca_reward(-1.3, after=0.06, tolerance=0.3, penalty=0.1) == pytest.approx(0.84)
