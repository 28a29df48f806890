"""A network of your own, with an addition and a concatenation, for the handwritten digits.

Try: tersenet inspect examples/two_branch.py:make --data digits
"""

import torch
from torch import Tensor, nn


class TwoBranch(nn.Module):
    """A residual block, then two branches of different kernel size side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.residual = nn.Sequential(
            nn.Conv2d(24, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 24, 3, padding=1, bias=False),
            nn.BatchNorm2d(24),
        )
        self.narrow = nn.Sequential(nn.Conv2d(24, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.wide = nn.Sequential(nn.Conv2d(24, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.merge = nn.Sequential(nn.Conv2d(48, 48, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(48), nn.ReLU())
        self.classifier = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 1, 8, 8) to logits (N, 10)."""
        x = self.stem(x)
        x = torch.relu(x + self.residual(x))
        x = torch.cat([self.narrow(x), self.wide(x)], dim=1)
        x = self.merge(x)
        return self.classifier(x.mean(dim=(2, 3)))


def make() -> nn.Module:
    """The network, untrained."""
    return TwoBranch()
