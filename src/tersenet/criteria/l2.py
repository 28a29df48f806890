"""Filter importance by the Euclidean norm of its weights.

Source: He et al. 2018 (soft filter pruning), arXiv:1808.06866.
Differs: channels with several positions on one weight have the sum of the norms, not the norm of all.
"""

from __future__ import annotations

from torch import Tensor

from tersenet.criteria.base import register


@register
def l2(weight: Tensor) -> Tensor:
    """Score each output channel by the Euclidean norm of its weights; (O, ...) -> (O,)."""
    return weight.flatten(1).square().sum(dim=1).sqrt()
