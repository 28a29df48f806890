"""Top-1 and top-5 accuracy, per sample as well, so that two networks can be compared on the same inputs.

Outputs that are not numbers count as wrong and are counted; a network that returns anything but logits is refused
with the way out, instead of a number that means nothing. Axes: N samples, K classes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tersenet.data.splits import Inputs, Source
from tersenet.errors import DataError, ModelError
from tersenet.measurement.placement import (
    Batch,
    PlacedBatches,
    Placement,
    evaluating,
    placement_for,
    samples_per_pass,
    takes_channels_last,
)

Precision = Literal["fp32", "bf16"]
"""fp32: as the model is; bf16: autocast, the weights stay as they are."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Accuracy:
    """Accuracy of one network on one list of inputs."""

    top1: float
    """Percent."""

    top5: float | None
    """Percent; None with fewer than 6 classes."""

    num_samples: int

    correct: NDArray[np.bool_]
    """Whether the class with the largest output is the right one, shape (num_samples,), in the order of the data."""

    num_not_finite: int
    """Samples with an output that is not a number; counted as wrong."""


def accuracy(
    model: nn.Module,
    source: Source,
    *,
    batch_size: int | None = None,
    device: str = "cpu",
    dtype: Precision = "fp32",
    skip: int = 0,
    first: int | None = None,
) -> Accuracy:
    """Accuracy of a network that returns logits of shape (N, K); the model is left as it was.

    Args:
        model: any mode, any device, any floating-point format.
        source: inputs and integer targets of shape (N,).
        batch_size: samples per forward pass; None: 256, or fewer where they are large (``samples_per_pass``).
        device: where to run.
        dtype: ``fp32`` runs the model in its own format, ``bf16`` under autocast.
        skip: samples at the beginning that are left out.
        first: samples that are taken after that; None: all.

    Raises:
        DataError: there are no samples, or targets are not class numbers below K.
        ModelError: the model fails, or its outputs are not logits.
        UnknownNameError: there is no such device.
    """
    placement = placement_for(model, device, autocast=dtype == "bf16")
    with evaluating(model, placement.device):
        placement = settle_layout(model, source, placement)
        batches = PlacedBatches(source, placement, batch_size=batch_size, skip=skip, first=first)
        return accuracy_over(lambda inputs: placement.forward(model, inputs), batches)


def accuracy_of(
    predict: Callable[[Inputs], Any],
    source: Source,
    *,
    batch_size: int | None = None,
    skip: int = 0,
    first: int | None = None,
) -> Accuracy:
    """Accuracy of anything that turns inputs into logits, a session of another runtime for example.

    Args:
        predict: from inputs (fp32 tensors on the CPU) to logits of shape (N, K), a tensor or a numpy array.
        source: inputs and integer targets of shape (N,).
        batch_size: samples per call; None: 256, or fewer where they are large (``samples_per_pass``).
        skip: samples at the beginning that are left out.
        first: samples that are taken after that; None: all.

    Raises:
        DataError: there are no samples, or targets are not class numbers below K.
        ModelError: the outputs are not logits.
    """
    size = batch_size or samples_per_pass(source)
    return accuracy_over(predict, source.batches(size, skip=skip, first=first))


def accuracy_over(predict: Callable[[Inputs], Any], batches: Iterable[Batch]) -> Accuracy:
    """Accuracy of ``predict`` over batches that lie where it expects them.

    Raises:
        DataError: there are no samples, or targets are not class numbers below K.
        ModelError: the outputs are not logits.
    """
    right1: list[Tensor] = []
    right5: list[Tensor] = []
    num_not_finite = 0
    for inputs, targets in batches:
        logits, targets = checked_logits(predict(inputs), targets)
        is_number = ~logits.isnan().any(dim=1)
        num_not_finite += int((~is_number).sum())
        right1.append((logits.argmax(dim=1) == targets) & is_number)
        if logits.shape[1] > 5:
            among = (logits.topk(5, dim=1).indices == targets[:, None]).any(dim=1)
            right5.append(among & is_number)
    if not right1 or sum(map(len, right1)) == 0:
        raise DataError("There are no samples to measure on. Give a split with at least one sample, or a smaller skip.")
    correct = torch.cat(right1).cpu().numpy()
    return Accuracy(
        top1=100.0 * float(correct.mean()),
        top5=100.0 * float(torch.cat(right5).double().mean()) if right5 else None,
        num_samples=len(correct),
        correct=correct,
        num_not_finite=num_not_finite,
    )


def checked_logits(outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
    """Outputs of shape (N, K) and targets of shape (N,) as tensors on one device.

    Raises:
        DataError: targets are not class numbers from 0 to K - 1, one per output.
        ModelError: outputs are not one floating-point tensor of logits.
    """
    way_out = "Accuracy needs one tensor of logits (samples, classes). Give your own --metric (Task(metric=...))."
    if isinstance(outputs, np.ndarray):
        outputs = torch.from_numpy(outputs)
    if not isinstance(outputs, Tensor):
        parts = f" of {len(outputs)} outputs" if isinstance(outputs, (tuple, list, dict)) else ""
        raise ModelError(f"The model returns a {type(outputs).__name__}{parts}. {way_out}")
    if outputs.ndim != 2 or outputs.shape[1] < 2 or not outputs.is_floating_point():
        raise ModelError(f"The model returns {outputs.dtype} of shape {tuple(outputs.shape)}. {way_out}")
    targets = targets if isinstance(targets, Tensor) else torch.as_tensor(targets)
    if targets.is_floating_point() or targets.shape != outputs.shape[:1]:
        raise DataError(
            f"Targets are {targets.dtype} of shape {tuple(targets.shape)} beside outputs of shape "
            f"{tuple(outputs.shape)}. Give one integer class per sample, or your own --metric (Task(metric=...))."
        )
    targets = targets.to(outputs.device)
    if len(targets) and (int(targets.min()) < 0 or int(targets.max()) >= outputs.shape[1]):
        raise DataError(
            f"Targets go from {int(targets.min())} to {int(targets.max())}, but the model has {outputs.shape[1]} "
            f"classes (0 to {outputs.shape[1] - 1}). Check the labels, or build the model with more classes."
        )
    return outputs, targets


def settle_layout(model: nn.Module, source: Source, placement: Placement) -> Placement:
    """The placement with channels_last where the model takes it; the model is in eval mode already."""
    for inputs, _ in itertools.islice(source.batches(2, first=2), 1):
        return replace(placement, channels_last=takes_channels_last(model, inputs, placement))
    return placement
