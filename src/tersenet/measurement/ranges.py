"""Ranges of activations: between which values each tensor inside an ONNX model lies on calibration inputs.

The model is run in onnxruntime with all its inner values as outputs, a few samples at a time, so that those of a large
network fit into memory. The names are those of the file, as ``export_int8`` needs them.
Axes: T clip points that are tried, B bins of a histogram.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tersenet.data.splits import Inputs
from tersenet.errors import DataError, ModelError
from tersenet.export import OnnxRunner
from tersenet.export.onnx import as_tuple, require, single_precision

Ranges = dict[str, tuple[float, float]]
"""Name of a floating-point value to its lowest and highest number, zero included."""

_PIECE = 16
"""Samples that are run at once."""

_BINS = 2048
_CLIPS = np.linspace(1.0, 0.25, 76)
_LEVELS = 255
"""Steps between the lowest and the highest 8-bit number."""


def activation_ranges(path: str | Path, batches: Iterable[Inputs], *, clip: Literal["mse", "none"] = "mse") -> Ranges:
    """Calibrate every floating-point value of an ONNX model, its inputs included.

    Args:
        path: a file of ``export_onnx``.
        batches: calibration inputs, without targets; a few hundred training images. Gone through once and kept.
        clip: ``none`` takes the lowest and highest number seen. ``mse`` shrinks that range towards zero, both ends by
            the same factor, to where 8 bits make the least squared error, as a histogram tells.

    Raises:
        MissingExtraError: onnx or onnxruntime is not installed.
        NotFoundError: there is no such file.
        ArtifactError: onnxruntime cannot load the file.
        DataError: there are no calibration inputs.
        ModelError: a value is not finite on these inputs.
    """
    probe = _Probe(path)
    held = [tuple(single_precision(tensor.cpu()) for tensor in as_tuple(inputs)) for inputs in batches]
    if sum(len(inputs[0]) for inputs in held) == 0:
        raise DataError("batches holds no calibration inputs. Give a few hundred training inputs.")
    ranges: Ranges = {}
    for name, values in probe.values(held):
        low, high = (float(bound) for bound in values.aminmax())
        if not np.isfinite([low, high]).all():
            raise ModelError(f"The value {name!r} of {str(path)!r} is not finite on the calibration inputs.")
        before = ranges.get(name, (0.0, 0.0))
        ranges[name] = (min(low, before[0]), max(high, before[1]))
    return ranges if clip == "none" else _clipped(ranges, probe, held)


class _Probe:
    """An ONNX model that gives all its values."""

    def __init__(self, path: str | Path) -> None:
        require("onnx", "onnxruntime")
        import onnx
        import onnxruntime

        self._fixed = OnnxRunner(path).fixed_batch_size
        proto = onnx.load(str(path))
        outputs = {value.name for value in proto.graph.output}
        inner = dict.fromkeys(name for node in proto.graph.node for name in node.output if name)
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner if name not in outputs)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        content = proto.SerializeToString()
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def values(self, batches: Iterable[tuple[Tensor, ...]]) -> Iterator[tuple[str, Tensor]]:
        """Name and content of every floating-point value, piece by piece."""
        inputs = [value.name for value in self._session.get_inputs()]
        outputs = [value.name for value in self._session.get_outputs()]
        for piece in _pieces(batches, self._fixed):
            feed = {name: tensor.numpy() for name, tensor in zip(inputs, piece, strict=True)}
            found: dict[str, Any] = feed | dict(zip(outputs, self._session.run(None, feed), strict=True))
            for name, array in found.items():
                if isinstance(array, np.ndarray) and array.dtype == np.float32 and array.size:
                    yield name, torch.from_numpy(array)


def _pieces(batches: Iterable[tuple[Tensor, ...]], fixed: int | None) -> Iterator[tuple[Tensor, ...]]:
    """A few samples at a time; a model with a fixed batch size gets its last sample repeated."""
    size = fixed or _PIECE
    for tensors in batches:
        count = len(tensors[0])
        for start in range(0, count, size):
            rows = torch.arange(start, start + size)
            rows = rows.clamp(max=count - 1) if fixed else rows[rows < count]
            yield tuple(tensor[rows] for tensor in tensors)


def _clipped(ranges: Ranges, probe: _Probe, batches: list[tuple[Tensor, ...]]) -> Ranges:
    counts_B = {name: np.zeros(_BINS) for name in ranges}
    for name, values in probe.values(batches):
        low, high = ranges[name]
        if low < high:
            counts_B[name] += torch.histc(values, _BINS, low, high).double().numpy()
    return {name: _best_range(*bounds, counts_B[name]) for name, bounds in ranges.items()}


def _best_range(low: float, high: float, counts_B: NDArray[np.float64]) -> tuple[float, float]:
    """The shrunken range whose 8-bit numbers are nearest to the centres of the bins, by squared error."""
    if not low < high:
        return low, high
    edges = np.linspace(low, high, _BINS + 1)
    centres_B = (edges[:-1] + edges[1:]) / 2
    lowest_T1, step_T1 = low * _CLIPS[:, None], (high - low) * _CLIPS[:, None] / _LEVELS
    zero_T1 = np.rint(-lowest_T1 / step_T1)  # zero is one of the numbers
    numbers_TB = np.clip(np.rint(centres_B / step_T1) + zero_T1, 0, _LEVELS) - zero_T1
    errors_T = np.square(numbers_TB * step_T1 - centres_B) @ counts_B
    best = float(_CLIPS[errors_T.argmin()])
    return low * best, high * best
