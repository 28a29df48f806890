"""Copies are what ``copy.deepcopy`` makes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from tersenet.errors import ModelError
from tersenet.graph import duplicate
from tersenet.testing.networks import NETWORKS, build


class Referring(nn.Module):
    """Modules that are also kept in a list, a hook that knows its module, and attributes of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.again: nn.Module = self.one
        self.pairs = [(self.one, self.two)]
        self.sizes, self.names, self.nothing = {"a": [1, 2]}, ("x", "y"), list[int]()
        self.one.register_forward_hook(self.seen)

    def seen(self, module: nn.Module, given: Any, made: Any) -> None:
        self.nothing.append(1)


class Stubborn(nn.Linear):
    """Says itself how it is copied."""

    def __deepcopy__(self, memo: dict[int, object]) -> Stubborn:
        return self


@pytest.mark.parametrize("name", NETWORKS)
def test_copies_hold_the_same_and_share_nothing(name: str) -> None:
    model = build(name).train()
    model.get_parameter(next(iter(dict(model.named_parameters())))).requires_grad_(False)
    ours, expected = duplicate(model), copy.deepcopy(model)
    assert repr(ours) == repr(expected)
    for one, two, given in zip(ours.modules(), expected.modules(), model.modules(), strict=True):
        assert type(one) is type(two)
        assert one is not given
        assert list(vars(one)) == list(vars(two))
        assert one.training == two.training
    for mine, other, own in zip(ours.parameters(), expected.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, other)
        assert mine.requires_grad == other.requires_grad
        assert mine.data_ptr() != own.data_ptr()
    assert ours.state_dict().keys() == expected.state_dict().keys()


def test_what_is_shared_inside_stays_shared_inside() -> None:
    model = Referring()
    made = duplicate(model)
    assert isinstance(made, Referring)
    assert made.again is made.one
    assert made.pairs[0] == (made.one, made.two)
    assert made.pairs[0][0] is not model.one
    assert made.sizes == {"a": [1, 2]}
    assert made.sizes["a"] is not model.sizes["a"]
    made.one(torch.zeros(1, 3, 2, 2))
    assert (len(made.nothing), len(model.nothing)) == (1, 0)


def test_a_module_that_copies_itself_is_asked_to() -> None:
    model = nn.Sequential(nn.ReLU(), Stubborn(2, 2))
    made = duplicate(model)
    assert made is not model
    assert made.get_submodule("1") is model.get_submodule("1")


def test_objects_that_stand_for_others_are_put_in_place() -> None:
    model = build("plain")
    weight = nn.Parameter(torch.zeros(8, 3, 3, 3))
    made = duplicate(model, {id(model.get_parameter("conv1.weight")): weight})
    assert made.get_parameter("conv1.weight") is weight


def test_what_cannot_be_copied_is_an_error() -> None:
    model = nn.Linear(2, 2)
    model.__dict__["kept"] = model(torch.zeros(1, 2))
    with pytest.raises(ModelError, match=r"copy\.deepcopy"):
        duplicate(model)
