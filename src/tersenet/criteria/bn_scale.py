"""Channel importance by the absolute scale of the batch norm behind it.

A channel that its norm scales towards zero contributes little, whatever its weights are.

Source: Liu et al. 2017 (network slimming), arXiv:1708.06519.
Differs: used on networks that were not trained with the sparsity penalty of the paper.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tersenet.criteria.base import MemberView, combine, register_group
from tersenet.errors import PolicyError


@register_group("bn_scale")
def bn_scale(members: Sequence[MemberView], seed: int) -> Tensor:
    """Score each channel by the mean absolute scale of its norms; producers without a norm have no say.

    Raises:
        PolicyError: no producer of the group has a norm.
    """
    scales = [member.norm_scale.detach().abs().float() for member in members if member.norm_scale is not None]
    if not scales:
        raise PolicyError(
            "criterion='bn_scale' needs a normalisation layer with a scale behind the layers of a group, and a group "
            "has none. Use criterion='l1' for that group."
        )
    return combine(scales)
