"""Outputs of every shape, layers that only run in training, results that nobody reads."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from tersenet.core.policy import ChannelDecision, Policy
from tersenet.errors import ModelError
from tersenet.graph import tensors_in, trace
from tersenet.testing.invariant import assert_cut_equals_zeroed
from tersenet.transforms import check_cut, make_plan, materialize

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@dataclass
class Made:
    scores: Tensor
    more: dict[str, tuple[Tensor, ...]]


class Returning(nn.Module):
    """Two convolutions; what comes out is up to ``how``."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.first, self.last, self.how = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 1), how

    def forward(self, x: Tensor, y: Tensor | None = None) -> object:
        x = torch.relu(self.first(x))
        scores = self.last(x if y is None else x + self.first(y))
        if self.how == "dataclass":
            return Made(scores, {"mean": (scores.mean((2, 3)),)})
        if self.how == "namespace":
            return SimpleNamespace(scores=scores)
        return "nothing"


@pytest.mark.parametrize("how", ["dataclass", "namespace"])
@pytest.mark.parametrize("count", [1, 2])
def test_any_outputs_and_several_inputs_are_traced_and_compared(how: str, count: int) -> None:
    assert_cut_equals_zeroed(Returning(how), (IMAGES, IMAGES.flip(3))[:count], seed=0)


def test_tensors_are_found_in_order_wherever_they_are() -> None:
    one, two, three = (torch.tensor(float(number)) for number in range(3))
    assert tensors_in(Made(one, {"a": (two, three)})) == [one, two, three]
    assert tensors_in([None, {"x": SimpleNamespace(y=two)}, "text"]) == [two]


def test_a_network_whose_outputs_cannot_be_compared_is_refused() -> None:
    model = Returning("nothing")
    graph = trace(model, IMAGES)
    plan = make_plan(model, graph, Policy(), seed=0)
    with pytest.raises(ModelError, match="no tensors that can be compared"):
        check_cut(model, graph, plan, IMAGES)


class WithAuxiliary(nn.Module):
    """A second classifier that only runs in training, and a layer whose result nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3)
        self.head, self.auxiliary = nn.Linear(6, 5), nn.Sequential(nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(144, 5))
        self.unread = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = torch.relu(self.norm(self.one(x)))
        more = self.auxiliary(x) if self.training else None
        x = self.two(x)
        self.unread(x)
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores if more is None else (scores, more)


def test_layers_that_only_run_in_training_or_for_nobody_are_cut_with_the_others() -> None:
    model = WithAuxiliary().eval()
    graph = trace(model, IMAGES)
    assert "auxiliary.0" not in [layer.name for layer in graph.layers]
    decisions = {"one": ChannelDecision(keep=(1, 2, 5)), "two": ChannelDecision(keep=(0, 4))}
    smaller = materialize(model, make_plan(model, graph, Policy(channels=decisions), seed=0))
    assert smaller.get_parameter("auxiliary.0.weight").shape == (4, 3, 1, 1)
    assert smaller.get_parameter("unread.weight").shape == (2, 2, 1, 1)
    assert smaller(IMAGES).shape == (2, 5)
    assert [made.shape for made in smaller.train()(IMAGES)] == [(2, 5), (2, 5)]
    assert_cut_equals_zeroed(model, IMAGES, seed=1, graph=graph)


def test_tracing_in_training_mode_leaves_the_model_as_it_is() -> None:
    model = WithAuxiliary().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trace(model, IMAGES)
    assert not model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
