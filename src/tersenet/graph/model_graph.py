"""The traced network as data: layers, data flow, and the channels that must be cut together.

Nothing here refers to the live module except by name, so a graph can be kept, hashed and sent around.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Role = Literal["producer", "follower", "consumer"]
"""producer: a convolution or linear layer makes the channels (weight and bias, output axis); follower: carries one
value per channel (norms, depthwise weights, buffers, free parameters); consumer: a layer reads them (input axis)."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One convolution or linear layer, as it is called in the forward pass."""

    name: str
    """As in ``named_modules()`` (of the first call, where weights are shared)."""

    op: str
    """``conv``, ``conv_transpose`` or ``linear``."""

    weight: str
    """Name of its weight as in ``state_dict()``."""

    in_channels: int
    out_channels: int

    kernel_size: tuple[int, ...]
    """One number per spatial axis; empty for linear layers."""

    stride: tuple[int, ...]
    """One number per spatial axis; empty for linear layers."""

    conv_groups: int
    """PyTorch's ``groups``; 1 for linear layers."""

    output_shape: tuple[int, ...]
    """Without the batch axis."""

    num_params: int
    """Weight and bias."""

    macs: int
    """Multiply-accumulates at batch 1, summed over its calls; a multiple of the weight's number of elements."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One axis of one parameter or buffer that a group cuts."""

    tensor: str
    """Name as in ``state_dict()``."""

    axis: int

    positions: tuple[tuple[int, ...], ...]
    """For each channel of the group, the positions on this axis that go with it; all the same length."""

    role: Role

    layer: str
    """Module that owns the tensor, as in ``named_modules()``; empty for a parameter of the model itself."""

    scales: str = ""
    """For the scale of a norm that reads a layer's output with nothing in between: that layer; else empty."""

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """``positions`` as an array, shape (channels of the group, positions per channel)."""
        return np.asarray(self.positions, dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class ChannelGroup:
    """Channels that are decided together; each channel can be removed by itself, from all members at once."""

    group_id: str
    """Name of the layer that first produces these channels, ``#2``, ``#3``, ... added where one layer feeds several."""

    num_channels: int

    members: tuple[Member, ...]

    prunable: bool

    reason: str
    """Why the group cannot be cut; empty if it can."""

    joined_by: tuple[str, ...]
    """Operators that tied several producers together, sorted: ``add`` for residual sums, ``mul`` for gates, ..."""

    producers: tuple[str, ...]
    """Names of the layers that produce these channels, in order of execution."""

    inexact: str = ""
    """Why the cut network may not compute what the zeroed one does; empty where it does (see ``trace``)."""


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """One parameter or buffer."""

    name: str
    """As in ``state_dict()``; tied weights appear once, under their first name."""

    shape: tuple[int, ...]

    is_parameter: bool

    is_statistic: bool
    """Running mean or variance of a norm layer: stored and counted in bytes, not a parameter."""


@dataclass(frozen=True, kw_only=True)
class Width:
    """A module without tensors that holds the number of channels it expects (instance norm without parameters)."""

    module: str
    """As in ``named_modules()``."""

    group_id: str
    """The group whose channels it sees; it may see several groups."""

    num_per_channel: int
    """Positions that go with each channel of the group."""


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator of the forward pass, or one of the model's inputs."""

    name: str
    """In ATen, without overload (``conv2d``, ``batch_norm``, ``add``); ``input`` for an input of the model."""

    inputs: tuple[int, ...]
    """Positions, in ``ModelGraph.operators``, of those whose results it reads, ascending; all before its own."""

    tensors: tuple[str, ...]
    """Parameters and buffers that it reads, as in ``state_dict()``."""

    output_shape: tuple[int, ...]
    """Of its first result, without the batch axis."""


@dataclass(frozen=True, kw_only=True)
class ModelGraph:
    """What tracing found."""

    layers: tuple[Layer, ...]
    """In order of execution."""

    edges: tuple[tuple[str, str], ...]
    """Data flow between layers: (from, to), through whatever operators lie between."""

    channel_groups: tuple[ChannelGroup, ...]
    """In order of their first producer; prunable and locked ones."""

    tensors: tuple[TensorInfo, ...]
    """Every floating-point parameter and buffer of the model."""

    input_shape: tuple[tuple[int, ...], ...]
    """Shape of each example input, without the batch axis."""

    not_counted: tuple[str, ...]
    """ATen operators with arithmetic that ``macs`` leaves out, sorted (for example matrix products of attention)."""

    widths: tuple[Width, ...] = ()
    """Modules without tensors whose ``num_features`` follows a group."""

    operators: tuple[Operator, ...] = ()
    """Everything between inputs and outputs, in order of execution."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolution and linear layers at batch 1."""
        return sum(layer.macs for layer in self.layers)

    @property
    def num_params(self) -> int:
        """Parameters, tied ones counted once."""
        return sum(_numel(tensor.shape) for tensor in self.tensors if tensor.is_parameter)

    @property
    def original_bytes(self) -> int:
        """4 x (parameters + running statistics of norms): what ``compression_ratio`` is measured against."""
        return 4 * sum(_numel(t.shape) for t in self.tensors if t.is_parameter or t.is_statistic)

    def group(self, group_id: str) -> ChannelGroup:
        """The group of this id; KeyError if there is none."""
        for group in self.channel_groups:
            if group.group_id == group_id:
                return group
        raise KeyError(group_id)


def _numel(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
