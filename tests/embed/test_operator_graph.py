"""Arrays of a residual block that is written down by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tersenet.embed import operator_graph
from tersenet.embed.operator_graph import KINDS, NUMBERS
from tersenet.graph.model_graph import Layer, ModelGraph, Operator


def conv(name: str, *, in_channels: int, out_channels: int, groups: int = 1) -> Layer:
    num_params = out_channels * (in_channels // groups) * 9
    return Layer(
        name=name,
        op="conv",
        weight=f"{name}.weight",
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=(3, 3),
        stride=(1, 1),
        conv_groups=groups,
        output_shape=(out_channels, 8, 8),
        num_params=num_params,
        macs=64 * num_params,
    )


@pytest.fixture
def graph() -> ModelGraph:
    """input -> a -> norm -> relu -> depthwise b -> add with relu's output -> global mean."""
    shape = (4, 8, 8)
    return ModelGraph(
        layers=(conv("a", in_channels=3, out_channels=4), conv("b", in_channels=4, out_channels=4, groups=4)),
        edges=(),
        channel_groups=(),
        tensors=(),
        input_shape=((3, 8, 8),),
        not_counted=(),
        operators=(
            Operator(name="input", inputs=(), tensors=(), output_shape=(3, 8, 8)),
            Operator(name="conv2d", inputs=(0,), tensors=("a.weight",), output_shape=shape),
            Operator(name="batch_norm", inputs=(1,), tensors=(), output_shape=shape),
            Operator(name="relu", inputs=(2,), tensors=(), output_shape=shape),
            Operator(name="conv2d", inputs=(3,), tensors=("b.weight",), output_shape=shape),
            Operator(name="add", inputs=(3, 4), tensors=(), output_shape=shape),
            Operator(name="mean", inputs=(5,), tensors=(), output_shape=(4,)),
        ),
    )


def test_kinds_are_found_by_the_operators_names(graph: ModelGraph) -> None:
    kinds = operator_graph(graph, []).kinds
    assert [KINDS[kind] for kind in kinds] == ["input", "conv", "norm", "activation", "conv", "add", "pool"]


def test_a_layer_takes_what_follows_it_until_a_layer_or_a_join(graph: ModelGraph) -> None:
    found = operator_graph(graph, [["a"], ["a", "b"], ["no layer"]])
    assert found.motifs.tolist() == [0, 1, 1, 1, 2, 3, 3]
    assert found.num_motifs == 4
    assert found.inner_edges.T.tolist() == [[1, 2], [2, 3], [5, 6]]
    assert found.motif_edges.T.tolist() == [[0, 1], [1, 2], [1, 3], [2, 3]]
    assert found.edges.T.tolist() == [[0, 1], [1, 2], [2, 3], [3, 4], [3, 5], [4, 5], [5, 6]]
    assert found.decisions.T.tolist() == [[0, 1], [1, 1], [1, 2], [2, 0]]
    assert found.num_decisions == 3


def test_numbers_are_scaled_by_hand(graph: ModelGraph) -> None:
    numbers = dict(zip(NUMBERS, operator_graph(graph, []).numbers.T, strict=True))
    # a has 108 parameters and 6,912 MACs, b a third of both; the longest path has six steps
    np.testing.assert_allclose(numbers["macs_share"], [0, 1, 0, 0, 1 / 3, 0, 0])
    np.testing.assert_allclose(numbers["params_share"], [0, 1, 0, 0, 1 / 3, 0, 0])
    np.testing.assert_allclose(numbers["position"], np.array([0, 1, 2, 3, 4, 5, 6]) / 6)
    np.testing.assert_allclose(numbers["is_depthwise"], [0, 0, 0, 0, 1, 0, 0])
    np.testing.assert_allclose(numbers["kernel_size"], np.array([0, 1, 0, 0, 1, 0, 0]) / 2)  # log 4 over log 16
    np.testing.assert_allclose(numbers["macs"][1], math.log(6913) / math.log(1e10 + 1))
    # the mean goes from 8 x 8 to a single place
    np.testing.assert_allclose(numbers["stride"], [1 / 3] * 6 + [1.0])
    np.testing.assert_allclose(numbers["output_size"][[0, 6]], [math.log(9) / math.log(1024), 0.1])
    np.testing.assert_allclose(numbers["in_channels"][[1, 5]], [2 / 12, math.log(5) / math.log(4096)])


def test_a_graph_without_operators_is_refused() -> None:
    empty = ModelGraph(layers=(), edges=(), channel_groups=(), tensors=(), input_shape=(), not_counted=())
    with pytest.raises(ValueError, match="no operators"):
        operator_graph(empty, [])
