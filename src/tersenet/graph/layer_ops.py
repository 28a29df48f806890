"""Layers: convolutions and linear layers consume and issue labels, norms and per-channel parameters follow them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tersenet.graph.labels import FIXED, LabelBook, Labels, Pin, Value
from tersenet.graph.model_graph import Layer
from tersenet.graph.pointwise import along_axis, fixed


@dataclass(frozen=True, kw_only=True)
class LayerCall:
    """One call of a convolution or linear layer."""

    name: str
    """Layer, as in ``named_modules()``."""

    op: str
    """``conv``, ``conv_transpose`` or ``linear``."""

    weight: str
    """Name of the weight."""

    weight_shape: tuple[int, ...]

    bias: str | None
    """Name of the bias; None without one."""

    stride: tuple[int, ...]

    groups: int

    output_shape: tuple[int, ...]
    """With the batch axis."""

    batch_size: int
    """Inputs per forward pass, for costs at batch 1."""

    @property
    def num_spatial(self) -> int:
        """Axes that a window moves along."""
        return 0 if self.op == "linear" else len(self.weight_shape) - 2

    @property
    def in_channels(self) -> int:
        """Channels read."""
        transposed = self.op == "conv_transpose"
        return self.weight_shape[0] if transposed else self.weight_shape[1] * self.groups

    @property
    def out_channels(self) -> int:
        """Channels made."""
        transposed = self.op == "conv_transpose"
        return self.weight_shape[1] * self.groups if transposed else self.weight_shape[0]

    @property
    def is_depthwise(self) -> bool:
        """Whether every group reads one channel; a convolution of one channel is not depthwise."""
        return self.groups > 1 and self.groups == self.in_channels

    def macs(self, input_shape: tuple[int, ...]) -> int:
        """Multiply-accumulates of this call at batch 1: elements of the weight times positions."""
        shape = input_shape if self.op == "conv_transpose" else self.output_shape
        channels = shape[len(shape) - 1 - self.num_spatial]
        positions = math.prod(shape) // channels
        per_input, rest = divmod(positions, self.batch_size)
        return math.prod(self.weight_shape) * (positions if rest else per_input)

    def layer(self, input_shape: tuple[int, ...], num_bias: int) -> Layer:
        """The layer as it is listed in the graph."""
        return Layer(
            name=self.name,
            op=self.op,
            weight=self.weight,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            kernel_size=self.weight_shape[2:] if self.num_spatial else (),
            stride=self.stride,
            conv_groups=self.groups,
            output_shape=self.output_shape[1:],
            num_params=math.prod(self.weight_shape) + num_bias,
            macs=self.macs(input_shape),
        )


def _tied_groups(book: LabelBook, labels: Labels, groups: int) -> Labels:
    """Tie the i-th channel of every group, shape (groups * n,) -> (n,)."""
    return book.tie_along(labels.reshape(groups, -1), 0, "grouped conv").reshape(-1)


def apply_layer(book: LabelBook, call: LayerCall, value: Value) -> Value:
    """Record what a layer consumes and issue the labels of what it makes."""
    axis = len(value.shape) - 1 - call.num_spatial
    if call.op == "linear" and not value.varies(axis) and any(map(value.varies, range(1, axis))):
        # exact, but its multiply-accumulates would follow the channels, and costs only follow a weight's own axes
        book.pin(value.labels, f"a linear layer runs over their positions, channel by channel ({book.where})")
    consumed = along_axis(book, value, axis, call.op)
    made = _depthwise(book, call, consumed) if call.is_depthwise else _dense(book, call, consumed)
    view = [1] * len(call.output_shape)
    view[len(call.output_shape) - 1 - call.num_spatial] = call.out_channels
    return Value(made.reshape(view), call.output_shape, frozenset({call.name}), call.name)


def _dense(book: LabelBook, call: LayerCall, consumed: Labels) -> Labels:
    made = book.fresh(call.out_channels, call.name)
    if call.groups > 1:
        consumed_all, made_all = consumed, made
        consumed, first_made = _tied_groups(book, consumed_all, call.groups), _tied_groups(book, made_all, call.groups)
        if call.op == "conv_transpose":
            # its weight has all input channels but only one group's output channels
            consumed, in_axis, made_axis, weight_made = consumed_all, 0, 1, first_made
        else:
            in_axis, made_axis, weight_made = 1, 0, made_all
    else:
        in_axis, made_axis = (0, 1) if call.op == "conv_transpose" else (1, 0)
        weight_made = made
    book.use(call.weight, made_axis, weight_made, "producer")
    if call.bias is not None:
        book.use(call.bias, 0, made, "producer")
    book.use(call.weight, in_axis, consumed, "consumer")
    return made


def _depthwise(book: LabelBook, call: LayerCall, consumed: Labels) -> Labels:
    multiplier = call.out_channels // call.in_channels
    made = np.repeat(consumed, multiplier)
    book.use(call.weight, 0, consumed if call.op == "conv_transpose" else made, "follower")
    if call.bias is not None:
        book.use(call.bias, 0, made, "follower")
    return made


@dataclass(frozen=True, kw_only=True)
class NormTensors:
    """Names of what a norm holds per channel; None for what it has not."""

    scale: str | None
    others: tuple[str | None, ...]
    """Shift, running mean, running variance."""


def per_channel(book: LabelBook, value: Value, tensors: NormTensors, kind: str) -> Value:
    """A norm whose statistics are of one channel each, or another operator with one parameter per channel (axis 1)."""
    labels = along_axis(book, value, 1, kind)
    if tensors.scale is not None:
        book.use(tensors.scale, 0, labels, "follower", scales=value.made_by)
    for tensor in tensors.others:
        if tensor is not None:
            book.use(tensor, 0, labels, "follower")
    view = [1] * len(value.shape)
    view[1] = value.shape[1]
    return Value(labels.reshape(view), value.shape, value.sources)


@dataclass(frozen=True, kw_only=True)
class ChannelNorm:
    """A norm whose statistics run over channels."""

    axes: tuple[int, ...]
    """Axes of the value that the statistics run over."""

    channel_axis: int

    groups: int
    """Parts of the channel axis with statistics of their own."""

    tensors: tuple[str, ...]
    """Names of its scale and shift."""

    can_follow: bool
    """Whether the norm can be made smaller."""

    kind: str


def across_channels(book: LabelBook, value: Value, norm: ChannelNorm) -> Value:
    """A norm whose statistics run over channels: exact removal is not possible, any other only on request."""
    if not any(value.varies(axis) for axis in norm.axes):
        return Value(value.labels, value.shape, value.sources)
    reason = f"the statistics of {norm.kind} run over channels ({book.where})"
    if not (book.cut_norms and norm.can_follow and value.varies(norm.channel_axis)):
        book.pin(value.labels, reason)
        return Value(value.labels, value.shape, value.sources)
    labels = along_axis(book, value, norm.channel_axis, norm.kind)
    _tied_groups(book, labels, norm.groups)
    for tensor in norm.tensors:
        book.use(tensor, 0, labels, "follower")
    book.inexact.append(Pin(np.unique(labels[labels > 0]), reason))
    view = [1] * len(value.shape)
    view[norm.channel_axis] = -1
    return Value(labels.reshape(view), value.shape, value.sources)


def opaque_layer(book: LabelBook, value: Value, shape: tuple[int, ...]) -> Value:
    """A layer whose weight is computed in the forward (weight norm, generated filters): nothing is known of it."""
    book.pin(
        value.labels,
        f"read by a layer whose weight is computed in the forward; plain_weights makes it plain ({book.where})",
    )
    return fixed(shape, value.sources, sentinel=FIXED)
