"""Rewards of an episode, from what its policy's network measured.

Source: He et al. 2018 (AMC), arXiv:1802.03494, section 3.3, with the released code's scale of accuracies.
Differs: accuracies here are percent, as in ``Metrics``; the paper's top-5 on ImageNet is whatever is handed in.
"""

from __future__ import annotations

import math


def accuracy_reward(quality: float) -> float:
    """The resource-constrained reward: the budget is kept by the environment, so accuracy alone counts.

    Args:
        quality: accuracy in percent, or the user's own score.

    Returns:
        ``0.01 * quality``; for accuracies this is 1 - error.
    """
    return 0.01 * quality


def haq_reward(quality: float) -> float:
    """HAQ's reward: a tenth of the accuracy; the paper subtracts the original's, which a baseline does as well.

    Args:
        quality: accuracy in percent, or the user's own score.

    Source: Wang et al. 2019 (HAQ), arXiv:1811.08886, section 3.4, lambda = 0.1.
    """
    return 0.1 * quality


def error_log_cost(error: float, cost: float) -> float:
    """The accuracy-guaranteed reward: high accuracy first, low cost second.

    Args:
        error: share of wrong answers, in [0, 1].
        cost: MACs or parameters of the compressed network, absolute, above 1 so that the logarithm is positive.

    Returns:
        ``-error * log(cost)``.

    Raises:
        ValueError: ``cost`` is not above 1, which would turn the reward's sign around.
    """
    if not cost > 1.0:
        raise ValueError(f"cost must be above 1 (MACs or parameters, not a ratio), got {cost}")
    return -error * math.log(cost)


def quality_gap(quality: float, reference: float) -> float:
    """How far a quality is above the reference, in percent of it: for accuracies near 100, about points."""
    return 100.0 * (quality - reference) / max(abs(reference), 1e-12)


def aec_reward(gap: float, *, after: float, tolerance: float, penalty: float) -> float:
    """Auto-AEC, accuracy ensured: how small the network is, counted only while its accuracy is kept.

    Args:
        gap: see ``quality_gap``.
        after: cost after the round, over the original cost.
        tolerance: gap below the reference that still counts as kept.
        penalty: what a percent of gap costs, in shares of the original cost.

    Returns:
        ``1 - after`` where accuracy was kept, else ``penalty * gap``, which is negative.

    Source: Khatri and Won 2020 (RACS) for the mode; they give no formula.
    """
    return 1.0 - after if gap >= -tolerance else penalty * gap


def ceca_reward(gap: float, *, after: float, tolerance: float, penalty: float) -> float:
    """Auto-CECA, compression ensured considering the accuracy: how small the network is, less what that cost.

    Args: as for ``aec_reward``; of the gap only what is beyond ``tolerance`` counts.

    Source: Khatri and Won 2020 (RACS) for the mode; they give no formula.
    """
    return 1.0 - after - penalty * max(0.0, -gap - tolerance)
