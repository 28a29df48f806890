"""Quality of a network as ``Metrics``: accuracy, or the user's own score."""

from __future__ import annotations

from torch import nn

from tersenet.core.metrics import Metrics
from tersenet.data.splits import Source
from tersenet.measurement.accuracy import Accuracy, Precision, accuracy
from tersenet.measurement.score import score
from tersenet.measurement.task import Task


def measure_quality(
    model: nn.Module,
    source: Source,
    task: Task,
    *,
    split: str,
    batch_size: int | None = None,
    device: str = "cpu",
    dtype: Precision = "fp32",
    skip: int = 0,
    first: int | None = None,
) -> Metrics:
    """Measure what the task asks for; the model is left as it was.

    Args:
        model: any mode, any device.
        source: inputs and targets.
        task: whose metric is used; without one, accuracy.
        split: name of the split for the record, ``search`` or ``test``.
        batch_size: samples per forward pass; None: 256, or fewer where they are large (``samples_per_pass``).
        device: where to run.
        dtype: ``fp32`` runs the model in its own format, ``bf16`` under autocast.
        skip: samples at the beginning that are left out.
        first: samples that are taken after that; None: all.

    Raises:
        DataError: there are no samples, or (accuracy) targets are not class numbers.
        ModelError: (accuracy) the model fails or its outputs are not logits.
        SearchError: the user's metric fails or returns no finite number.
        UnknownNameError: there is no such device.
    """
    if task.metric is None:
        found = accuracy(model, source, batch_size=batch_size, device=device, dtype=dtype, skip=skip, first=first)
        return metrics_of(found, split=split, device=device)
    value = score(model, source, task.metric, batch_size=batch_size, device=device, dtype=dtype, skip=skip, first=first)
    num_samples = num_selected(source, skip=skip, first=first)
    return Metrics(score=value, score_name=task.metric_name, num_samples=num_samples, split=split, device=device)


def metrics_of(found: Accuracy, *, split: str, device: str) -> Metrics:
    """An accuracy as ``Metrics``."""
    return Metrics(top1=found.top1, top5=found.top5, num_samples=found.num_samples, split=split, device=device)


def num_selected(source: Source, *, skip: int = 0, first: int | None = None) -> int:
    """Samples that ``skip`` and ``first`` select."""
    left = max(0, source.num_samples - skip)
    return left if first is None else min(first, left)
