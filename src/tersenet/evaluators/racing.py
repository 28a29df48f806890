"""When a trial has lost: its accuracy on the images so far, seen with optimism, is still too low.

The images of a trial have a fixed order, so what is left is a draw without replacement from the rest. The bound is the
upper end of Wilson's interval with that correction; ``Z`` makes a wrong stop of a trial that would just have reached
the threshold a matter of about one in a thousand per look. Counts alone decide, never time: the same trial stops at
the same image on every machine. Images that are sorted by class are no fair draw; racing needs them mixed.

Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference"; racing: Maron and Moore
1994, "Hoeffding races". Differs: Wilson's bound instead of Hoeffding's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tersenet.data.splits import Inputs
from tersenet.measurement.accuracy import Accuracy, accuracy_over
from tersenet.measurement.placement import Batch

Z = 3.0
"""Standard errors of optimism."""

MIN_SAMPLES = 250
"""No trial is judged by fewer samples."""


def upper_bound(num_right: int, num_seen: int, num_total: int) -> float:
    """The highest final accuracy that what was seen still makes plausible, percent.

    Args:
        num_right: right ones among those seen.
        num_seen: at least 1.
        num_total: samples of the whole trial.
    """
    share = num_right / num_seen
    if num_seen >= num_total:
        return 100.0 * share
    num_effective = num_seen * (num_total - 1) / (num_total - num_seen)
    shrink = Z * Z / num_effective
    spread = Z * math.sqrt(share * (1.0 - share) / num_effective + shrink / (4.0 * num_effective))
    return 100.0 * (share + shrink / 2.0 + spread) / (1.0 + shrink)


def is_hopeless(num_right: int, num_seen: int, num_total: int, *, below: float) -> bool:
    """Whether a trial may stop, because even the bound lies below ``below`` (percent)."""
    return MIN_SAMPLES <= num_seen < num_total and upper_bound(num_right, num_seen, num_total) < below


def raced_accuracy(
    predict: Callable[[Inputs], Any], batches: Iterable[Batch], *, num_total: int, below: float
) -> Accuracy:
    """Accuracy over the batches until it is hopeless; its ``num_samples`` tells. Raises as ``accuracy_over``.

    Args:
        num_total: samples in all batches.
        below: top-1 that must be within reach, percent.
    """
    parts: list[Accuracy] = []
    num_right = num_seen = 0
    for batch in batches:
        parts.append(accuracy_over(predict, [batch]))
        num_right += int(parts[-1].correct.sum())
        num_seen += parts[-1].num_samples
        if is_hopeless(num_right, num_seen, num_total, below=below):
            break
    return _joined(parts)


def _joined(parts: list[Accuracy]) -> Accuracy:
    correct = np.concatenate([part.correct for part in parts])
    right5 = [round(part.top5 * part.num_samples / 100.0) for part in parts if part.top5 is not None]
    return Accuracy(
        top1=100.0 * float(correct.mean()),
        top5=100.0 * (sum(right5) / len(correct)) if right5 else None,
        num_samples=len(correct),
        correct=correct,
        num_not_finite=sum(part.num_not_finite for part in parts),
    )
