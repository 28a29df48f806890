"""ONNX models of a few nodes, written by hand, and coded weights for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from tersenet.transforms.coded import CodedWeights, LinearWeights, SharedWeights

Array = NDArray[Any]


def shared(
    shape: tuple[int, ...], k: int, *, axis: int = 0, per_codebook: int | None = None, zeros: Array | None = None
) -> SharedWeights:
    """Random indices into random codebooks that all hold 0; where ``zeros`` is true, the index of 0."""
    generator = np.random.default_rng(k)
    num_channels = shape[axis]
    per_codebook = per_codebook or num_channels
    codebooks = np.sort(generator.normal(size=(-(-num_channels // per_codebook), k)).astype(np.float16), axis=1)
    codebooks[:, 0] = 0
    indices: NDArray[np.unsignedinteger[Any]] = generator.integers(0, k, shape).astype(
        np.uint16 if k > 256 else np.uint8
    )
    if zeros is not None:
        indices[zeros] = 0
    return SharedWeights(codebooks=codebooks, indices=indices, axis=axis, channels_per_codebook=per_codebook)


def linear(shape: tuple[int, ...], bits: int, *, axis: int = 0, share_of_zeros: float = 0.0) -> LinearWeights:
    """Random integers and scales; every value of the range occurs if there is room."""
    generator = np.random.default_rng(bits)
    largest = max(1, 2 ** (bits - 1) - 1)
    integers = generator.integers(-largest, largest + 1, shape)
    integers[generator.random(shape) < share_of_zeros] = 0
    if bits == 1:
        integers = np.where(integers > 0, 1, -1)
    scales = (0.01 + generator.random(shape[axis])).astype(np.float16)
    return LinearWeights(integers=integers.astype(np.int8), scales=scales, weight_bits=bits, axis=axis)


def model(nodes: list[Any], constants: dict[str, Array], *, inputs: dict[str, list[Any]], outputs: list[str]) -> Any:
    """A model whose outputs have whatever shape comes out."""
    graph = onnx.helper.make_graph(
        nodes,
        "toy",
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    proto = onnx.shape_inference.infer_shapes(proto)
    proto.graph.ClearField("value_info")
    return proto


def holder(weights: CodedWeights) -> Any:
    """A model that gives its one constant, the decoded weight, multiplied with a single number."""
    node = onnx.helper.make_node("Mul", ["x", "weight"], ["y"])
    return model([node], {"weight": weights.values()}, inputs={"x": []}, outputs=["y"])


def norm_constants(num_channels: int, prefix: str = "") -> dict[str, Array]:
    """The four vectors of a batch norm, by the names that ``norm_node`` gives them."""
    generator = np.random.default_rng(num_channels)
    names = ("gamma", "beta", "mean", "variance")
    vectors: dict[str, Array] = {
        prefix + name: generator.normal(size=num_channels).astype(np.float32) for name in names
    }
    vectors[f"{prefix}variance"] = np.abs(vectors[f"{prefix}variance"]) + 0.5
    return vectors


def norm_node(source: str, output: str, prefix: str = "") -> Any:
    """A batch norm with an epsilon that is not the usual one."""
    names = [prefix + name for name in ("gamma", "beta", "mean", "variance")]
    return onnx.helper.make_node("BatchNormalization", [source, *names], [output], epsilon=0.01)


def run(proto: Any, feed: dict[str, Array]) -> list[Array]:
    """Outputs in onnxruntime."""
    return [np.asarray(output) for output in _session(proto).run(None, feed)]


def operators_at_run_time(proto: Any, folder: Any) -> set[str]:
    """Operators that are left once onnxruntime has loaded the model with basic optimisations."""
    path = str(folder / "optimised.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = path
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    _session(proto, options)
    return {node.op_type for node in onnx.load(path).graph.node}


def _session(proto: Any, options: Any = None) -> Any:
    options = options or onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    onnx.checker.check_model(proto)
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
