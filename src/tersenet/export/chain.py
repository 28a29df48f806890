"""A chain of convolutions as an ONNX file, written directly: to measure what a runtime makes of it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from tersenet.export.onnx import MAX_IR_VERSION, OPSET, require


def write_chain(
    path: Path, *, num_channels: int, kernel_size: tuple[int, ...], positions: tuple[int, ...], length: int
) -> None:
    """Write convolutions with as many outputs as inputs, each followed by a ReLU; the size of the maps stays.

    Args:
        kernel_size: one number per spatial axis.
        positions: size of the maps, one number per spatial axis.
        length: convolutions in a row.

    Raises:
        MissingExtraError: onnx is not installed.
    """
    require("onnx")
    from onnx import TensorProto, helper, numpy_helper, save

    rng = np.random.default_rng(0)
    scale = 1.0 / math.sqrt(num_channels * math.prod(kernel_size))  # values stay at the scale of the inputs
    shape = (num_channels, num_channels, *kernel_size)
    value, nodes, weights = "input", [], []
    for number in range(length):
        numbers = scale * rng.standard_normal(shape, dtype=np.float32)
        weights.append(numpy_helper.from_array(numbers.astype(np.float32), f"weight{number}"))
        inputs, made = [value, f"weight{number}"], f"conv{number}"
        nodes.append(helper.make_node("Conv", inputs, [made], kernel_shape=kernel_size, auto_pad="SAME_UPPER"))
        value = f"relu{number}"
        nodes.append(helper.make_node("Relu", [made], [value]))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, num_channels, *positions])
        for name in ("input", value)
    ]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    opset = helper.make_opsetid("", OPSET)
    save(helper.make_model(graph, opset_imports=[opset], ir_version=MAX_IR_VERSION), path)
