"""A delivered network measured again from its files, for instance in another process or on another machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from tersenet import pack
from tersenet.api.options import INT8_FILE, ONNX_FILE, PACKED_FILE
from tersenet.core.metrics import Metrics
from tersenet.data import Data
from tersenet.errors import NotFoundError
from tersenet.export import OnnxRunner
from tersenet.graph import trace
from tersenet.measurement import Task, accuracy_of, measure_quality
from tersenet.measurement.metrics import metrics_of


@dataclass(frozen=True, kw_only=True)
class EvaluateResult:
    """What the files of a run do on the test split."""

    metrics: Metrics
    """Of the packed file, loaded into the original architecture."""

    size_bytes: int
    """Of the packed file."""

    onnx: Metrics | None
    """Of the ONNX file beside it, in onnxruntime; None without one, or with a metric of the user's own."""

    int8: Metrics | None = None
    """The same of the int8 file."""


def evaluate(
    artifact: str | Path, model: nn.Module, *, data: Data, task: Task | None = None, device: str = "cpu"
) -> EvaluateResult:
    """Load what was delivered and measure it.

    Args:
        artifact: folder of a run, or a packed file.
        model: the original architecture, uncompressed; its weights do not matter.

    Raises:
        NotFoundError: there is no such file.
        ArtifactError: the file is damaged, or made for another architecture.
    """
    task = task or Task()
    given = Path(artifact)
    path = given / PACKED_FILE if given.is_dir() else given
    if not path.is_file():
        raise NotFoundError(f"artifact: {path} does not exist. Give the folder of a finished run, or a packed file.")
    metrics = measure_quality(pack.load(path, model), data.test.source, task, split="test", device=device)
    onnx, int8 = (_onnx_metrics(path.with_name(name), data, task) for name in (ONNX_FILE, INT8_FILE))
    return EvaluateResult(metrics=metrics, size_bytes=path.stat().st_size, onnx=onnx, int8=int8)


def _onnx_metrics(path: Path, data: Data, task: Task) -> Metrics | None:
    """Of one ONNX file on the test split; None without the file, or with a metric of the user's own."""
    if task.metric is not None or not path.is_file():
        return None
    runner = OnnxRunner(path)
    found = accuracy_of(lambda inputs: runner.predict(inputs)[0], data.test.source)
    return metrics_of(found, split="test", device="cpu")


def measure(
    model: nn.Module,
    *,
    data: Data,
    split: Literal["search", "test"] = "search",
    task: Task | None = None,
    device: str = "cpu",
) -> Metrics:
    """Quality, multiply-accumulates and parameters of any network.

    Args:
        model: left as it was.
        split: ``test`` is for final figures only; whatever is chosen by them is no longer unseen.
    """
    source = data.search.source if split == "search" else data.test.source
    quality = measure_quality(model, source, task or Task(), split=split, device=device)
    graph = trace(model, data.example_inputs())
    counted = {"macs": graph.macs, "num_params": graph.num_params, "not_counted": graph.not_counted}
    return quality.model_copy(update=counted)
