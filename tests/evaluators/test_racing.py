"""When a trial may be given up: the bound against exact draws, and what a stopped trial leaves behind."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import hypergeom
from torch import Tensor

from tersenet.evaluators.racing import MIN_SAMPLES, is_hopeless, raced_accuracy, upper_bound


@pytest.mark.parametrize("num_seen", [250, 300, 500, 900])
@pytest.mark.parametrize("final", [100, 300, 600, 850, 990])
def test_a_trial_that_reaches_the_threshold_is_stopped_in_less_than_one_of_two_hundred_looks(
    num_seen: int, final: int
) -> None:
    # what the first images of 1,000 show follows the hypergeometric distribution; the threshold is just reached
    stops = [right for right in range(num_seen + 1) if is_hopeless(right, num_seen, 1000, below=final / 10.0)]
    chance = float(hypergeom(1000, final, num_seen).pmf(stops).sum())
    assert chance < 0.005


def test_a_trial_far_below_the_threshold_is_nearly_always_stopped_at_the_first_look() -> None:
    rights = np.arange(MIN_SAMPLES + 1)
    stops = [int(right) for right in rights if is_hopeless(int(right), MIN_SAMPLES, 1000, below=70.0)]
    assert float(hypergeom(1000, 500, MIN_SAMPLES).pmf(stops).sum()) > 0.99


def test_the_bound_is_the_accuracy_itself_once_everything_was_seen() -> None:
    assert upper_bound(37, 50, 50) == 74.0
    assert upper_bound(37, 50, 51) > 74.0


def test_no_trial_is_judged_by_few_samples_nor_stopped_when_it_is_over() -> None:
    assert not is_hopeless(0, MIN_SAMPLES - 1, 1000, below=99.0)
    assert is_hopeless(0, MIN_SAMPLES, 1000, below=99.0)
    assert not is_hopeless(0, 1000, 1000, below=99.0)


def batches(num_batches: int) -> Iterable[tuple[Tensor, Tensor]]:
    """100 samples each, of which the first 30 are class 0 and the others class 1."""
    for _ in range(num_batches):
        yield torch.zeros(100, 6), (torch.arange(100) >= 30).long()


def always_class_0(inputs: Any) -> Tensor:
    return torch.tensor([[2.0, 1.0, 0.0, 0.0, 0.0, 0.0]]).expand(len(inputs), 6)


def test_the_rest_of_a_hopeless_trial_is_not_even_read() -> None:
    read = 0

    def counted() -> Iterable[tuple[Tensor, Tensor]]:
        nonlocal read
        for batch in batches(10):
            read += 1
            yield batch

    found = raced_accuracy(always_class_0, counted(), num_total=1000, below=60.0)
    # 90 of 300 are right at the first batch with 250 samples or more; 60 % is 11 standard errors away
    assert (read, found.num_samples, found.top1) == (3, 300, 30.0)
    assert found.top5 == 100.0
    assert int(found.correct.sum()) == 90


def test_a_trial_with_hope_is_measured_to_its_end() -> None:
    found = raced_accuracy(always_class_0, batches(10), num_total=1000, below=31.0)
    assert (found.num_samples, found.top1) == (1000, 30.0)


def test_samples_without_numbers_are_counted_over_all_batches() -> None:
    def broken(inputs: Any) -> Tensor:
        outputs = always_class_0(inputs).clone()
        outputs[:2] = float("nan")
        return outputs

    found = raced_accuracy(broken, batches(10), num_total=1000, below=0.0)
    assert found.num_not_finite == 20
    assert int(found.correct.sum()) == 280
