"""Plans shifted by one common amount until they cost what the budget allows, so that gradients know the budget.

What a critic has seen lies on the budget's surface; off it, its values mean nothing. A decoder that shifts all actions
by a common amount puts every plan back onto the surface, and an actor that is trained through the same shift is not
rewarded for asking for more everywhere.

Axes: M members, N actions of a plan.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BISECTIONS = 30


def shifted_to_cost(plans_MN: Tensor, prices_N: Tensor, cost: float) -> Tensor:
    """Shift each plan by one amount, so that it costs ``cost`` once it is clipped to [0, 1].

    Gradients are those of the shift that keeps the cost: what one action gains, those that are not clipped pay for.
    Clipped actions move as if they were not, so that they can come back; ``clipped_through`` does the rest.

    Args:
        plans_MN: plans, shape (M, N).
        prices_N: cost of one unit of each action, at least 0, shape (N,); all 0 means that there is no budget.
        cost: wanted value of ``(plans.clamp(0, 1) * prices).sum(1)``; out of reach, the nearest plan is given.

    Returns:
        Shifted plans, not clipped, shape (M, N).
    """
    if not bool((prices_N > 0.0).any()):
        return plans_MN
    with torch.no_grad():
        low = -plans_MN.amax(dim=1, keepdim=True)
        high = 1.0 - plans_MN.amin(dim=1, keepdim=True)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2.0
            is_over = ((plans_MN + middle).clamp(0.0, 1.0) @ prices_N)[:, None] > cost
            low, high = torch.where(is_over, low, middle), torch.where(is_over, middle, high)
        shift = (low + high) / 2.0
        is_free = (plans_MN + shift > 0.0) & (plans_MN + shift < 1.0)
        weights = prices_N / (is_free * prices_N).sum(dim=1, keepdim=True).clamp_min(float(prices_N.max()) * 0.1)
    # adds nothing to the value; its gradient is that of the shift, which must keep the cost as the plan changes
    return plans_MN + shift - (weights * (plans_MN - plans_MN.detach())).sum(dim=1, keepdim=True)


def clipped_through(plans_MN: Tensor) -> Tensor:
    """Plans clipped to [0, 1] with gradients as if they were not: clipping alone would hold an action for ever."""
    return plans_MN + (plans_MN.clamp(0.0, 1.0) - plans_MN).detach()


def overshoot(plans_MN: Tensor) -> Tensor:
    """Summed squares of how far actions lie outside [0, 1], a scalar."""
    return (plans_MN - plans_MN.clamp(0.0, 1.0)).square().sum()
