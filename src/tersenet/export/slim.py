"""Make an ONNX file smaller without changing what it computes, by editing its protobuf.

Weights are written as raw bytes: onnx's helper would store fp16 as varints, half as large again. A Cast from fp16
is folded once when onnxruntime loads the file, so it costs no time.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MIN_VALUES = 64
"""Tensors with fewer values stay fp32: the node that widens them would take as much room as it saves."""


def strip(proto: Any) -> None:
    """Remove notes, inner shapes and names that nothing refers to; name the free batch axis ``batch``."""
    graph = proto.graph
    proto.ClearField("metadata_props")
    proto.ClearField("doc_string")
    for field in ("value_info", "metadata_props", "doc_string"):
        graph.ClearField(field)
    for node in graph.node:
        for field in ("metadata_props", "doc_string", "name"):
            node.ClearField(field)
    for value in [*graph.input, *graph.output, *graph.initializer]:
        value.ClearField("metadata_props")
        value.ClearField("doc_string")
    _name_axes(graph)


def drop_defaults(proto: Any) -> None:
    """Leave out the attributes of convolutions and linear layers that say what holds without them."""
    for node in proto.graph.node:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm"):
            kept = [attribute for attribute in node.attribute if not _is_default(attribute)]
            del node.attribute[:]
            node.attribute.extend(kept)


def store_as_fp16(proto: Any) -> None:
    """Store each fp32 constant that fp16 holds exactly as fp16, widened by a Cast; drop biases that are all zero."""
    import onnx

    graph = proto.graph
    _drop_zero_biases(graph)
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        with np.errstate(over="ignore", under="ignore"):
            halves = values.astype("<f2")
        if values.size < _MIN_VALUES or not _same_bits(halves.astype(np.float32), values):
            continue
        name = tensor.name
        tensor.name = f"{name}.fp16"
        tensor.data_type = onnx.TensorProto.FLOAT16
        tensor.ClearField("float_data")
        tensor.raw_data = halves.tobytes()
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _is_default(attribute: Any) -> bool:
    if attribute.name == "auto_pad":
        return bool(attribute.s == b"NOTSET")
    if attribute.name in ("strides", "dilations"):
        return all(size == 1 for size in attribute.ints)
    defaults = {"group": 1, "transA": 0, "transB": 0}
    if attribute.name in defaults:
        return bool(attribute.i == defaults[attribute.name])
    return attribute.name in ("alpha", "beta") and attribute.f == 1.0


def _same_bits(first: NDArray[np.float32], second: NDArray[np.float32]) -> bool:
    return first.tobytes() == second.astype(np.float32).tobytes()


def _drop_zero_biases(graph: Any) -> None:
    """A convolution without a bias leaves the exporter with a row of zeros for one."""
    import onnx

    initializers = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        has_bias = node.op_type in ("Conv", "ConvTranspose") and len(node.input) == 3
        bias = initializers.get(node.input[2]) if has_bias else None
        if bias is not None and not onnx.numpy_helper.to_array(bias).any():
            del node.input[2:]
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    if any(attribute.HasField("g") for node in graph.node for attribute in node.attribute):
        return  # inner graphs see the outer constants by name
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _name_axes(graph: Any) -> None:
    """``s77`` becomes ``batch``, a second free axis ``batch_2``; expressions such as ``2*s77`` follow."""
    new_names: dict[str, str] = {}
    for value in [*graph.input, *graph.output]:
        for axis in value.type.tensor_type.shape.dim:
            for symbol in re.findall(r"[A-Za-z_]\w*", axis.dim_param):
                new_names.setdefault(symbol, f"batch_{len(new_names) + 1}" if new_names else "batch")
            if axis.dim_param:
                axis.dim_param = re.sub(r"[A-Za-z_]\w*", lambda found: new_names[found.group()], axis.dim_param)
