from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn
from torch.nn import functional as F

from tersenet.errors import ArtifactError, ModelError, NotFoundError
from tersenet.export import OnnxRunner, check_onnx, export_int8, export_onnx
from tersenet.measurement import activation_ranges
from tersenet.testing.networks import build, example_inputs, randomize


class Net(nn.Module):
    """A residual sum with a padded shortcut, a depthwise and a transposed convolution, a gate, concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.wide = nn.Conv2d(16, 24, 3, padding=1)
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.gate = nn.Conv2d(24, 24, 1)
        self.up = nn.ConvTranspose2d(24, 8, 2, stride=2)
        self.linear = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        x = F.relu6(self.wide(x) + F.pad(x, (0, 0, 0, 0, 4, 4)))
        x = x + self.depthwise(x)
        x = x * torch.sigmoid(self.gate(F.adaptive_avg_pool2d(x, 1)))
        x = torch.cat([F.max_pool2d(self.up(x), 2), x], dim=1)
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def images(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return randomize(Net(), seed=0).eval()


@pytest.fixture(scope="module")
def fp32(net: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fp32") / "net.onnx"
    export_onnx(path, net, images(2))
    return path


@pytest.fixture(scope="module")
def ranges(fp32: Path) -> dict[str, tuple[float, float]]:
    return activation_ranges(fp32, [images(64, seed=2)], clip="none")


@pytest.mark.slow
def test_the_int8_file_computes_nearly_what_torch_computes_at_any_batch_size(
    net: nn.Module, fp32: Path, ranges: dict[str, tuple[float, float]], tmp_path: Path
) -> None:
    info = export_int8(tmp_path / "int8.onnx", fp32, ranges, reduce_range=True)  # right on processors without VNNI too
    assert list(tmp_path.iterdir()) == [tmp_path / "int8.onnx"]
    assert info.size_bytes == (tmp_path / "int8.onnx").stat().st_size
    result = check_onnx(tmp_path / "int8.onnx", net, [images(100), images(1)])
    assert 1e-4 < result.max_relative_difference < 0.2
    assert result.agreement is not None
    assert result.agreement > 0.9


def test_the_file_means_the_same_to_onnxs_reference_implementation(
    fp32: Path, ranges: dict[str, tuple[float, float]], tmp_path: Path
) -> None:
    export_int8(tmp_path / "int8.onnx", fp32, ranges, reduce_range=True)
    proto = onnx.load(str(tmp_path / "int8.onnx"))
    onnx.checker.check_model(proto, full_check=True)
    assert proto.ir_version <= 10
    assert {(opset.domain, opset.version) for opset in proto.opset_import} == {("", 20)}
    outputs = ReferenceEvaluator(proto).run(None, {proto.graph.input[0].name: images(2).numpy()})
    expected = np.asarray(outputs)[0]
    found = OnnxRunner(tmp_path / "int8.onnx")(images(2))[0].numpy()
    step = np.ptp(expected) / 255
    np.testing.assert_allclose(found, expected, rtol=0, atol=4 * step)  # roundings at ties may differ


def test_weights_are_the_folded_ones_on_127_steps_per_output_channel(
    net: nn.Module, fp32: Path, ranges: dict[str, tuple[float, float]], tmp_path: Path
) -> None:
    info = export_int8(tmp_path / "int8.onnx", fp32, ranges)
    tensors = {tensor.name: tensor for tensor in onnx.load(str(tmp_path / "int8.onnx")).graph.initializer}
    stored = {name: onnx.numpy_helper.to_array(tensor) for name, tensor in tensors.items()}
    state = {name: tensor.double().numpy() for name, tensor in net.state_dict().items()}
    norm = state["norm.weight"] / np.sqrt(state["norm.running_var"] + 1e-5)
    folded = state["conv.weight"] * norm[:, None, None, None]
    expected = np.rint(folded / np.abs(folded).max(axis=(1, 2, 3), keepdims=True) * 127)
    integers = stored["conv.weight_quantized"]
    assert integers.dtype == np.int8
    assert np.abs(integers - expected).max() <= 1  # fp32 rounding near a tie
    assert (integers == expected).mean() > 0.99
    assert {name.partition(".")[0] for name in info.int8_layers} == {"conv", "wide", "depthwise", "gate", "linear"}
    assert info.fp32_layers == ("up.weight",)
    floats = [name for name, values in stored.items() if values.dtype == np.float32 and values.size > 32]
    assert floats == ["up.weight"]


def test_the_runtime_computes_in_integers(fp32: Path, ranges: dict[str, tuple[float, float]], tmp_path: Path) -> None:
    export_int8(tmp_path / "int8.onnx", fp32, ranges)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "running.onnx")
    onnxruntime.InferenceSession(str(tmp_path / "int8.onnx"), options, providers=["CPUExecutionProvider"])
    running = [node.op_type for node in onnx.load(str(tmp_path / "running.onnx")).graph.node]
    assert running.count("QLinearConv") == 4
    assert running.count("QGemm") == 1
    assert "Conv" not in running
    assert {"QLinearAdd", "QLinearMul", "QLinearConcat"} <= set(running)


@pytest.mark.slow
def test_a_network_of_convolutions_shrinks_to_a_quarter(tmp_path: Path) -> None:
    net = randomize(nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3)), seed=0)
    export_onnx(tmp_path / "fp32.onnx", net, images(2))
    ranges = activation_ranges(tmp_path / "fp32.onnx", [images(8)])
    info = export_int8(tmp_path / "int8.onnx", tmp_path / "fp32.onnx", ranges)
    num_weights = 64 * 27 + 64 * 576
    assert num_weights < info.size_bytes < num_weights + 8000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shared_module", "tied_weights", "squeeze_excite", "grouped_conv", "unet", "mlp"])
def test_odd_networks_keep_their_classes(name: str, tmp_path: Path) -> None:
    net, inputs = build(name), example_inputs(name, seed=1, batch_size=64)
    export_onnx(tmp_path / "fp32.onnx", net, example_inputs(name))
    ranges = activation_ranges(tmp_path / "fp32.onnx", [inputs])
    export_int8(tmp_path / "int8.onnx", tmp_path / "fp32.onnx", ranges, reduce_range=True)
    result = check_onnx(tmp_path / "int8.onnx", net, [inputs])
    assert result.max_relative_difference < 0.1
    assert (result.agreement or 0.0) > 0.85


def test_nothing_is_left_behind_and_nothing_is_configured(
    fp32: Path, ranges: dict[str, tuple[float, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    handlers, before = list(logging.getLogger().handlers), fp32.read_bytes()
    export_int8(tmp_path / "int8.onnx", fp32, ranges)
    assert list(temporary.iterdir()) == []
    assert logging.getLogger().handlers == handlers
    assert fp32.read_bytes() == before
    first = (tmp_path / "int8.onnx").read_bytes()
    export_int8(tmp_path / "int8.onnx", fp32, ranges)
    assert (tmp_path / "int8.onnx").read_bytes() == first


@pytest.mark.slow
def test_files_and_ranges_that_do_not_fit_are_refused(
    fp32: Path, ranges: dict[str, tuple[float, float]], tmp_path: Path
) -> None:
    path = tmp_path / "int8.onnx"
    with pytest.raises(NotFoundError, match="no ONNX file"):
        export_int8(path, tmp_path / "none.onnx", ranges)
    with pytest.raises(NotFoundError, match="folder"):
        export_int8(tmp_path / "no" / "int8.onnx", fp32, ranges)
    with pytest.raises(ArtifactError, match="ranges do not fit"):
        export_int8(path, fp32, {"x": (0.0, 1.0)})
    (tmp_path / "text.onnx").write_text("text")
    with pytest.raises(ArtifactError, match="not an ONNX file"):
        export_int8(path, tmp_path / "text.onnx", ranges)
    export_onnx(tmp_path / "half.onnx", nn.Conv2d(3, 64, 3).half().float(), images(2), weights_fp16=True)
    with pytest.raises(ModelError, match="weights_fp16=False"):
        export_int8(path, tmp_path / "half.onnx", ranges)
    assert not path.exists()
