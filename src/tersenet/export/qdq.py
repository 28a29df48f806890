"""A static int8 ONNX model, for speed: activations and weights as 8-bit numbers, marked by QuantizeLinear pairs.

onnxruntime turns an operator between such pairs into an integer kernel: CIFAR ResNets then run 1.9 to 2.6 times as fast
as in fp32 (one thread, a processor with VNNI instructions, ``benchmarks/int8.py``). Its own quantiser writes the pairs,
from ranges that ``measurement/ranges.py`` found: activations uint8 with one scale per tensor, weights int8 with one
scale per output channel, biases int32. What has no integer kernel stays fp32 between two pairs.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tersenet.core.files import write_whole
from tersenet.errors import ArtifactError, ModelError, NotFoundError
from tersenet.export.onnx import require
from tersenet.export.slim import strip

_LAYERS = ("Conv", "Gemm", "MatMul")
_OPERATORS = (
    *_LAYERS,
    *("Add", "Mul", "Relu", "Clip", "LeakyRelu", "Sigmoid"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "Concat", "Split", "Slice", "Pad"),
    *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"),
)
"""What has a fast integer kernel in onnxruntime, or moves numbers only."""


@dataclass(frozen=True, kw_only=True)
class Int8Info:
    """What an int8 file holds."""

    size_bytes: int
    """Of the file on disk."""

    int8_layers: tuple[str, ...]
    """Weights of convolutions and linear layers that are int8, by the names of the fp32 file."""

    fp32_layers: tuple[str, ...]
    """Those that stayed fp32: transposed convolutions, and weights that are computed when the file runs."""


def export_int8(
    path: str | Path,
    fp32_path: str | Path,
    ranges: Mapping[str, tuple[float, float]],
    *,
    reduce_range: bool = False,
) -> Int8Info:
    """Write the int8 variant of an fp32 ONNX file; a failure leaves no part of it behind.

    Args:
        path: the file.
        fp32_path: a file of ``export_onnx`` with ``weights_fp16=False``: batch norms folded, plain fp32 weights.
        ranges: lowest and highest number of every value in it, by name: ``activation_ranges(fp32_path, ...)``.
        reduce_range: weights of 7 bits, for a file that must also run on x86 processors without VNNI instructions:
            their kernels add two products in 16 bits, where two of 8 bits can saturate.

    Raises:
        MissingExtraError: onnx or onnxruntime is not installed.
        NotFoundError: ``fp32_path`` or the folder of ``path`` does not exist.
        ModelError: nothing in the network can be quantised.
        ArtifactError: ``fp32_path`` is not an ONNX file, ``ranges`` are not of it, or the file cannot be written.
    """
    require("onnx", "onnxruntime")
    proto = _loaded(fp32_path)
    int8, fp32 = _layers(proto.graph)
    if not int8:
        raise ModelError(
            f"{str(fp32_path)!r} has no convolution or linear layer with plain fp32 weights, so nothing in it "
            "would become int8. Write it with weights_fp16=False."
        )
    quantised = _quantised(proto, ranges, excluded=list(fp32), reduce_range=reduce_range)
    strip(quantised)
    size = write_whole(path, quantised.SerializeToString(deterministic=True))
    return Int8Info(size_bytes=size, int8_layers=tuple(int8.values()), fp32_layers=tuple(fp32.values()))


def _loaded(path: str | Path) -> Any:
    """The fp32 model, every node with a name, since the quantiser tells nodes apart by it."""
    import onnx

    if not Path(path).is_file():
        raise NotFoundError(f"There is no ONNX file {str(path)!r}.")
    try:
        proto = onnx.load(str(path))
    except Exception as error:
        raise ArtifactError(f"{str(path)!r} is not an ONNX file. Write it with export_onnx.") from error
    for number, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type}_{number}"
    return proto


def _layers(graph: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Nodes whose weights become int8 and nodes that stay fp32, each with the name of its weight."""
    import onnx

    plain = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    int8 = {node.name: node.input[1] for node in graph.node if node.op_type in _LAYERS and node.input[1] in plain}
    layers = {node.name: node.input[1] for node in graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm")}
    return int8, {name: weight for name, weight in layers.items() if name not in int8}


def _quantised(
    proto: Any, ranges: Mapping[str, tuple[float, float]], *, excluded: list[str], reduce_range: bool
) -> Any:
    from onnxruntime.quantization import QDQQuantizer, QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData

    bounds = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    try:
        with _logged_to_nobody():
            quantizer = QDQQuantizer(
                proto,
                per_channel=True,
                reduce_range=reduce_range,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QUInt8,
                tensors_range=TensorsData(CalibrationMethod.MinMax, bounds),
                nodes_to_quantize=[],
                nodes_to_exclude=excluded,
                op_types_to_quantize=list(_OPERATORS),
                extra_options={},
            )
            quantizer.quantize_model()
    except ValueError as error:
        raise ArtifactError(f"ranges do not fit the network ({error}). Calibrate this very file.") from error
    quantizer.model.topological_sort()
    return quantizer.model.model


@contextlib.contextmanager
def _logged_to_nobody() -> Iterator[None]:
    """The quantiser logs to the root, which would give a program without logging a handler that it never asked for."""
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
