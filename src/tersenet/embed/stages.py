"""Hand-made states of a walk in stages: each decision's features beside what is left of it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from tersenet.core.protocols import FloatArray


class FeatureStates(nn.Module):
    """Observations of a walk in stages to one state per decision, without anything to learn.

    An observation holds what is left of each decision's channels, then whatever is passed on to every decision.
    """

    features: Tensor

    def __init__(self, features: FloatArray) -> None:
        """``features``: in [0, 1], shape (D, F)."""
        super().__init__()
        self.register_buffer("features", torch.from_numpy(features.astype(np.float32)), persistent=False)

    def forward(self, observations_BS: Tensor) -> Tensor:
        """Features, what is left, and what is passed on, shape (B, D, F + 1 + what is passed on), in [0, 1]."""
        samples, decisions = len(observations_BS), len(self.features)
        kept_BD, rest = observations_BS[:, :decisions], observations_BS[:, decisions:]
        parts = [
            self.features.expand(samples, -1, -1),
            kept_BD[..., None],
            rest[:, None].expand(-1, decisions, -1),
        ]
        return torch.cat(parts, dim=2)
