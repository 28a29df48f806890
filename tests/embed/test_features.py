"""Static features of a small network that is written down by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tersenet.embed import FEATURE_NAMES, LAYER_FEATURE_NAMES, group_features, layer_features
from tersenet.graph.model_graph import ChannelGroup, Layer, Member, ModelGraph, Role, TensorInfo


def _conv(name: str, channels: tuple[int, int], *, kernel: int, stride: int, size: int, conv_groups: int = 1) -> Layer:
    in_channels, out_channels = channels
    num_params = out_channels * (in_channels // conv_groups) * kernel * kernel
    return Layer(
        name=name,
        op="conv",
        weight=f"{name}.weight",
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=(kernel, kernel),
        stride=(stride, stride),
        conv_groups=conv_groups,
        output_shape=(out_channels, size, size),
        num_params=num_params,
        macs=num_params * size * size,
    )


def _member(tensor: str, axis: int, role: Role, positions: Sequence[tuple[int, ...]]) -> Member:
    return Member(tensor=tensor, axis=axis, positions=tuple(positions), role=role, layer=tensor.rpartition(".")[0])


def _group(name: str, num_channels: int, members: list[Member]) -> ChannelGroup:
    return ChannelGroup(
        group_id=name,
        num_channels=num_channels,
        members=tuple(members),
        prunable=True,
        reason="",
        joined_by=(),
        producers=(name,),
    )


@pytest.fixture
def graph() -> ModelGraph:
    """3 -> a: 4 at 8x8 -> depthwise d at 4x4 -> b: 8 at 4x4, 1x1 -> flatten (8 * 16) -> fc: 10."""
    layers = (
        _conv("a", (3, 4), kernel=3, stride=1, size=8),
        _conv("d", (4, 4), kernel=3, stride=2, size=4, conv_groups=4),
        _conv("b", (4, 8), kernel=1, stride=1, size=4),
        Layer(
            name="fc",
            op="linear",
            weight="fc.weight",
            in_channels=128,
            out_channels=10,
            kernel_size=(),
            stride=(),
            conv_groups=1,
            output_shape=(10,),
            num_params=1290,
            macs=1280,
        ),
    )
    four, eight = [(c,) for c in range(4)], [(c,) for c in range(8)]
    pixels = [tuple(range(16 * c, 16 * c + 16)) for c in range(8)]
    a = [
        _member("a.weight", 0, "producer", four),
        _member("d.weight", 0, "follower", four),
        _member("b.weight", 1, "consumer", four),
    ]
    b = [_member("b.weight", 0, "producer", eight), _member("fc.weight", 1, "consumer", pixels)]
    fc = [
        _member("fc.weight", 0, "producer", [(c,) for c in range(10)]),
        _member("fc.bias", 0, "producer", [(0,)] * 10),
    ]
    shapes = {
        "a.weight": (4, 3, 3, 3),
        "d.weight": (4, 1, 3, 3),
        "b.weight": (8, 4, 1, 1),
        "fc.weight": (10, 128),
        "fc.bias": (10,),
    }
    return ModelGraph(
        layers=layers,
        edges=(),
        channel_groups=(_group("a", 4, a), _group("b", 8, b), _group("fc", 10, fc)),
        tensors=tuple(TensorInfo(name=n, shape=s, is_parameter=True, is_statistic=False) for n, s in shapes.items()),
        input_shape=((3, 8, 8),),
        not_counted=(),
    )


def test_columns_are_stretched_between_the_least_and_the_most_of_the_decided_groups(graph: ModelGraph) -> None:
    features = dict(zip(FEATURE_NAMES, group_features(graph, ["a", "b", "fc"]).T, strict=True))
    np.testing.assert_allclose(features["position"], [0.0, 2 / 3, 1.0])
    np.testing.assert_allclose(features["num_channels"], [0.0, 4 / 6, 1.0])
    np.testing.assert_allclose(features["in_channels"], [0.0, 1 / 125, 1.0])
    np.testing.assert_allclose(features["height"], [1.0, 3 / 7, 0.0])
    np.testing.assert_allclose(features["kernel_size"], [1.0, 0.0, 0.0])
    np.testing.assert_allclose(features["num_depthwise"], [1.0, 0.0, 0.0])
    # by hand: a 108*64 + 36*16 + 32*16 = 8000; b 512 + 1280 = 1792; fc 1280
    np.testing.assert_allclose(features["macs"], [1.0, 512 / 6720, 0.0])
    # by hand: a 108 + 36 + 32 = 176; b 32 + 1280 = 1312; fc 1280 + 10 = 1290
    np.testing.assert_allclose(features["num_params"], [0.0, 1.0, 1114 / 1136])


def test_columns_without_differences_are_zero(graph: ModelGraph) -> None:
    features = dict(zip(FEATURE_NAMES, group_features(graph, ["a", "b"]).T, strict=True))
    assert features["num_producers"].tolist() == [0.0, 0.0]
    assert features["stride"].tolist() == [0.0, 0.0]
    assert group_features(graph, ["b"]).tolist() == [[0.0] * len(FEATURE_NAMES)]


def test_a_group_that_covers_part_of_an_axis_has_that_share(graph: ModelGraph) -> None:
    half = [_member("fc.weight", 1, "consumer", [tuple(range(16 * c, 16 * c + 16)) for c in range(4)])]
    groups = (_group("a", 4, half), graph.channel_groups[1], _group("fc", 10, []))
    partial = ModelGraph(
        layers=graph.layers,
        edges=(),
        channel_groups=groups,
        tensors=graph.tensors,
        input_shape=graph.input_shape,
        not_counted=(),
    )
    macs = group_features(partial, ["a", "b", "fc"])[:, FEATURE_NAMES.index("macs")]
    # half of fc's 1280, against 1792 for b and nothing
    np.testing.assert_allclose(macs, [640 / 1792, 1.0, 0.0])


def test_layers_are_told_by_what_they_are_and_where(graph: ModelGraph) -> None:
    features = dict(zip(LAYER_FEATURE_NAMES, layer_features(graph, ["a", "d", "fc"]).T, strict=True))
    np.testing.assert_allclose(features["position"], [0.0, 1 / 3, 1.0])
    np.testing.assert_allclose(features["in_channels"], [0.0, 1 / 125, 1.0])
    np.testing.assert_allclose(features["out_channels"], [0.0, 0.0, 1.0])
    np.testing.assert_allclose(features["kernel_size"], [1.0, 1.0, 0.0])
    np.testing.assert_allclose(features["stride"], [0.0, 1.0, 0.0])
    np.testing.assert_allclose(features["input_size"], [1.0, 1.0, 0.0])  # 8 * 1, 4 * 2, 1
    np.testing.assert_allclose(features["num_params"], [(108 - 36) / (1290 - 36), 0.0, 1.0])
    np.testing.assert_allclose(features["is_depthwise"], [0.0, 1.0, 0.0])
    np.testing.assert_allclose(features["macs"], [1.0, 0.0, (1280 - 576) / (6912 - 576)])
