"""The operators of small forwards, written down by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tersenet.graph import ModelGraph, Operator, trace


class Branches(nn.Module):
    """A convolution with norm, its output halved and joined again, a sum with the input, a region without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.conv(x)))
        one, two = y.chunk(2, dim=1)
        y = torch.cat([two, one], dim=1) + x
        with torch.no_grad():
            y = torch.tanh(y)
        scores: Tensor = self.head(y.mean((2, 3)))
        return scores


def test_every_operator_is_listed_with_what_it_reads() -> None:
    operators = trace(Branches(), torch.randn(2, 4, 6, 6)).operators
    image, norm = (4, 6, 6), ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
    assert operators == (
        Operator(name="input", inputs=(), tensors=(), output_shape=image),
        Operator(name="conv2d", inputs=(0,), tensors=("conv.weight", "conv.bias"), output_shape=image),
        Operator(name="batch_norm", inputs=(1,), tensors=norm, output_shape=image),
        Operator(name="relu", inputs=(2,), tensors=(), output_shape=image),
        Operator(name="chunk", inputs=(3,), tensors=(), output_shape=(2, 6, 6)),
        Operator(name="cat", inputs=(4,), tensors=(), output_shape=image),
        Operator(name="add", inputs=(0, 5), tensors=(), output_shape=image),
        Operator(name="tanh", inputs=(6,), tensors=(), output_shape=image),
        Operator(name="mean", inputs=(7,), tensors=(), output_shape=(4,)),
        Operator(name="linear", inputs=(8,), tensors=("head.weight", "head.bias"), output_shape=(2,)),
    )


class CastWeight(nn.Module):
    """A weight that is computed from a parameter alone, and one that is added as a plain value."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1, bias=False)
        self.shift = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.conv.weight.clone()) + self.shift * 2.0


def test_what_is_computed_from_parameters_alone_is_read_as_the_parameter() -> None:
    operators = trace(CastWeight(), torch.randn(1, 3, 5, 5)).operators
    assert [(op.name, op.inputs, op.tensors) for op in operators] == [
        ("input", (), ()),
        ("conv2d", (0,), ("conv.weight",)),
        ("add", (1,), ("shift",)),
    ]


def test_a_graph_that_is_written_by_hand_has_no_operators() -> None:
    graph = ModelGraph(layers=(), edges=(), channel_groups=(), tensors=(), input_shape=(), not_counted=())
    assert graph.operators == ()
