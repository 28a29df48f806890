"""ONNX files that stay small: weights as indices into codebooks or as small integers, decoded once at load.

onnxruntime computes what depends on constants only when it loads a file, at every level of graph optimisation but
none. So weights are packed bytes (``enc_digits``) and the standard operators that read them, ``packed ->
Gather(codebook) -> Reshape -> Mul(scale per channel) -> Conv(bias = shift)``; a pass is as fast as the dense file's.
``DequantizeLinear`` is the exception: onnxruntime keeps it for integer arithmetic and computes it again at every pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tersenet.errors import ModelError
from tersenet.export.enc_graph import Graph, Use
from tersenet.export.enc_norms import absorb_norm
from tersenet.export.enc_pools import Pools, smallest_bytes
from tersenet.transforms.coded import CodedWeights, LinearWeights, SharedWeights

LinearEncoding = Literal["folded", "dequantize"]
"""How linear weights are decoded: once, at load, or by ``DequantizeLinear``, which some runtimes look for."""

Scale = NDArray[np.float64] | None
"""Of each output channel; None where no norm was taken in."""

_DEQUANTIZED = {8: "INT8", 4: "INT4", 2: "INT2"}
"""Widths that ONNX has a type for; the others are always folded."""


def check_coded(model: nn.Module, coded: Mapping[str, CodedWeights]) -> None:
    """Make sure that the network holds what the codes stand for.

    Raises:
        ModelError: a tensor is not there, or has other values.
    """
    tensors = model.state_dict()
    for name, weights in coded.items():
        if name not in tensors:
            raise ModelError(
                f"coded names {name!r}, but the network has no such tensor. Use names of its state_dict()."
            )
        if not np.array_equal(tensors[name].detach().cpu().float().numpy(), weights.values()):
            raise ModelError(
                f"The network's {name!r} does not hold coded[{name!r}].values(). Copy them into it before the export."
            )


def opset_for(coded: Mapping[str, CodedWeights], encoding: LinearEncoding) -> int:
    """The oldest operator set that knows the types of number that will be written."""
    widths = [weights.weight_bits for weights in coded.values() if isinstance(weights, LinearWeights)]
    if encoding == "folded" or not {2, 4} & set(widths):
        return 18
    return 25 if 2 in widths else 21


def coded_constants(proto: Any, coded: Mapping[str, CodedWeights]) -> dict[str, CodedWeights]:
    """The constants of an ONNX model that hold coded weights, by their names there.

    They are found by their values, since the exporter gives tied tensors one of their names.
    """
    by_values = {_key(weights.values()): weights for weights in coded.values()}
    found = ((name, by_values.get(_key(values))) for name, values in Graph(proto.graph).constants())
    return {name: weights for name, weights in found if weights is not None}


def encode_weights(proto: Any, coded: Mapping[str, CodedWeights], *, encoding: LinearEncoding = "folded") -> None:
    """Replace every constant that holds coded weights by its codes and what decodes them, in place.

    A batch norm right behind such a layer becomes a scale and a shift per channel. Constants that are not coded stay.

    Args:
        proto: the ONNX model of a network that holds ``values()``, its norms not folded.
        coded: by name of the tensor; weights that the model's outputs do not depend on are not there and not missed.
        encoding: for linear weights of 8, 4 and 2 bits; all others are folded.
    """
    found = coded_constants(proto, coded)
    graph = Graph(proto.graph)
    pools = Pools(graph)
    for name, weights in found.items():
        _encode(graph, pools, name, weights, encoding)
    pools.write()
    graph.finish()


def _key(values: NDArray[Any]) -> tuple[object, ...]:
    return values.shape, (values + np.float32(0)).tobytes()  # -0.0 is 0.0


def _encode(graph: Graph, pools: Pools, name: str, weights: CodedWeights, encoding: LinearEncoding) -> None:
    """One tensor; where no norm was taken in it keeps its name, so that what reads it does not have to change."""
    forms: dict[bytes, tuple[Scale, list[Use]]] = {b"": (None, [])}  # what is read unscaled comes first
    for use in graph.uses(name):
        scale = absorb_norm(graph, pools, use[0], axis=weights.axis) if use[1] == 1 else None
        forms.setdefault(b"" if scale is None else scale.tobytes(), (scale, []))[1].append(use)
    if not forms[b""][1] and not graph.is_seen_outside(name):
        del forms[b""]
    outputs = [name, *[None] * (len(forms) - 1)]
    is_plain = isinstance(weights, SharedWeights) and b"" in forms
    stored_type = _stored_type(weights, encoding)
    codes = _write_codes(graph, pools, weights, stored_type, output=name if is_plain else None)
    for (scale, uses), output in zip(forms.values(), outputs, strict=True):
        factor = scale if isinstance(weights, SharedWeights) else _product(weights.scales, scale)
        decoded = codes
        if factor is not None and stored_type is not None:
            factors = pools.vector(factor.astype(np.float32))
            decoded = graph.node("DequantizeLinear", codes, factors, output=output, axis=weights.axis)
        elif factor is not None:
            decoded = graph.node("Mul", codes, pools.vector(_per_channel(factor, weights)), output=output)
        for node, place in uses:
            node.input[place] = decoded


def _product(scales: NDArray[Any], scale: Scale) -> NDArray[np.float64]:
    own: NDArray[np.float64] = scales.astype(np.float64)
    return own if scale is None else own * scale


def _stored_type(weights: CodedWeights, encoding: LinearEncoding) -> str | None:
    """ONNX's type for the integers; None where they are packed by us."""
    if isinstance(weights, LinearWeights) and encoding == "dequantize":
        return _DEQUANTIZED.get(weights.weight_bits)
    return None


def _per_channel(factor: NDArray[np.float64], weights: CodedWeights) -> NDArray[np.float32]:
    """One number per output channel, in a shape that broadcasts to the weight's."""
    codes = weights.indices if isinstance(weights, SharedWeights) else weights.integers
    return factor.astype(np.float32).reshape(-1, *[1] * (codes.ndim - 1 - weights.axis))


def _write_codes(
    graph: Graph, pools: Pools, weights: CodedWeights, stored_type: str | None, *, output: str | None
) -> str:
    """Shared values, or integers (as fp32, or of the stored type), in the weight's shape."""
    if isinstance(weights, SharedWeights):
        return _write_shared(graph, pools, weights, output=output)
    if stored_type is not None:
        return _write_integers(graph, weights, stored_type)
    return _write_linear(graph, pools, weights)


def _write_shared(graph: Graph, pools: Pools, weights: SharedWeights, *, output: str | None) -> str:
    codebooks, indices_OF = _from_most_frequent(weights)
    num_codebooks, num_values = codebooks.shape
    moved_shape = np.moveaxis(weights.indices, weights.axis, 0).shape
    table = pools.vector(codebooks.reshape(-1))
    codes = pools.integers(indices_OF.reshape(moved_shape), num_values)
    if num_codebooks == 1:
        decoded = graph.node("Gather", table, codes)
    else:
        if weights.channels_per_codebook > 1:
            repeated = np.array([num_codebooks, weights.channels_per_codebook, num_values])
            table = graph.reshape(table, (num_codebooks, 1, num_values))
            table = graph.node("Expand", table, graph.constant(repeated))
        rows = graph.reshape(table, (-1, num_values))  # a codebook for each channel
        decoded = graph.node("GatherElements", rows, graph.reshape(codes, indices_OF.shape), axis=1)
    if weights.axis == 0:
        return graph.reshape(decoded, moved_shape, output=output)
    order = [1, 0, *range(2, len(moved_shape))]
    return graph.node("Transpose", graph.reshape(decoded, moved_shape), output=output, perm=order)


def _from_most_frequent(weights: SharedWeights) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Codebooks and indices, rotated so that each block's most frequent value has index 0; without unused values."""
    codebooks = weights.codebooks.astype(np.float32)
    indices: NDArray[np.int64] = np.moveaxis(weights.indices, weights.axis, 0).astype(np.int64)
    indices_OF = indices.reshape(len(indices), -1)
    if len(codebooks) == 1:
        used, dense = np.unique(indices_OF, return_inverse=True)
        codebooks, indices_OF = codebooks[:, used], dense.reshape(indices_OF.shape)
    num_values = codebooks.shape[1]
    rotated = np.empty_like(codebooks)
    for block, codebook in enumerate(codebooks):
        rows = slice(block * weights.channels_per_codebook, (block + 1) * weights.channels_per_codebook)
        first = int(np.bincount(indices_OF[rows].reshape(-1), minlength=num_values).argmax())
        rotated[block] = np.roll(codebook, -first)
        indices_OF[rows] = (indices_OF[rows] - first) % num_values
    return rotated, indices_OF


def _write_linear(graph: Graph, pools: Pools, weights: LinearWeights) -> str:
    import onnx

    integers = weights.integers.astype(np.int64)
    if weights.weight_bits == 1:
        levels, indices = np.array([-1, 1], np.float32), (integers + 1) // 2
    else:
        largest = 2 ** (weights.weight_bits - 1) - 1
        levels = np.roll(np.arange(-largest, largest + 1, dtype=np.float32), -largest)  # 0, 1, ..., -2, -1
        indices = integers % len(levels)
    if weights.weight_bits == 8 and smallest_bytes(indices, len(levels)) >= integers.size:
        return graph.node("Cast", graph.constant(weights.integers), to=onnx.TensorProto.FLOAT)
    decoded = graph.node("Gather", graph.constant(levels), pools.integers(indices, len(levels)))
    return graph.reshape(decoded, integers.shape)


def _write_integers(graph: Graph, weights: LinearWeights, stored_type: str) -> str:
    """In ONNX's own type, the first of two or four in the lowest bits of a byte."""
    import onnx

    per_byte = 8 // weights.weight_bits
    padded = np.zeros(-(-weights.integers.size // per_byte) * per_byte, np.uint8)
    padded[: weights.integers.size] = weights.integers.reshape(-1).view(np.uint8) & (2**weights.weight_bits - 1)
    shifts = np.arange(per_byte, dtype=np.uint8) * weights.weight_bits
    content = np.bitwise_or.reduce(padded.reshape(-1, per_byte) << shifts, axis=1).astype(np.uint8)
    return graph.raw_constant(content.tobytes(), weights.integers.shape, onnx.TensorProto.DataType.Value(stored_type))
