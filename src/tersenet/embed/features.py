"""Static, rule-based features of channel groups and of layers: what an agent knows before a decision is taken.

Those of groups follow the state of AMC (index, channels, height, width, stride, kernel, FLOPs), with what coupled
groups add; those of layers the state of HAQ. Every column is stretched to [0, 1] over what is decided, so that an agent
sees differences, not scales; a column that is the same everywhere is 0. What changes during an episode is appended by
the environment.

Source: He et al. 2018 (AMC), arXiv:1802.03494, section 3.1; Wang et al. 2019 (HAQ), arXiv:1811.08886, section 3.1.
Differs: one row per coupled group instead of one per layer, MACs and parameters summed over the group's members; of
HAQ's features the flag for activations is left out, since only weights are decided, and MACs are added.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tersenet.core.protocols import FloatArray
from tersenet.graph.model_graph import ChannelGroup, Layer, Member, ModelGraph

FEATURE_NAMES = (
    "position",
    "num_channels",
    "in_channels",
    "height",
    "width",
    "stride",
    "kernel_size",
    "macs",
    "num_params",
    "num_producers",
    "num_depthwise",
)
"""Columns: position of the first producer among the layers; channels of the group; input channels, output height,
width, stride and kernel size (mean over the spatial axes) of the first producer; MACs and parameters of the weights
that the group cuts, in proportion to how much of an axis it covers; producers; depthwise layers that follow."""


LAYER_FEATURE_NAMES = (
    "position",
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "input_size",
    "num_params",
    "is_depthwise",
    "macs",
)
"""Columns: position among all layers; channels; kernel size and stride (mean over the spatial axes; 1 for linear
layers); input height (output height times stride); parameters; whether the layer is depthwise; MACs."""


def layer_features(graph: ModelGraph, layers: Sequence[str]) -> FloatArray:
    """Features of layers, each column in [0, 1].

    Args:
        graph: the traced network.
        layers: names of the layers that are decided, in the order of their decisions.

    Returns:
        One row per layer, shape (len(layers), len(LAYER_FEATURE_NAMES)).
    """
    positions = {layer.name: position for position, layer in enumerate(graph.layers)}
    raw = np.array([_raw_layer_features(graph.layers[positions[name]], positions[name]) for name in layers])
    return stretched(raw.astype(np.float64).reshape(len(layers), len(LAYER_FEATURE_NAMES)))


def _raw_layer_features(layer: Layer, position: int) -> list[float]:
    height, _ = _height_and_width(layer)
    return [
        float(position),
        float(layer.in_channels),
        float(layer.out_channels),
        _mean(layer.kernel_size),
        _mean(layer.stride),
        height * _mean(layer.stride),
        float(layer.num_params),
        float(layer.conv_groups > 1 and layer.conv_groups == layer.in_channels),
        float(layer.macs),
    ]


def group_features(graph: ModelGraph, group_ids: Sequence[str]) -> FloatArray:
    """Features of groups, each column in [0, 1].

    Args:
        graph: the traced network.
        group_ids: groups that are decided, in the order of their decisions.

    Returns:
        One row per group, shape (len(group_ids), len(FEATURE_NAMES)).
    """
    raw = np.array([_raw_features(graph, graph.group(group_id)) for group_id in group_ids], dtype=np.float64)
    return stretched(raw.reshape(len(group_ids), len(FEATURE_NAMES)))


def _raw_features(graph: ModelGraph, group: ChannelGroup) -> list[float]:
    names = [layer.name for layer in graph.layers]
    position = min((names.index(name) for name in group.producers if name in names), default=0)
    first = graph.layers[position]
    height, width = _height_and_width(first)
    return [
        float(position),
        float(group.num_channels),
        float(first.in_channels),
        float(height),
        float(width),
        _mean(first.stride),
        _mean(first.kernel_size),
        _macs(graph, group),
        _num_params(graph, group),
        float(len(group.producers)),
        float(sum(_is_depthwise_of(layer, group) for layer in graph.layers)),
    ]


def _height_and_width(layer: Layer) -> tuple[int, int]:
    if layer.op == "linear" or len(layer.output_shape) < 2:
        return 1, 1
    return (
        (layer.output_shape[-2], layer.output_shape[-1]) if len(layer.output_shape) > 2 else (1, layer.output_shape[-1])
    )


def _mean(sizes: tuple[int, ...]) -> float:
    return sum(sizes) / len(sizes) if sizes else 1.0


def _macs(graph: ModelGraph, group: ChannelGroup) -> float:
    shares = _covered_shares(graph, group)
    return sum(layer.macs * shares.get(layer.weight, 0.0) for layer in graph.layers)


def _num_params(graph: ModelGraph, group: ChannelGroup) -> float:
    shares = _covered_shares(graph, group)
    return sum(math.prod(t.shape) * shares.get(t.name, 0.0) for t in graph.tensors if t.is_parameter)


def _covered_shares(graph: ModelGraph, group: ChannelGroup) -> dict[str, float]:
    """Share of each tensor that the group can cut; a tensor cut along two axes counts once, by the larger share."""
    shapes = {tensor.name: tensor.shape for tensor in graph.tensors}
    shares: dict[str, float] = {}
    for member in group.members:
        if member.tensor in shapes:
            share = _num_positions(member) / shapes[member.tensor][member.axis]
            shares[member.tensor] = max(shares.get(member.tensor, 0.0), min(share, 1.0))
    return shares


def _num_positions(member: Member) -> int:
    return sum(len(positions) for positions in member.positions)


def _is_depthwise_of(layer: Layer, group: ChannelGroup) -> bool:
    is_depthwise = layer.conv_groups > 1 and layer.conv_groups == layer.in_channels
    return is_depthwise and any(m.tensor == layer.weight and m.role == "follower" for m in group.members)


def stretched(raw: FloatArray) -> FloatArray:
    """Each column from its least to its most value on [0, 1]; 0 where it is the same everywhere."""
    lowest, highest = raw.min(axis=0, initial=np.inf), raw.max(axis=0, initial=-np.inf)
    span = highest - lowest
    varies = span > 0
    features = np.zeros_like(raw)
    features[:, varies] = (raw[:, varies] - lowest[varies]) / span[varies]
    return features
