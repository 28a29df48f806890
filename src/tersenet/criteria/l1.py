"""Filter importance by the sum of absolute weights.

A filter with small weights makes a weak feature map, so it is the one to remove.

Source: Li et al. 2017, arXiv:1608.08710. Used by: recipes/he2018.py and the controls.
"""

from __future__ import annotations

from torch import Tensor

from tersenet.criteria.base import register


@register
def l1(weight: Tensor) -> Tensor:
    """Score each output channel by the sum of absolute weights; (O, ...) -> (O,)."""
    return weight.abs().flatten(1).sum(dim=1)
