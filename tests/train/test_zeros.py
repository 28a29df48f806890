"""Pruned weights stay zero in training, whatever is attached to them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tersenet.core.policy import Clusters, Linear, Storage
from tersenet.errors import PolicyError
from tersenet.graph import trace
from tersenet.train import Assignments, attach_coded, detach_coded, held_zeros
from tersenet.transforms import Coder


def a_network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        model.get_parameter("0.weight")[:, 2:4] = 0.0
    return model


def train(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    for step in range(5):
        inputs = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(inputs).square().sum().backward()
        optimizer.step()


def test_zeros_stay_zero_and_the_rest_is_trained() -> None:
    model = a_network()
    weight = model.get_parameter("0.weight")
    before = weight.detach().clone()
    with held_zeros(model, ["0.weight"]):
        train(model)
    assert torch.equal(weight == 0, before == 0)
    assert not torch.equal(weight, before)
    train(model)
    assert not (weight[:, 2:4] == 0).any()  # nothing is held any more


@pytest.mark.parametrize("assignments", ["fixed", "straight_through"])
@pytest.mark.parametrize("form", [Clusters(n_clusters=4), Linear(weight_bits=3)])
def test_zeros_stay_zero_in_coded_weights(form: Storage, assignments: Assignments) -> None:
    model = a_network()
    coded = Coder().code(model, trace(model, torch.randn(1, 6)), {"0": form})
    with held_zeros(model, ["0.weight"]):
        attach_coded(model, coded, assignments=assignments)
        train(model)
        found = detach_coded(model)
    assert (found["0.weight"].values()[:, 2:4] == 0).all()
    assert (model.get_parameter("0.weight")[:, 2:4] == 0).all()


def test_unknown_parameters_are_refused() -> None:
    with pytest.raises(PolicyError, match=r"0\.wieght"), held_zeros(a_network(), ["0.wieght"]):
        pass
