"""What training with noise found out, for the criteria that rank by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Learned:
    """Scores by layer name; low means redundant. Layers without noise are not named."""

    channels: Mapping[str, Tensor] = field(default_factory=dict)
    """Per output channel, shape (O,), nats."""

    units: Mapping[str, Tensor] = field(default_factory=dict)
    """Per unit inside the weight, of the units' shape: nats, or minus log alpha for single weights."""
