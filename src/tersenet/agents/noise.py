"""Exploration noise: a normal distribution cut to an interval, and how its width decays.

Source: He et al. 2018 (AMC), arXiv:1802.03494, section 3.2.
Differs: the width ends at a given value at a given trial, so that the schedule fits searches of any length.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr, ndtri

from tersenet.core.protocols import FloatArray


def truncated_normal(
    mean: FloatArray, sigma: float, low: FloatArray, high: FloatArray, rng: np.random.Generator
) -> FloatArray:
    """Draw from normal distributions cut to [low, high], entry by entry, by inverting the distribution function.

    Args:
        mean: centre before cutting, within [low, high], shape (size,).
        sigma: standard deviation before cutting; 0 gives the mean.
        low: shape (size,).
        high: shape (size,).
        rng: source of randomness.

    Returns:
        One draw, shape (size,).
    """
    share = rng.random(mean.shape)
    if sigma == 0.0:
        return mean.copy()
    lowest, highest = ndtr((low - mean) / sigma), ndtr((high - mean) / sigma)
    drawn: FloatArray = mean + sigma * ndtri(lowest + share * (highest - lowest))
    return drawn.clip(low, high)


def decayed_sigma(trial: int, *, start: float, end: float, first: int, last: int) -> float:
    """Width of the noise: ``start`` up to trial ``first``, then exponentially down to ``end`` at trial ``last``."""
    if trial <= first:
        return start
    if trial >= last:
        return end
    return float(start * (end / start) ** ((trial - first) / (last - first)))
