"""The user's own metric, called the way he would call it, and checked."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import nn

from tersenet.data.splits import Source
from tersenet.errors import SearchError, TersenetError
from tersenet.measurement.accuracy import Precision
from tersenet.measurement.placement import Batch, PlacedBatches, Placement, evaluating, placement_for
from tersenet.measurement.task import Metric


def score(
    model: nn.Module,
    source: Source,
    metric: Metric,
    *,
    batch_size: int | None = None,
    device: str = "cpu",
    dtype: Precision = "fp32",
    skip: int = 0,
    first: int | None = None,
) -> float:
    """What the user's metric says of a network; the model is left as it was.

    Args:
        model: handed to ``metric`` in eval mode, on ``device``, with gradients off.
        source: handed to ``metric`` as batches on ``device`` that can be gone through more than once.
        metric: the user's function; higher is better.
        batch_size: samples per batch; None: 256, or fewer where they are large (``samples_per_pass``).
        device: where to run.
        dtype: ``fp32`` runs the model in its own format, ``bf16`` under autocast.
        skip: samples at the beginning that are left out.
        first: samples that are taken after that; None: all.

    Raises:
        SearchError: the function fails, or does not return a finite number.
        UnknownNameError: there is no such device.
    """
    placement = placement_for(model, device, autocast=dtype == "bf16")
    with evaluating(model, placement.device):
        batches = PlacedBatches(source, placement, batch_size=batch_size, skip=skip, first=first)
        return score_over(model, batches, metric, placement)


def score_over(model: nn.Module, batches: Iterable[Batch], metric: Metric, placement: Placement) -> float:
    """The same over batches that lie in place, for a model that is in eval mode already.

    Raises:
        SearchError: the function fails, or does not return a finite number.
    """
    name = getattr(metric, "__qualname__", None) or repr(metric)
    try:
        with placement.precision():
            result = metric(model, batches)
    except TersenetError:
        raise
    except Exception as error:
        raise SearchError(f"The metric {name} failed with {type(error).__name__}: {error}") from error
    try:
        value = float(result)
    except (TypeError, ValueError, RuntimeError):
        raise SearchError(
            f"The metric {name} returned {type(result).__name__} {str(result)[:80]!r}. Let it return one number, "
            "higher is better."
        ) from None
    if not math.isfinite(value):
        raise SearchError(f"The metric {name} returned {value}. Let it return a finite number for any network.")
    return value
