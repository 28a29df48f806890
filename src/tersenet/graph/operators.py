"""Which ATen operator does what to labels.

Elementwise operators are known by PyTorch's own tag. Everything that is in no table is pinned with its name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tersenet.graph import shape_ops
from tersenet.graph.labels import ZERO, Value
from tersenet.graph.layer_ops import ChannelNorm, LayerCall, NormTensors, across_channels, opaque_layer, per_channel
from tersenet.graph.pointwise import (
    along_axis,
    coupled_along,
    fixed,
    merge_axes,
    merged_sources,
    pointwise,
    reduce_axes,
)
from tersenet.graph.walk import Call, Param, Walk

Results = list[Value] | list[Param]
Rule = Callable[[Walk, Call], Results]

_CONVOLUTIONS = {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
_UNCHANGED = {
    "dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "to", "_to_copy", "clone", "contiguous",
    "detach", "alias", "lift_fresh_copy", "zeros_like", "ones_like", "full_like", "empty_like", "rand_like",
    "randn_like", "type_as", "native_dropout",
}  # fmt: skip
_ELEMENTWISE = {
    "hardswish", "log_sigmoid", "rsub", "where", "masked_fill", "copy", "fill", "zero", "floor_divide", "multiply",
    "divide", "subtract", "negative", "absolute", "true_divide", "less", "greater", "not_equal", "bernoulli",
}  # fmt: skip
"""Elementwise as well, but not tagged so in every version of PyTorch."""

_ZEROS = {"zeros", "new_zeros"}
_NEW = {"new_empty", "new_ones", "new_full"}
_VIEWS = {
    "view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "_unsafe_view", "view_as", "reshape_as",
    "ravel", "atleast_2d", "atleast_3d",
}  # fmt: skip
_EXPANDS = {"expand", "expand_as", "broadcast_to"}
_REDUCTIONS = {
    "mean", "sum", "amax", "amin", "max", "min", "std", "var", "norm", "linalg_vector_norm", "logsumexp", "prod",
    "nanmean", "nansum", "var_mean", "std_mean", "any", "all", "argmax", "argmin",
}  # fmt: skip
_COUPLED = {"softmax", "log_softmax", "_softmax", "_log_softmax", "cumsum", "cumprod", "roll"}
_PRODUCTS = {
    "matmul", "mm", "bmm", "addmm", "addbmm", "baddbmm", "mv", "dot", "einsum", "scaled_dot_product_attention",
    "bilinear", "tensordot", "addmv", "lstm", "gru", "rnn_tanh", "rnn_relu", "_native_multi_head_attention",
}  # fmt: skip


def apply_operator(walk: Walk, call: Call) -> Results:
    """The results of one operator, all that it says about channels written into the book."""
    if call.name in _RULES:
        return _RULES[call.name](walk, call)
    if "pool" in call.name or "upsample_" in call.name:
        return _window(walk, call)
    if call.is_pointwise or call.name in _ELEMENTWISE:
        operands = walk.values(call.arguments.values())
        return [pointwise(walk.book, operands, shape, call.name) for shape in call.shapes]
    operands = walk.values(call.arguments.values())
    if call.name in _PRODUCTS:
        walk.not_counted.add(f"aten.{call.name}")
        return walk.unknown(operands, "takes part in a product that is not a convolution or linear layer", call.shapes)
    if not operands:
        return [fixed(shape) for shape in call.shapes]
    return walk.unknown(operands, f"the operator {call.name} is not understood", call.shapes)


def _operand(walk: Walk, call: Call) -> Value:
    return walk.value(call.first)


def _unchanged(walk: Walk, call: Call) -> Results:
    if isinstance(call.first, Param) and call.shapes == [call.first.shape]:
        # a cast or detached weight is still that weight
        return [call.first]
    value = _operand(walk, call)
    return [Value(value.labels, shape, value.sources) for shape in call.shapes]


def _zeros(walk: Walk, call: Call) -> list[Value]:
    return [fixed(shape, sentinel=ZERO) for shape in call.shapes]


def _new(walk: Walk, call: Call) -> list[Value]:
    """Only the type and device of the operand are used."""
    return [fixed(shape) for shape in call.shapes]


def _view(walk: Walk, call: Call) -> list[Value]:
    value = _operand(walk, call)
    given = call.arguments.get("size" if call.name == "view" else "shape")
    if call.name == "unflatten":
        axis = call.axis(len(value.shape))
        given = [*value.shape[:axis], *call.arguments["sizes"], *value.shape[axis + 1 :]]
    return [shape_ops.reshape(walk.book, value, call.shapes[0], given if isinstance(given, list | tuple) else ())]


def _expand(walk: Walk, call: Call) -> list[Value]:
    return [shape_ops.expand(_operand(walk, call), call.shapes[0])]


def _permute(walk: Walk, call: Call) -> list[Value]:
    value = _operand(walk, call)
    return [shape_ops.reorder(value, call.axes(len(value.shape), "dims"))]


def _transpose(walk: Walk, call: Call) -> list[Value]:
    value = _operand(walk, call)
    ndim = len(value.shape)
    order = list(range(ndim))
    names = [name for name in ("dim0", "axis0") if name in call.arguments]
    if names:
        one, other = call.axis(ndim, names[0]), call.axis(ndim, names[0].replace("0", "1"))
    else:
        one, other = (0, 1) if call.name == "t" else (ndim - 2, ndim - 1)
    if ndim >= 2:
        order[one], order[other] = order[other], order[one]
    return [shape_ops.reorder(value, order)]


def _movedim(walk: Walk, call: Call) -> list[Value]:
    value = _operand(walk, call)
    ndim = len(value.shape)
    source, destination = call.axes(ndim, "source"), call.axes(ndim, "destination")
    order = [axis for axis in range(ndim) if axis not in source]
    for to, axis in sorted(zip(destination, source, strict=True)):
        order.insert(to, axis)
    return [shape_ops.reorder(value, order)]


def _flip(walk: Walk, call: Call) -> list[Value]:
    value = _operand(walk, call)
    labels = value.labels
    for axis in call.axes(len(value.shape), "dims"):
        labels = labels[(slice(None),) * axis + (slice(None, None, -1),)]
    return [Value(labels.copy(), value.shape, value.sources)]


def _slice(walk: Walk, call: Call) -> list[Value]:
    value = _operand(walk, call)
    axis = call.axis(len(value.shape))
    positions = slice(call.arguments["start"], call.arguments["end"], call.arguments["step"])
    if call.name == "narrow":
        start = int(call.arguments["start"]) % value.shape[axis]
        positions = slice(start, start + int(call.arguments["length"]))
    return [shape_ops.pick(walk.book, value, axis, positions, call.shapes[0])]


def _select(walk: Walk, call: Call) -> list[Value]:
    value = _operand(walk, call)
    return [shape_ops.select(walk.book, value, call.axis(len(value.shape)))]


def _unbind(walk: Walk, call: Call) -> list[Value]:
    value = _operand(walk, call)
    axis = call.axis(len(value.shape))
    return [shape_ops.select(walk.book, value, axis)] * value.shape[axis]


def _index_select(walk: Walk, call: Call) -> list[Value]:
    value = _operand(walk, call)
    if value.varies(call.axis(len(value.shape))):
        return walk.unknown([value], "channels are picked by their position", call.shapes)
    return [Value(value.labels, call.shapes[0], value.sources)]


def _index(walk: Walk, call: Call) -> list[Value]:
    """Indexing by a tensor: positions of one axis without channels may be chosen freely."""
    value = _operand(walk, call)
    axes = [axis for axis, index in enumerate(call.arguments["indices"]) if index is not None]
    if any(value.varies(axis) for axis in axes) or len(axes) != 1:
        return walk.unknown([value], "channels are picked by their position", call.shapes)
    axis, shape = axes[0], call.shapes[0]
    ones = (1,) * (len(shape) - len(value.shape) + 1)
    labels = value.labels.reshape(value.labels.shape[:axis] + ones + value.labels.shape[axis + 1 :])
    return [Value(labels, shape, value.sources)]


def _parts(walk: Walk, call: Call) -> list[Value]:
    value = _operand(walk, call)
    axis = call.axis(len(value.shape))
    return shape_ops.parts(walk.book, value, axis, [shape[axis] for shape in call.shapes])


def _glu(walk: Walk, call: Call) -> list[Value]:
    value = _operand(walk, call)
    axis = call.axis(len(value.shape))
    half = value.shape[axis] // 2
    first, second = shape_ops.parts(walk.book, value, axis, [half, half])
    return [pointwise(walk.book, [first, second], call.shapes[0], "glu")]


def _cat(walk: Walk, call: Call) -> list[Value]:
    values = walk.values([call.first])
    return [shape_ops.concatenate(walk.book, values, call.axis(len(call.shapes[0])), call.shapes[0])]


def _stack(walk: Walk, call: Call) -> list[Value]:
    values = walk.values([call.first])
    return [shape_ops.stack(walk.book, values, call.axis(len(call.shapes[0])), call.shapes[0])]


def _pad(walk: Walk, call: Call) -> list[Value]:
    widths = call.arguments["pad" if "pad" in call.arguments else "padding"]
    mode = call.arguments.get("mode", "constant")
    mode = mode if call.name in ("pad", "constant_pad_nd") else "copy"
    return [shape_ops.pad(walk.book, _operand(walk, call), [int(w) for w in widths], call.shapes[0], mode)]


def _repeat(walk: Walk, call: Call) -> list[Value]:
    times = call.arguments["repeats" if "repeats" in call.arguments else "dims"]
    times = [1] * (len(call.shapes[0]) - len(times)) + [int(count) for count in times]
    return [shape_ops.repeat(_operand(walk, call), times, call.shapes[0])]


def _pixel_shuffle(walk: Walk, call: Call) -> list[Value]:
    value = _operand(walk, call)
    if call.name == "pixel_shuffle":
        return [shape_ops.pixel_shuffle(walk.book, value, int(call.arguments["upscale_factor"]), call.shapes[0])]
    return [shape_ops.pixel_unshuffle(walk.book, value, int(call.arguments["downscale_factor"]), call.shapes[0])]


def _im2col(walk: Walk, call: Call) -> list[Value]:
    size = math.prod(_per_axis(call.arguments["kernel_size"], 2))
    rule = shape_ops.windows if call.name == "im2col" else shape_ops.from_windows
    return [rule(walk.book, _operand(walk, call), size, call.shapes[0])]


def _unfold(walk: Walk, call: Call) -> list[Value]:
    """Sliding windows along one axis, which become a new last axis."""
    value = _operand(walk, call)
    axis = call.axis(len(value.shape), "dimension")
    labels = merge_axes(walk.book, value, [axis], call.name, reason="channels are picked by their position")
    return [Value(labels[..., None], call.shapes[0], value.sources)]


def _grid_sampler(walk: Walk, call: Call) -> list[Value]:
    value, grid = _operand(walk, call), walk.value(call.arguments["grid"])
    walk.book.pin(grid.labels, f"is used as positions ({walk.book.where})")
    labels = merge_axes(walk.book, value, list(range(2, len(value.shape))), call.name)
    return [Value(labels, call.shapes[0], merged_sources([value, grid]))]


def _channel_shuffle(walk: Walk, call: Call) -> list[Value]:
    return [shape_ops.channel_shuffle(walk.book, _operand(walk, call), int(call.arguments["groups"]))]


def _window(walk: Walk, call: Call) -> list[Value]:
    """Pooling and resizing over the last axes."""
    value = _operand(walk, call)
    ndim = len(value.shape)
    dims = next((int(letter) for letter in call.name if letter in "123"), ndim)
    labels = merge_axes(walk.book, value, list(range(max(ndim - dims, 0), ndim)), call.name)
    return [Value(labels, shape, value.sources) for shape in call.shapes]


def _reduction(walk: Walk, call: Call) -> list[Value]:
    value = _operand(walk, call)
    if call.name in ("max", "min") and "other" in call.arguments:
        return [pointwise(walk.book, walk.values(call.arguments.values()), call.shapes[0], call.name)]
    axes = call.axes(len(value.shape))
    return [reduce_axes(walk.book, value, axes, shape) for shape in call.shapes]


def _coupled(walk: Walk, call: Call) -> list[Value]:
    value = _operand(walk, call)
    for axis in call.axes(len(value.shape), "dims" if call.name == "roll" else "dim"):
        value = coupled_along(walk.book, value, axis)
    return [Value(value.labels, shape, value.sources) for shape in call.shapes]


def _layer(walk: Walk, call: Call) -> list[Value]:
    value = _operand(walk, call)
    weight, bias = call.arguments["weight"], call.arguments.get("bias")
    others = walk.values([bias]) if isinstance(bias, Value) else []
    if not isinstance(weight, Param) or others:
        walk.not_counted.add(f"aten.{call.name} (its weight is computed in the forward)")
        for extra in [*walk.values([weight]), *others]:
            walk.book.pin(extra.labels, f"is used as a computed weight ({walk.book.where})")
        return [opaque_layer(walk.book, value, call.shapes[0])]
    transposed = call.name.startswith("conv_transpose")
    is_linear = call.name == "linear"
    stride = () if is_linear else _per_axis(call.arguments["stride"], len(weight.shape) - 2)
    layer = LayerCall(
        name=walk.layer_name(weight.name),
        op="linear" if is_linear else "conv_transpose" if transposed else "conv",
        weight=weight.name,
        weight_shape=weight.shape,
        bias=bias.name if isinstance(bias, Param) else None,
        stride=stride,
        groups=1 if is_linear else int(call.arguments["groups"]),
        output_shape=call.shapes[0],
        batch_size=walk.batch_size,
    )
    return [walk.call_layer(layer, value, bias.shape[0] if isinstance(bias, Param) else 0)]


def _per_axis(given: Any, count: int) -> tuple[int, ...]:
    numbers = tuple(int(number) for number in (given if isinstance(given, list | tuple) else [given]))
    return numbers * count if len(numbers) == 1 else numbers


def _name(argument: Any) -> str | None:
    return argument.name if isinstance(argument, Param) else None


def _norm(walk: Walk, call: Call) -> list[Value]:
    named = call.arguments
    tensors = [named[key] for key in ("weight", "bias", "running_mean", "running_var")]
    if any(isinstance(tensor, Value) for tensor in tensors):
        return walk.unknown(walk.values(named.values()), "a norm whose tensors are computed", call.shapes)
    scale, *others = [_name(tensor) for tensor in tensors]
    made = per_channel(walk.book, _operand(walk, call), NormTensors(scale=scale, others=tuple(others)), call.name)
    if all(tensor is None for tensor in tensors) and walk.module:
        walk.book.widths[walk.module] = along_axis(walk.book, made, 1, call.name)
    return [made]


def _prelu(walk: Walk, call: Call) -> list[Value]:
    value, weight = _operand(walk, call), call.arguments["weight"]
    if not isinstance(weight, Param):
        return walk.unknown(walk.values(call.arguments.values()), "a slope that is computed", call.shapes)
    if weight.shape[0] == 1:
        return [Value(value.labels, value.shape, value.sources)]
    return [per_channel(walk.book, value, NormTensors(scale=None, others=(weight.name,)), call.name)]


def _layer_norm(walk: Walk, call: Call) -> list[Value]:
    value = _operand(walk, call)
    axes = tuple(range(len(value.shape)))[-len(call.arguments["normalized_shape"]) :]
    weight = _name(call.arguments["weight"])
    # without a weight nothing tells the module its new width
    return [_across(walk, call, axes, axes[-1], 1, can_follow=len(axes) == 1 and weight is not None)]


def _across(
    walk: Walk, call: Call, axes: tuple[int, ...], channel_axis: int, groups: int, *, can_follow: bool
) -> Value:
    tensors = tuple(name for name in (_name(call.arguments.get(key)) for key in ("weight", "bias")) if name)
    norm = ChannelNorm(
        axes=axes, channel_axis=channel_axis, groups=groups, tensors=tensors, can_follow=can_follow, kind=call.name
    )
    return across_channels(walk.book, _operand(walk, call), norm)


def _group_norm(walk: Walk, call: Call) -> list[Value]:
    ndim = len(_operand(walk, call).shape)
    return [_across(walk, call, tuple(range(1, ndim)), 1, int(call.arguments["num_groups"]), can_follow=True)]


_RULES: dict[str, Rule] = {
    "linear": _layer,
    **dict.fromkeys(_CONVOLUTIONS, _layer),
    "batch_norm": _norm,
    "instance_norm": _norm,
    "layer_norm": _layer_norm,
    "rms_norm": _layer_norm,
    "group_norm": _group_norm,
    "prelu": _prelu,
    **dict.fromkeys(_UNCHANGED, _unchanged),
    **dict.fromkeys(_ZEROS, _zeros),
    **dict.fromkeys(_NEW, _new),
    **dict.fromkeys(_VIEWS, _view),
    **dict.fromkeys(_EXPANDS, _expand),
    "permute": _permute,
    **dict.fromkeys(("transpose", "swapaxes", "swapdims", "t", "numpy_T", "mT"), _transpose),
    **dict.fromkeys(("movedim", "moveaxis"), _movedim),
    "flip": _flip,
    **dict.fromkeys(("slice", "narrow"), _slice),
    "select": _select,
    "unbind": _unbind,
    "index_select": _index_select,
    "index": _index,
    **dict.fromkeys(("im2col", "col2im"), _im2col),
    "unfold": _unfold,
    "grid_sampler": _grid_sampler,
    **dict.fromkeys(("chunk", "split", "split_with_sizes", "tensor_split"), _parts),
    "glu": _glu,
    **dict.fromkeys(("cat", "concat", "concatenate"), _cat),
    "stack": _stack,
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **{f"{kind}_pad{dims}d": _pad for kind in ("reflection", "replication") for dims in (1, 2, 3)},
    **dict.fromkeys(("repeat", "tile"), _repeat),
    **dict.fromkeys(("pixel_shuffle", "pixel_unshuffle"), _pixel_shuffle),
    "channel_shuffle": _channel_shuffle,
    **dict.fromkeys(_REDUCTIONS, _reduction),
    **dict.fromkeys(_COUPLED, _coupled),
}
