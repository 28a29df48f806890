"""Actor, critic and Q-network: small fully connected networks on observations and actions in [0, 1].

Inputs are shifted to [-1, 1]. Last layers begin near zero, so that the actor starts in the middle of its sigmoid, where
it can move both ways, and the critic near zero, where the centred rewards are.

Axes: B samples, S observation entries, A action entries (of a Q-network: actions to choose from).

Source: He et al. 2018 (AMC), arXiv:1802.03494, section 4 (two hidden layers of 300); initialisation after Lillicrap
et al. 2016 (DDPG), arXiv:1509.02971, section 7.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

_LAST_LAYER_BOUND = 3e-3


class Actor(nn.Module):
    """Observation to action."""

    def __init__(self, observation_size: int, action_size: int, *, hidden: Sequence[int], seed: int) -> None:
        super().__init__()
        self.layers = mlp([observation_size, *hidden, action_size], seed)

    def forward(self, observations_BS: Tensor) -> Tensor:
        """Actions in [0, 1], shape (B, A)."""
        return torch.sigmoid(self.layers(2.0 * observations_BS - 1.0))


class Critic(nn.Module):
    """Observation and action to value."""

    def __init__(self, observation_size: int, action_size: int, *, hidden: Sequence[int], seed: int) -> None:
        super().__init__()
        self.layers = mlp([observation_size + action_size, *hidden, 1], seed)

    def forward(self, observations_BS: Tensor, actions_BA: Tensor) -> Tensor:
        """Values, shape (B,)."""
        joined = torch.cat([observations_BS, actions_BA], dim=1)
        values: Tensor = self.layers(2.0 * joined - 1.0)
        return values.squeeze(1)


class QNetwork(nn.Module):
    """Observation to the values of all actions."""

    def __init__(self, observation_size: int, num_actions: int, *, hidden: Sequence[int], seed: int) -> None:
        super().__init__()
        self.layers = mlp([observation_size, *hidden, num_actions], seed)

    def forward(self, observations_BS: Tensor) -> Tensor:
        """Values, shape (B, A)."""
        values: Tensor = self.layers(2.0 * observations_BS - 1.0)
        return values


def mlp(sizes: Sequence[int], seed: int) -> nn.Sequential:
    """Linear layers of these sizes with ReLU between them; the last one begins near zero."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    last = len(sizes) - 2
    for number, (inputs, outputs) in enumerate(pairwise(sizes)):
        # on meta first: the usual initialisation would draw from the global generator
        linear = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
        bound = _LAST_LAYER_BOUND if number == last else 1.0 / math.sqrt(inputs)
        for parameter in linear.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
        layers += [linear] if number == last else [linear, nn.ReLU()]
    return nn.Sequential(*layers)
