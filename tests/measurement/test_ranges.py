from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor

from tersenet.errors import ArtifactError, DataError, ModelError, NotFoundError
from tersenet.measurement.ranges import activation_ranges


def scale_and_clip(folder: Path, *, batch: int | None = None) -> Path:
    """A model with two inner values: ``scaled`` is twice the input, ``out`` its positive part."""
    shape = [batch or "batch", "width"]
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "two"], ["scaled"]),
            helper.make_node("Shape", ["scaled"], ["size"]),  # not floating-point
            helper.make_node("Relu", ["scaled"], ["out"]),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, shape)],
        [onnx.numpy_helper.from_array(np.array(2.0, dtype=np.float32), "two")],
    )
    path = folder / "model.onnx"
    path.write_bytes(
        helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]).SerializeToString()
    )
    return path


def batches() -> list[Tensor]:
    return [torch.tensor([[-1.0, 0.5, 2.0], [0.0, 1.0, 1.0]]), torch.tensor([[3.0, -0.25, 1.0]])]


def test_lowest_and_highest_numbers_over_all_batches_by_hand(tmp_path: Path) -> None:
    found = activation_ranges(scale_and_clip(tmp_path), iter(batches()), clip="none")
    assert found == {"x": (-1.0, 3.0), "scaled": (-2.0, 6.0), "out": (0.0, 6.0)}


def test_zero_is_always_included(tmp_path: Path) -> None:
    found = activation_ranges(scale_and_clip(tmp_path), [torch.full((2, 3), 5.0)], clip="none")
    assert found["x"] == (0.0, 5.0)
    assert activation_ranges(scale_and_clip(tmp_path), [torch.zeros(2, 3)])["x"] == (0.0, 0.0)


@pytest.mark.parametrize("size", [1, 2, 50])
def test_batches_of_any_size_and_a_fixed_batch_size_give_the_same(tmp_path: Path, size: int) -> None:
    inputs = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    whole = activation_ranges(scale_and_clip(tmp_path), [inputs], clip="none")
    parts = [inputs[start : start + size] for start in range(0, 50, size)]
    assert activation_ranges(scale_and_clip(tmp_path), parts, clip="none") == whole
    assert activation_ranges(scale_and_clip(tmp_path, batch=4), parts, clip="none") == whole


def rounding_error(values: NDArray[np.float64], low: float, high: float) -> float:
    """Squared error of 8-bit numbers, one of which is zero."""
    step = (high - low) / 255
    zero = np.rint(-low / step)
    return float(np.square(step * (np.clip(np.rint(values / step) + zero, 0, 255) - zero) - values).sum())


@pytest.mark.parametrize("kind", ["normal", "heavy tails", "uniform", "positive"])
def test_the_clipped_range_has_the_least_squared_error_on_the_values_themselves(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    values = {
        "normal": rng.normal(size=(12, 1000)),
        "heavy tails": rng.standard_t(2.5, size=(12, 1000)),
        "uniform": rng.uniform(-1, 2, size=(12, 1000)),
        "positive": np.abs(rng.normal(size=(12, 1000))) ** 3,
    }[kind].astype(np.float32)
    low, high = activation_ranges(scale_and_clip(tmp_path), [torch.from_numpy(values)])["x"]
    exact = values.astype(np.float64)
    lowest, highest = min(0.0, exact.min()), exact.max()
    assert low / lowest == pytest.approx(high / highest) if lowest < 0 else low == 0.0
    least = min(rounding_error(exact, lowest * clip, highest * clip) for clip in np.linspace(0.25, 1.0, 151))
    assert rounding_error(exact, low, high) <= 1.02 * least


def test_a_rare_outlier_does_not_coarsen_everything_else(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(30, 10_000)).astype(np.float32)
    values[5, 1] = 16.0
    low, high = activation_ranges(scale_and_clip(tmp_path), [torch.from_numpy(values)])["x"]
    assert high < 14.0
    exact = values.astype(np.float64)
    assert rounding_error(exact, low, high) < 0.9 * rounding_error(exact, exact.min(), 16.0)


def test_what_cannot_be_calibrated_is_refused(tmp_path: Path) -> None:
    path = scale_and_clip(tmp_path)
    with pytest.raises(DataError, match="no calibration inputs"):
        activation_ranges(path, [])
    with pytest.raises(ModelError, match=r"'x' of .* is not finite"):
        activation_ranges(path, [torch.full((1, 3), float("nan"))])
    with pytest.raises(NotFoundError, match="no ONNX file"):
        activation_ranges(tmp_path / "none.onnx", batches())
    path.write_bytes(b"not a model")
    with pytest.raises(ArtifactError, match="cannot load"):
        activation_ranges(path, batches())
