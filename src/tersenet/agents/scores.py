"""Rewards as targets of about unit spread, recomputed from all rewards so far.

Source: normal scores after Blom 1958 in the form (rank - 1/2) / n.
"""

from __future__ import annotations

from typing import Literal

from scipy.special import ndtri
from scipy.stats import rankdata

from tersenet.core.protocols import FloatArray

RewardScale = Literal["ranks", "spread"]
"""``ranks``: the normal quantile of each reward's rank; ``spread``: centred, divided by the standard deviation."""


def scaled(rewards: FloatArray, scale: RewardScale) -> FloatArray:
    """Targets of rewards, same shape; equal rewards have equal targets."""
    if scale == "ranks":
        quantiles: FloatArray = ndtri((rankdata(rewards) - 0.5) / len(rewards))
        return quantiles
    centred: FloatArray = rewards - rewards.mean()
    spread = float(centred.std())
    return centred / spread if spread > 0.0 else centred
