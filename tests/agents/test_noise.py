"""Noise against scipy's truncated normal, and its schedule by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tersenet.agents.noise import decayed_sigma, truncated_normal


@pytest.mark.parametrize(("mean", "sigma"), [(0.5, 0.5), (0.0, 0.1), (1.0, 0.5), (0.3, 0.02)])
def test_draws_follow_the_truncated_normal(mean: float, sigma: float) -> None:
    size = 4000
    rng = np.random.default_rng(0)
    drawn = truncated_normal(np.full(size, mean), sigma, np.zeros(size), np.ones(size), rng)
    expected = stats.truncnorm(-mean / sigma, (1.0 - mean) / sigma, loc=mean, scale=sigma)
    assert stats.kstest(drawn, expected.cdf).pvalue > 0.01
    assert drawn.min() >= 0.0
    assert drawn.max() <= 1.0


def test_hardly_any_noise_at_the_edge_stays_finite_and_inside() -> None:
    mean = np.array([0.0, 1.0, 0.5])
    drawn = truncated_normal(mean, 1e-12, np.zeros(3), np.ones(3), np.random.default_rng(0))
    np.testing.assert_allclose(drawn, mean, atol=1e-10)


def test_no_noise_gives_the_mean() -> None:
    mean = np.array([0.25])
    drawn = truncated_normal(mean, 0.0, np.zeros(1), np.ones(1), np.random.default_rng(0))
    assert drawn.tolist() == [0.25]


def test_the_width_is_constant_then_falls_by_equal_factors_then_stays() -> None:
    widths = [decayed_sigma(trial, start=0.8, end=0.05, first=2, last=6) for trial in range(9)]
    # by hand: a factor of 16 in four trials is a half per trial
    assert widths == pytest.approx([0.8, 0.8, 0.8, 0.4, 0.2, 0.1, 0.05, 0.05, 0.05])


def test_a_decay_that_ends_before_it_begins_drops_at_once() -> None:
    assert decayed_sigma(5, start=0.5, end=0.1, first=5, last=3) == 0.5
    assert decayed_sigma(6, start=0.5, end=0.1, first=5, last=3) == 0.1
