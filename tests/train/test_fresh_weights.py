"""New weights for a network that has some."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tersenet.errors import ModelError
from tersenet.models import build
from tersenet.train.fresh_weights import draw_weights


def test_every_weight_is_new_and_fixed_by_the_seed_alone() -> None:
    first, second, third = (build("digits_cnn") for _ in range(3))
    before = torch.random.get_rng_state()
    for model, seed in ((first, 1), (second, 1), (third, 2)):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(7.0)
        draw_weights(model, seed=seed)
    assert torch.equal(before, torch.random.get_rng_state())
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, second.get_parameter(name))
        assert not (parameter == 7.0).any()
        if parameter.ndim > 1:
            assert not torch.equal(parameter, third.get_parameter(name))


def test_what_cannot_be_drawn_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model.register_parameter("scale", nn.Parameter(torch.ones(1)))
    with pytest.raises(ModelError, match=r"'Sequential' has parameters but no reset_parameters.*start=trained"):
        draw_weights(model, seed=0)
