"""Rewards on numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from tersenet.envs.rewards import accuracy_reward, error_log_cost


def test_ninety_percent_are_worth_nine_tenths() -> None:
    assert accuracy_reward(90.0) == pytest.approx(0.9)


def test_an_error_of_a_tenth_at_e_to_the_twenty_macs_costs_two() -> None:
    assert error_log_cost(0.1, math.exp(20.0)) == pytest.approx(-2.0)


def test_a_ratio_instead_of_a_cost_is_refused() -> None:
    with pytest.raises(ValueError, match="cost must be above 1"):
        error_log_cost(0.1, 0.5)
