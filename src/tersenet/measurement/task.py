"""What a network is measured by and trained for; classification unless the user gives his own functions.

Whatever the network returns is handed to the user's functions as it is, so detection, segmentation and regression
need nothing from us.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Metric = Callable[[nn.Module, Iterable[tuple[Any, Any]]], float]
"""``metric(model, batches)``: the model is in eval mode, gradients are off; higher is better."""

Loss = Callable[[Any, Any], Tensor]
"""``loss(outputs, targets)``: one number to descend."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """The user's own metric and loss; None means classification."""

    metric: Metric | None = None
    """Quality of a network; None: top-1 accuracy in percent."""

    metric_name: str = "score"
    """What ``metric`` is called in reports."""

    loss: Loss | None = None
    """What training descends; None: cross-entropy."""

    @property
    def quality_name(self) -> str:
        """What the quality is called in reports: ``top-1`` or the name of the user's metric."""
        return "top-1" if self.metric is None else self.metric_name
