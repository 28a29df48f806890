from __future__ import annotations

import copy
import errno
import itertools
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tersenet.errors import ArtifactError, MissingExtraError, ModelError, NotFoundError
from tersenet.export import OnnxRunner, check_onnx, export_onnx


class Block(nn.Module):
    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        stride = 1 if num_in == num_out else 2
        self.conv1 = nn.Conv2d(num_in, num_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(num_out)
        self.conv2 = nn.Conv2d(num_out, num_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(num_out)
        self.padding = (num_out - num_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.padding:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(x + y)


class SmallResNet(nn.Module):
    """A CIFAR ResNet with padded shortcuts; ``depth`` 3 and ``width`` 16 make a ResNet-20."""

    def __init__(self, depth: int = 1, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        widths = [width] * (depth + 1) + [2 * width] * depth + [4 * width] * depth
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in itertools.pairwise(widths)))
        self.linear = nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.bn1(self.conv1(x))))
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random values everywhere, so that no norm is the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                spread = 0.5 + torch.rand(tensor.shape, generator=generator)
                noise = torch.randn(tensor.shape, generator=generator) / max(1, tensor[0].numel()) ** 0.5
                tensor.copy_(spread if "running_var" in name else noise if tensor.ndim > 1 else 0.3 * spread)
    return model.eval()


def images(count: int, *, size: int = 16, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def num_param_bytes(model: nn.Module) -> int:
    return 4 * sum(parameter.numel() for parameter in model.parameters())


def run_plainly(path: Path, inputs: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The file's first output, by onnxruntime's own interface."""
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    return np.asarray(outputs[0])


def check_that_the_file_is_lean(path: Path, model: nn.Module) -> None:
    size = path.stat().st_size
    assert num_param_bytes(model) * 0.99 < size <= 1.02 * num_param_bytes(model) + 20_000
    proto = onnx.load(str(path))
    assert not [node for node in proto.graph.node if node.op_type == "BatchNormalization" or node.doc_string]
    stored = [onnx.numpy_helper.to_array(tensor).tobytes() for tensor in proto.graph.initializer]
    large = [content for content in stored if len(content) > 256]
    assert len(large) == len(set(large))


@pytest.mark.slow
def test_the_file_computes_what_torch_computes_at_any_batch_size_and_holds_each_weight_once(tmp_path: Path) -> None:
    model = lively(SmallResNet()).train()
    before = copy.deepcopy(model.state_dict())
    path = tmp_path / "net.onnx"
    size = export_onnx(path, model, images(1))
    assert size == path.stat().st_size
    assert model.training
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())
    model.eval()
    for count in (1, 3, 8):
        with torch.no_grad():
            expected = model(images(count)).numpy()
        np.testing.assert_allclose(run_plainly(path, images(count)), expected, rtol=0, atol=1e-5)
    proto = onnx.load(str(path))
    onnx.checker.check_model(proto, full_check=True)
    assert proto.ir_version <= 10
    assert [opset.version for opset in proto.opset_import if opset.domain == ""] == [20]
    assert [value.type.tensor_type.shape.dim[0].dim_param for value in proto.graph.input] == ["batch"]
    check_that_the_file_is_lean(path, model)
    assert list(tmp_path.iterdir()) == [path]  # nothing beside it, and no temporary file


@pytest.mark.slow
def test_exact_fp16_values_halve_the_file_and_leave_no_trace_in_the_running_graph(tmp_path: Path) -> None:
    model = lively(SmallResNet()).half().float()
    path = tmp_path / "half.onnx"
    size = export_onnx(path, model, images(2), weights_fp16=True)
    assert num_param_bytes(model) / 2 < size < num_param_bytes(model) / 2 * 1.02 + 20_000
    assert check_onnx(path, model, [images(4)]).max_relative_difference < 1e-5
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    running = {node.op_type for node in onnx.load(str(tmp_path / "optimised.onnx")).graph.node}
    assert running.isdisjoint({"Cast", "BatchNormalization"})  # folded once, at load
    assert "Conv" in running


@pytest.mark.slow
def test_values_that_fp16_cannot_hold_stay_fp32(tmp_path: Path) -> None:
    model = lively(SmallResNet())
    with torch.no_grad():
        model.get_parameter("linear.weight").copy_(model.get_parameter("linear.weight").half().float())
        model.get_parameter("blocks.2.conv2.weight").fill_(1e5)  # beyond the range of fp16
    export_onnx(tmp_path / "net.onnx", model, images(2), weights_fp16=True)
    proto = onnx.load(str(tmp_path / "net.onnx"))
    halves = [tensor for tensor in proto.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16]
    assert [tuple(tensor.dims) for tensor in halves] in ([(10, 32)], [(32, 10)])
    assert check_onnx(tmp_path / "net.onnx", model, [images(4)]).max_relative_difference < 1e-5


class TwoInputs(nn.Module):
    """Two inputs; a dict with a map and a nested tuple comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.linear = nn.Linear(5, 4)
        self.twin = nn.Linear(5, 4)
        self.twin.weight = self.linear.weight

    def forward(self, image: Tensor, vector: Tensor) -> dict[str, object]:
        y = self.conv(image) + (self.linear(vector) * self.twin(vector))[:, :, None, None]
        return {"map": F.interpolate(y, scale_factor=2.0), "pooled": (y.mean((2, 3)), y.flatten(1))}


@pytest.mark.slow
def test_several_inputs_and_nested_outputs_come_flattened_in_order(tmp_path: Path) -> None:
    model = lively(TwoInputs())
    path = tmp_path / "net.onnx"
    export_onnx(path, model, (images(2, size=8), torch.randn(2, 5)))
    inputs = (images(3, size=8), torch.linspace(-1, 1, 15).reshape(3, 5))
    with torch.no_grad():
        expected = model(*inputs)
    found = OnnxRunner(path, num_threads=1)(inputs)
    for ours, theirs in zip([expected["map"], *expected["pooled"]], found, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)
    result = check_onnx(path, model, [inputs, inputs])
    assert result.num_samples == 6
    assert result.max_abs_difference < 1e-5
    assert result.agreement == 1.0  # the classes of 2 x 3 maps of 16 x 16
    with pytest.raises(ValueError, match="takes 2 inputs"):
        OnnxRunner(path)(inputs[0])


class FixedBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([image.mean((1, 2)) for image in self.conv(x)])


@pytest.mark.slow
def test_a_batch_size_written_into_the_forward_stays_in_the_file(tmp_path: Path) -> None:
    model = lively(FixedBatch())
    export_onnx(tmp_path / "net.onnx", model, images(4))
    runner = OnnxRunner(tmp_path / "net.onnx")
    assert runner.fixed_batch_size == 4
    with torch.no_grad():
        torch.testing.assert_close(runner(images(4))[0], model(images(4)), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="batches of 4 only, got 3"):
        runner(images(3))
    for size in (1, 4, 7):  # in pieces of 4, the last filled up
        with torch.no_grad():
            torch.testing.assert_close(runner.predict(images(size))[0], model(images(size)), rtol=0, atol=1e-5)
    export_onnx(tmp_path / "one.onnx", model, images(1))
    assert OnnxRunner(tmp_path / "one.onnx").fixed_batch_size == 1


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_of_another_precision_becomes_a_file_in_single_precision(tmp_path: Path, dtype: torch.dtype) -> None:
    model = nn.Linear(3, 2).to(dtype)
    weight, bias = model.weight.detach().double().numpy(), model.bias.detach().double().numpy()
    export_onnx(tmp_path / "net.onnx", model, torch.ones(2, 3, dtype=dtype))
    inputs = np.array([[1.0, -2.0, 0.5]], dtype=np.float32)
    found = OnnxRunner(tmp_path / "net.onnx")(torch.from_numpy(inputs))[0]
    np.testing.assert_allclose(found.numpy(), inputs @ weight.T + bias, rtol=1e-6, atol=1e-6)
    assert model.weight.dtype == dtype
    assert check_onnx(tmp_path / "net.onnx", model, [torch.from_numpy(inputs)]).max_relative_difference < 1e-6


@pytest.mark.slow
def test_differences_are_found_and_measured_against_the_largest_output(tmp_path: Path) -> None:
    model = nn.Linear(2, 2, bias=False)
    nn.init.eye_(model.weight)
    export_onnx(tmp_path / "net.onnx", model, torch.ones(2, 2))
    with torch.no_grad():
        model.weight[1, 1] = 1.5
    # by hand: (4, 3) becomes (4, 4.5): 1.5 apart, another class; (4, 2) becomes (4, 3): 1 apart, the same class
    result = check_onnx(tmp_path / "net.onnx", model, [torch.tensor([[4.0, 3.0]]), torch.tensor([[4.0, 2.0]])])
    assert result.max_abs_difference == 1.5
    assert result.max_relative_difference == pytest.approx(1.5 / 4.5)
    assert (result.agreement, result.num_samples) == (0.5, 2)
    with torch.no_grad():
        model.weight[0, 0] = float("nan")
    broken = check_onnx(tmp_path / "net.onnx", model, [torch.ones(1, 2)])
    assert np.isnan(broken.max_abs_difference)
    assert np.isnan(broken.max_relative_difference)
    with pytest.raises(ArtifactError, match="Export it again"):
        check_onnx(tmp_path / "net.onnx", nn.Linear(2, 3), [torch.ones(1, 2)])
    with pytest.raises(ValueError, match="batches is empty"):
        check_onnx(tmp_path / "net.onnx", model, [])


@pytest.mark.slow
def test_a_network_that_cannot_be_exported_is_told_in_one_line_and_nothing_is_left(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum().item() > 0 else -x

    with pytest.raises(ModelError, match="cannot be exported to ONNX"):
        export_onnx(tmp_path / "net.onnx", Branching(), torch.ones(2, 3))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactError, match="No space left"):
        export_onnx(tmp_path / "net.onnx", nn.Linear(3, 2), torch.ones(2, 3))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_library_or_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFoundError, match="absent"):
        OnnxRunner(tmp_path / "absent.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a protobuf")
    with pytest.raises(ArtifactError, match="cannot load"):
        OnnxRunner(tmp_path / "bad.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tersenet\[onnx\]'"):
        export_onnx(tmp_path / "net.onnx", nn.Linear(3, 2), torch.ones(2, 3))
    with pytest.raises(MissingExtraError, match="onnxruntime"):
        OnnxRunner(tmp_path / "bad.onnx")


def test_an_operator_set_out_of_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="between 18 and 20, got 26"):
        export_onnx(tmp_path / "net.onnx", nn.Linear(3, 2), torch.ones(2, 3), opset=26)


@pytest.mark.slow
def test_the_exporter_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_onnx(tmp_path / "net.onnx", nn.Linear(3, 2), torch.ones(2, 3))
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 19, 20])
def test_older_operator_sets_load_too(opset: int, tmp_path: Path) -> None:
    model = lively(SmallResNet(depth=3, width=16))
    export_onnx(tmp_path / "net.onnx", model, images(2, size=32), opset=opset)
    check_that_the_file_is_lean(tmp_path / "net.onnx", model)
    proto = onnx.load(str(tmp_path / "net.onnx"))
    assert [one.version for one in proto.opset_import if one.domain == ""] == [opset]
    assert check_onnx(tmp_path / "net.onnx", model, [images(4, size=32)]).max_relative_difference < 1e-5
