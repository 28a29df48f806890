"""What rounds of switching go by (``envs/kernels.py``): what a network in training tells, and the rules of a round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tersenet.core.protocols import FloatArray

BoolArray = NDArray[np.bool_]
Mode = Literal["auto_aec", "auto_ceca"]


class Signals(Protocol):
    """What a network in training tells about itself."""

    qualities: list[float]
    """Measured after each round so far."""

    @property
    def active(self) -> dict[str, BoolArray]:
        """Which channels are on, by group."""
        ...

    def health(self) -> dict[str, FloatArray]:
        """Health of every channel, by group, comparable between groups."""
        ...


@dataclass(frozen=True, kw_only=True)
class KernelRules:
    """How rounds go and what they are worth."""

    mode: Mode
    num_rounds: int

    reference: float
    """Quality of the original network on the images that rounds are measured on."""

    share: float = 0.05
    """Share of a group's channels that the larger actions switch."""

    reactivate: bool = True
    """Whether channels may be switched on again."""

    ramp: float = 0.6
    """Share of the rounds after which the ceiling is at the target's bounds."""

    settle: float = 0.15
    """Share of the rounds, the last ones, in which nothing is switched on: what comes late cannot show its health."""

    tolerance: float = 0.3
    """Gap to the reference, in percent of it, that counts as kept, since it is measured in the middle of training."""

    penalty: float = 0.1
    """What a percent of gap costs, in shares of the original cost."""

    @property
    def num_actions(self) -> int:
        """Off by a share, off by one, nothing, and with ``reactivate`` on by one, on by a share."""
        return 5 if self.reactivate else 3
