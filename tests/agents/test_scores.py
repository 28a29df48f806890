"""Rewards as targets, with the numbers written out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from tersenet.agents.scores import RewardScale, scaled


def test_ranks_become_normal_quantiles_whatever_the_distances() -> None:
    # ranks 1, 3, 2 of 3: quantiles of 1/6, 5/6, 1/2
    expected = norm.ppf([1 / 6, 5 / 6, 1 / 2])
    np.testing.assert_allclose(scaled(np.array([0.1, 0.9, 0.899]), "ranks"), expected, atol=1e-12)


def test_equal_rewards_share_a_rank() -> None:
    # ranks 1.5, 1.5, 3
    np.testing.assert_allclose(scaled(np.array([0.2, 0.2, 0.7]), "ranks"), norm.ppf([1 / 3, 1 / 3, 5 / 6]), atol=1e-12)


def test_spread_centres_and_divides() -> None:
    # mean 2, standard deviation sqrt(2/3)
    np.testing.assert_allclose(scaled(np.array([1.0, 2.0, 3.0]), "spread"), np.array([-1.0, 0.0, 1.0]) * np.sqrt(1.5))


@pytest.mark.parametrize("scale", ["ranks", "spread"])
def test_rewards_without_differences_are_all_zero(scale: RewardScale) -> None:
    np.testing.assert_allclose(scaled(np.full(4, 0.3), scale), np.zeros(4), atol=1e-12)
