"""Batch-norm statistics measured anew, against averages computed by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tersenet.errors import DataError
from tersenet.train import recalibrate


def values(tensor: Any) -> list[float]:
    return [float(value) for value in tensor]


def batches() -> list[torch.Tensor]:
    return [
        torch.tensor([[1.0, 10.0], [3.0, 30.0]]),
        torch.tensor([[5.0, 0.0], [5.0, 2.0]]),
    ]


def test_statistics_are_the_average_over_the_batches() -> None:
    norm = nn.BatchNorm1d(2)
    recalibrate(norm, batches())
    # by hand: batch means (2, 20), (5, 1); unbiased batch variances (2, 200), (0, 2)
    assert values(norm.running_mean) == pytest.approx([3.5, 10.5], rel=1e-6)
    assert values(norm.running_var) == pytest.approx([1.0, 101.0], rel=1e-6)


def test_earlier_statistics_and_the_order_of_the_batches_do_not_matter() -> None:
    first, second = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    second.running_mean.fill_(77.0)  # type: ignore[union-attr]
    recalibrate(first, batches())
    recalibrate(second, reversed(batches()))
    torch.testing.assert_close(first.running_mean, second.running_mean)
    torch.testing.assert_close(first.running_var, second.running_var)


def test_momentum_modes_and_weights_are_as_before() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, momentum=0.3), nn.Dropout(0.5)).train()
    model[2].eval()
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    recalibrate(model, batches())
    assert model[1].momentum == 0.3
    assert [m.training for m in model.modules()] == [True, True, True, False]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name])


def test_dropout_is_off_while_statistics_are_measured() -> None:
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(2)).train()
    recalibrate(model, batches())
    assert values(model[1].running_mean) == pytest.approx([3.5, 10.5], rel=1e-6)


def test_without_batch_norms_no_batch_is_read() -> None:
    def never() -> torch.Tensor:
        raise AssertionError("read")

    recalibrate(nn.Linear(2, 2), (never() for _ in range(1)))


def test_no_batches_are_refused_and_the_statistics_stay() -> None:
    norm = nn.BatchNorm1d(2)
    norm.running_mean.fill_(77.0)  # type: ignore[union-attr]
    with pytest.raises(DataError, match="at least one batch"):
        recalibrate(norm, [])
    assert values(norm.running_mean) == pytest.approx([77.0, 77.0], rel=1e-6)


def test_a_failing_batch_leaves_momentum_and_modes_as_before() -> None:
    norm = nn.BatchNorm1d(2, momentum=0.2).eval()
    with pytest.raises(RuntimeError):
        recalibrate(norm, [torch.zeros(4, 3)])
    assert norm.momentum == 0.2
    assert not norm.training
