"""Channels in random order: the control that every other criterion has to beat.

Source: Li et al. 2022, "Revisiting random channel pruning", arXiv:2205.05676.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tersenet.criteria.base import MemberView, register_group


@register_group("random")
def random(members: Sequence[MemberView], seed: int) -> Tensor:
    """Score each channel by a number in [0, 1) that depends on ``seed`` and the number of channels only."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(len(members[0].positions), generator=generator)
    return scores.to(members[0].weight.device)
