"""Actors and critics of whole plans: all actions of an episode at once, several members of each side by side.

A plan is a vector of N actions in [0, 1]; what is known of each action are E numbers, its own one-hot place among
them, so that members can treat similar decisions alike and still tell every one from the others. A critic's value is
a sum of one curve per action, whose shape its network reads from those numbers, and of a joint network of the whole
plan: the sum is learnt from few episodes, the joint part adds what actions do to each other. All members are computed
by the same few products of stacked matrices.

Axes: M members, B plans, N actions of a plan, E numbers known of an action, H hidden units.

Source: sums of one network per input as in Agarwal et al. 2021 (neural additive models), arXiv:2004.13912; several
critics that disagree where they have seen little as in Osband et al. 2016 (bootstrapped DQN), arXiv:1602.04621.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

CriticParts = Literal["both", "curves", "joint"]
"""What a critic's value is made of: one curve per action, a joint network of the plan, or their sum."""


class PlanCritics(nn.Module):
    """Values of plans, one per member."""

    def __init__(self, known_NE: Tensor, *, num_members: int, hidden: int, parts: CriticParts, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        num_actions = len(known_NE)
        self.parts = parts
        self.register_buffer("known", known_NE, persistent=False)
        self.curves = nn.ParameterDict()
        self.joint = nn.ParameterDict()
        if parts != "joint":
            sizes = (num_members, known_NE.shape[1], hidden)
            for name in ("offset", "slope"):
                self.curves[name] = _uniform(sizes, 0.5, generator)
                self.curves[f"{name}_bias"] = _uniform((num_members, 1, hidden), 0.5, generator)
            self.curves["out"] = _uniform((num_members, hidden, 1), 0.1 / math.sqrt(hidden), generator)
            self.curves["out_bias"] = _uniform((num_members, 1, 1), 0.1 / math.sqrt(hidden), generator)
        if parts != "curves":
            widths = (num_actions, 2 * hidden, 2 * hidden, 1)
            for layer in range(3):
                inputs, outputs = widths[layer], widths[layer + 1]
                bound = 0.1 / math.sqrt(hidden) if layer == 2 else 1.0 / math.sqrt(inputs)
                self.joint[f"weight{layer}"] = _uniform((num_members, inputs, outputs), bound, generator)
                self.joint[f"bias{layer}"] = _uniform((num_members, 1, outputs), bound, generator)

    def forward(self, plans_MBN: Tensor) -> Tensor:
        """Values, shape (M, B)."""
        centred = 2.0 * plans_MBN - 1.0
        parts = []
        if self.parts != "joint":
            parts.append(self._sum_of_curves(centred))
        if self.parts != "curves":
            parts.append(self._joint(centred))
        return torch.stack(parts).sum(dim=0).squeeze(2)

    def _sum_of_curves(self, plans_MBN: Tensor) -> Tensor:
        curves, known = self.curves, self.get_buffer("known")
        offset_MNH = known @ curves["offset"] + curves["offset_bias"]
        slope_MNH = known @ curves["slope"] + curves["slope_bias"]
        hidden_MBNH = torch.relu(offset_MNH[:, None] + plans_MBN[..., None] * slope_MNH[:, None])
        summed_MBH = hidden_MBNH.sum(dim=2) / math.sqrt(len(known))
        return torch.baddbmm(curves["out_bias"], summed_MBH, curves["out"])

    def _joint(self, plans_MBN: Tensor) -> Tensor:
        joint, hidden = self.joint, plans_MBN
        for layer in range(2):
            hidden = torch.relu(torch.baddbmm(joint[f"bias{layer}"], hidden, joint[f"weight{layer}"]))
        return torch.baddbmm(joint["bias2"], hidden, joint["weight2"])


class PlanActors(nn.Module):
    """One plan per member, read from what is known of each action; begins near the middle of the box.

    Not squashed into the box: a squashed action that once reached an end has hardly a gradient to come back by.
    """

    def __init__(self, known_NE: Tensor, *, num_members: int, hidden: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("known", known_NE, persistent=False)
        self.weight0 = _uniform((num_members, known_NE.shape[1], hidden), 0.5, generator)
        self.bias0 = _uniform((num_members, 1, hidden), 0.5, generator)
        self.weight1 = _uniform((num_members, hidden, 1), 0.03, generator)
        self.bias1 = _uniform((num_members, 1, 1), 0.03, generator)

    def forward(self) -> Tensor:
        """Plans around [0, 1], shape (M, N)."""
        hidden_MNH = torch.relu(self.get_buffer("known") @ self.weight0 + self.bias0)
        return 0.5 + torch.baddbmm(self.bias1, hidden_MNH, self.weight1).squeeze(2)


def _uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> nn.Parameter:
    return nn.Parameter((2.0 * torch.rand(shape, generator=generator) - 1.0) * bound)
