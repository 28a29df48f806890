"""Distillation losses against the formulas written out, and the learning rate against numbers by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tersenet.errors import DataError, ModelError, TrainingError
from tersenet.measurement import Task
from tersenet.train import TrainConfig
from tersenet.train.losses import distill_loss, output_loss, soft_target_loss, task_loss
from tersenet.train.optimizer import split_parameters
from tersenet.train.schedule import learning_rate_at


def test_soft_target_loss_is_the_divergence_of_the_softened_classes() -> None:
    ours, theirs, temperature = np.array([[1.0, 2.0, 0.0]]), np.array([[3.0, 0.0, 1.0]]), 2.0
    p = np.exp(theirs / temperature) / np.exp(theirs / temperature).sum()
    q = np.exp(ours / temperature) / np.exp(ours / temperature).sum()
    expected = temperature**2 * (p * np.log(p / q)).sum()
    found = soft_target_loss(torch.tensor(ours), torch.tensor(theirs), temperature=temperature)
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_soft_target_loss_is_a_mean_over_samples_and_zero_for_equal_logits() -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    other = logits.flip(1)
    each = [float(soft_target_loss(logits[i : i + 1], other[i : i + 1], temperature=3.0)) for i in range(6)]
    assert float(soft_target_loss(logits, other, temperature=3.0)) == pytest.approx(np.mean(each))
    assert float(soft_target_loss(logits, logits, temperature=3.0)) == pytest.approx(0.0, abs=1e-12)


def test_output_loss_is_in_units_of_the_teachers_variance() -> None:
    # by hand: squared differences 1, 1 have mean 1; the teacher's 2, 4 have variance 1 around 3
    assert float(output_loss(torch.tensor([1.0, 5.0]), torch.tensor([2.0, 4.0]))) == pytest.approx(1.0)
    # ten times larger outputs of both give the same loss
    assert float(output_loss(torch.tensor([10.0, 50.0]), torch.tensor([20.0, 40.0]))) == pytest.approx(1.0)


def config() -> TrainConfig:
    return TrainConfig(seed=0, epochs=1, distill_weight=0.5)


def test_which_comparison_is_used_follows_from_task_and_outputs() -> None:
    logits = torch.zeros(2, 3)
    own = Task(loss=lambda outputs, targets: outputs.sum())
    assert distill_loss(logits, logits, task=own, config=config()) is output_loss
    assert distill_loss(logits, logits, task=Task(), config=config()) is not None
    assert distill_loss((logits, logits), (logits, logits), task=own, config=config()) is None
    assert distill_loss(logits, torch.zeros(2, 4), task=Task(), config=config()) is None


def test_task_loss_smooths_labels() -> None:
    logits = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    log_p = [2.0 - math.log(math.exp(2.0) + 1.0), -math.log(math.exp(2.0) + 1.0)]
    expected = -(0.95 * log_p[0] + 0.05 * log_p[1])  # smoothing 0.1 over two classes
    found = task_loss(logits, torch.tensor([0]), task=Task(), label_smoothing=0.1)
    assert float(found) == pytest.approx(expected)


def test_labels_beyond_the_classes_and_outputs_without_logits_are_refused() -> None:
    with pytest.raises(DataError, match="labels"):
        task_loss(torch.zeros(2, 3), torch.tensor([0, 3]), task=Task(), label_smoothing=0.0)
    with pytest.raises(ModelError, match="a tuple"):
        task_loss((torch.zeros(2, 3),), torch.tensor([0, 1]), task=Task(), label_smoothing=0.0)


def test_an_own_loss_that_fails_or_gives_no_single_number_is_named() -> None:
    def per_sample(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs[:, 0]

    def broken(outputs: Tensor, targets: Tensor) -> Tensor:
        raise KeyError("mask")

    def as_number(outputs: Tensor, targets: Tensor) -> float:
        return 1.0

    for loss, said in ((per_sample, r"shape \(2,\)"), (broken, "KeyError: 'mask'"), (as_number, "a float")):
        with pytest.raises(TrainingError, match=f"{loss.__name__}.*{said}"):
            task_loss(torch.zeros(2, 3), torch.zeros(2), task=Task(loss=loss), label_smoothing=0.0)  # type: ignore[arg-type]
    one = Task(loss=lambda outputs, targets: outputs.sum(dim=0, keepdim=True).sum(dim=1))
    assert task_loss(torch.ones(2, 3), None, task=one, label_smoothing=0.0).shape == ()


@pytest.mark.parametrize(
    ("time", "expected"),
    [(0.0, 0.0), (0.5, 0.2), (1.0, 0.4), (2.0, 0.4 * 0.75), (2.5, 0.2), (4.0, 0.0)],
)
def test_the_learning_rate_rises_and_follows_half_a_cosine(time: float, expected: float) -> None:
    # warm-up over 1 epoch, then 3 epochs of cosine: at time 2 a third, cos(60 degrees) = 1/2
    found = learning_rate_at(time, highest=0.4, epochs=4.0, warmup_epochs=1.0)
    assert found == pytest.approx(expected, abs=1e-12)


def test_a_warm_up_as_long_as_the_training_is_refused() -> None:
    with pytest.raises(ValueError, match=r"warmup_epochs=2\.0 must be below epochs=2"):
        TrainConfig(seed=0, epochs=2, warmup_epochs=2.0)


def test_weights_decay_and_norms_and_biases_do_not() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.LayerNorm((2, 4)), nn.Linear(4, 2))
    decayed, plain = split_parameters(model)

    def shapes(parameters: list[nn.Parameter]) -> list[tuple[int, ...]]:
        return [tuple(p.shape) for p in parameters]

    assert shapes(decayed) == [(2, 1, 3, 3), (2, 4)]
    assert shapes(plain) == [(2,), (2,), (2,), (2, 4), (2, 4), (2,)]


def test_parameters_that_are_frozen_are_left_out() -> None:
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    decayed, plain = split_parameters(model)
    assert decayed == []
    assert isinstance(plain[0], Tensor)
    assert len(plain) == 1
