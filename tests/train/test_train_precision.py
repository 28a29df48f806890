"""How a network is trained is a rule, the same whatever else the machine does."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tersenet.measurement.placement import Placement
from tersenet.train import TrainConfig, precision


@pytest.mark.parametrize(
    ("has_bf16", "has_tiles", "autocast", "channels_last"),
    [(True, True, True, False), (True, False, True, True), (False, False, False, True)],
)
def test_format_and_layout_follow_the_processor(
    monkeypatch: pytest.MonkeyPatch, has_bf16: bool, has_tiles: bool, autocast: bool, channels_last: bool
) -> None:
    monkeypatch.setattr(precision, "has_fast_bf16", lambda device: has_bf16)
    monkeypatch.setattr(precision, "has_tiles", lambda device: has_tiles)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    batch = (torch.zeros(4, 1, 5, 5), torch.zeros(4, dtype=torch.int64))
    found = precision.choose_placement(
        model, batch, F.cross_entropy, TrainConfig(seed=0, epochs=1), Placement(device=torch.device("cpu"))
    )
    assert (found.autocast, found.channels_last) == (autocast, channels_last)
    assert all(parameter.grad is None for parameter in model.parameters())
