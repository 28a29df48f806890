"""What torch computes of weights, taken off a copy: the same outputs, names of a plain network, the given one whole."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm

from tersenet.transforms import without_parametrizations

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def old_weight_norm(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # which is why users should change, and many have not
        return weight_norm(module)


WAYS: Mapping[str, Callable[[nn.Module], nn.Module]] = {
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "weight norm as a hook": old_weight_norm,
    "spectral norm as a hook": spectral_norm,
}


def network(way: Callable[[nn.Module], nn.Module] = lambda module: module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(way(nn.Conv2d(3, 6, 3)), nn.ReLU(), nn.Flatten(), way(nn.Linear(216, 4, bias=False)))


@pytest.mark.parametrize("way", WAYS)
def test_the_copy_computes_the_same_with_plain_weights(way: str) -> None:
    model = network(WAYS[way])
    for _ in range(3):
        model(IMAGES)  # spectral norm estimates by what it sees in training
    model.eval()
    expected = model(IMAGES).detach()
    plain, layers = without_parametrizations(model)
    assert layers == ("0", "3")
    torch.testing.assert_close(plain(IMAGES), expected)
    # names and order of a network that never had a norm, so that their state dicts can be exchanged
    assert list(plain.state_dict()) == list(network().state_dict())
    assert [name for name, _ in plain.named_parameters()] == ["0.weight", "0.bias", "3.weight"]
    never = network().eval()
    never.load_state_dict(plain.state_dict())
    torch.testing.assert_close(never(IMAGES), expected)
    plain.load_state_dict(never.state_dict())
    assert not parametrize.is_parametrized(plain)
    copy.deepcopy(plain)


@pytest.mark.parametrize("way", WAYS)
def test_the_given_network_is_left_as_it_was(way: str) -> None:
    model = network(WAYS[way]).train()
    model[0].eval()
    model(IMAGES)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain, _ = without_parametrizations(model)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.zero_()
    assert list(model.state_dict()) == list(before)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    for network_now in (plain, model):
        assert [module.training for module in network_now.children()] == [False, True, True, True]
    loss = model(IMAGES).square().sum()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())  # it trains with its norm as before


def test_a_network_without_computed_weights_is_not_copied() -> None:
    model = network()
    assert without_parametrizations(model) == (model, ())
