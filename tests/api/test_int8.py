"""An int8 file beside the others, where it was asked for: written, measured, and refused before anything is spent."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tersenet import Policy
from tersenet.api import CompressOptions, Result, apply, compress, evaluate
from tersenet.api.int8 import TRIED_SAMPLES, _calibration, _caveats, check_export
from tersenet.core.metrics import Latency
from tersenet.core.policy import ChannelDecision
from tersenet.core.summary import Int8File
from tersenet.core.target import Target
from tersenet.data import Data
from tersenet.data.splits import Source
from tersenet.errors import MissingExtraError, ModelError, UnknownNameError

POLICY = Policy(channels={"block1.conv1": ChannelDecision(pruning_ratio=0.25)})


def quick(out: Path | None = None, **changes: object) -> CompressOptions:
    fields: dict[str, object] = {"finetune_epochs": 0, "out": out, "export": ("int8",)}
    return CompressOptions(**(fields | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, digits: Data, _trained_digits_cnn: nn.Module) -> Result:
    out = tmp_path_factory.mktemp("int8")
    return apply(_trained_digits_cnn, POLICY, data=digits, seed=0, options=quick(out))


@pytest.mark.slow
def test_the_int8_file_is_delivered_and_holds_integers(run: Result, tmp_path: Path) -> None:
    path = run.folder / "model.int8.onnx"
    found = run.run.int8
    assert found is not None
    assert path.stat().st_size == found.size_bytes == run.run.files["model.int8.onnx"]
    weights = [tensor for tensor in onnx.load(str(path)).graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    assert len([tensor for tensor in weights if len(tensor.dims) in (2, 4)]) == found.num_int8_layers
    assert found.num_int8_layers == len(run.run.layers)
    assert found.fp32_layers == ()
    assert found.size_bytes < found.fp32_size_bytes < found.dense_size_bytes
    assert "model.int8.onnx" in run.save(tmp_path / "copy")


@pytest.mark.slow
def test_agreement_and_top1_are_those_of_the_search_split(run: Result, digits: Data) -> None:
    found = run.run.int8
    assert found is not None
    same, right, right_in_torch, count = 0, 0, 0, 0
    for classes, images, labels in _answers(run.folder, digits.search.source):
        with torch.no_grad():
            in_torch = run.model(images).argmax(1).numpy()
        same += int((classes == in_torch).sum())
        right += int((classes == labels.numpy()).sum())
        right_in_torch += int((in_torch == labels.numpy()).sum())
        count += len(labels)
    assert found.num_samples == count == digits.search.source.num_samples
    assert found.agreement == pytest.approx(100.0 * same / count)
    assert found.top1 == pytest.approx(100.0 * right / count)
    assert found.torch_top1 == pytest.approx(100.0 * right_in_torch / count)
    assert (found.agreement or 0.0) > 95.0


@pytest.mark.slow
def test_all_three_files_are_timed_alike_and_the_report_says_what_the_file_is_for(run: Result) -> None:
    found = run.run.int8
    assert found is not None
    for latency in (found.dense_latency, found.fp32_latency, found.latency):
        assert (latency.runtime, latency.batch_size, latency.num_threads) == ("onnxruntime", 1, 1)
        assert latency.num_runs == found.latency.num_runs >= 5
        assert 0 < latency.low_ms <= latency.median_ms <= latency.high_ms
    assert 0 < found.cpu_ms < 1.5 * found.latency.high_ms
    assert "for speed, the packed file for size" in run.summary()
    assert any(caveat.startswith("model.int8.onnx is for speed") for caveat in run.run.caveats)
    assert "compressed, int8" in (run.folder / "report.html").read_text()


@pytest.mark.slow
def test_the_file_is_measured_again_and_goes_with_a_run_that_does_not_want_it(
    run: Result, digits: Data, digits_cnn: nn.Module
) -> None:
    again = evaluate(run.folder, digits_cnn, data=digits)
    assert again.int8 is not None
    within = 2.0 if torch.cpu._is_vnni_supported() else 5.0  # without it sums can saturate, as the caveat says
    assert again.int8.top1 == pytest.approx(run.run.compressed.top1, abs=within)
    right = np.concatenate(
        [classes == labels.numpy() for classes, _, labels in _answers(run.folder, digits.test.source)]
    )
    assert again.int8.top1 == pytest.approx(100.0 * right.mean())
    plain = apply(digits_cnn, POLICY, data=digits, seed=0, options=quick(run.folder, export=()))
    assert plain.run.int8 is None
    assert not (run.folder / "model.int8.onnx").exists()
    assert "model.int8.onnx" not in plain.delivered


def _answers(folder: Path, source: Source) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor]]:
    """Batch by batch, the classes that onnxruntime gives by the int8 file, the images and their labels."""
    session = onnxruntime.InferenceSession(folder / "model.int8.onnx", providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    for images, labels in source.batches(100):
        assert isinstance(images, Tensor)
        yield np.asarray(session.run(None, {name: images.numpy()})[0]).argmax(1), images, labels


def _file(*, wall: float, own: float) -> Int8File:
    """Measured with these gains over the original; one and a half times as fast as the compressed network."""

    def latency(milliseconds: float) -> Latency:
        return Latency(
            runtime="onnxruntime",
            batch_size=1,
            median_ms=milliseconds,
            low_ms=milliseconds,
            high_ms=milliseconds,
            num_runs=5,
            num_threads=1,
        )

    return Int8File(
        size_bytes=1,
        fp32_size_bytes=4,
        dense_size_bytes=8,
        num_int8_layers=1,
        fp32_layers=(),
        calibration_samples=1,
        num_samples=1,
        agreement=None,
        top1=None,
        torch_top1=None,
        max_relative_difference=0.0,
        dense_latency=latency(wall),
        fp32_latency=latency(1.5),
        latency=latency(1.0),
        dense_cpu_ms=own,
        fp32_cpu_ms=min(1.5, own),
        cpu_ms=1.0,
    )


def test_a_gain_that_only_the_clock_shows_is_a_caveat() -> None:
    assert len(_caveats(_file(wall=2.2, own=2.0))) == 1
    assert (
        "in processor time it gains 1.57x over the original, where the clock says 14.47x"
        in _caveats(_file(wall=14.47, own=1.57))[1]
    )
    assert "not faster than the compressed network in fp32 here: use model.onnx" in _caveats(_file(wall=1, own=0.9))[-1]


def test_an_unknown_format_is_answered_with_the_known_ones(digits_cnn: nn.Module, digits: Data) -> None:
    with pytest.raises(UnknownNameError, match=r"export format is called 'int4'.*Did you mean 'int8'"):
        compress(digits_cnn, data=digits, target=Target(max_macs_ratio=0.5), seed=0, options=quick(export=("int4",)))


def test_a_missing_package_is_named_before_anything_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else there(name))
    check_export(())
    with pytest.raises(MissingExtraError, match=r"onnxruntime.*tersenet\[onnx\]"):
        check_export(("int8",))


class Bessel(nn.Module):
    """ONNX has no operator for it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.wide = nn.Conv2d(4, 4, 3)
        self.linear = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.special.bessel_j0(self.wide(self.conv(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


@pytest.mark.slow
def test_a_network_that_cannot_be_int8_is_refused_before_the_search(digits: Data, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"export='int8' cannot be made of this network.*Leave int8 out"):
        compress(Bessel(), data=digits, target=Target(max_macs_ratio=0.5), seed=0, options=quick(tmp_path / "run"))
    assert list((tmp_path / "run").iterdir()) == []


def test_calibration_samples_come_from_the_whole_split(digits: Data) -> None:
    (images,) = _calibration(digits, TRIED_SAMPLES, seed=3)
    ((first, _),) = digits.train.source.batches(TRIED_SAMPLES, first=TRIED_SAMPLES)
    assert isinstance(images, Tensor)
    assert isinstance(first, Tensor)
    assert images.shape == first.shape == (TRIED_SAMPLES, *images.shape[1:])
    assert not any(torch.equal(image, other) for image in images for other in first[:4])
