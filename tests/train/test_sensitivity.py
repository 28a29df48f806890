"""Squared gradients, against autograd by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tersenet.measurement import Task
from tersenet.train.sensitivity import mean_squared_gradients


def test_gradients_are_squared_sample_by_sample_and_averaged_over_the_tensor() -> None:
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    task = Task(metric=lambda *_: 0.0, loss=lambda outputs, targets: ((outputs - targets) ** 2).sum())
    batches = [
        (torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0]])),
        (torch.tensor([[3.0, 0.0]]), torch.tensor([[-1.0]])),
    ]
    # -2 * target * input: (-2, -4) and (6, 0); squares 4, 16 and 36, 0
    found = mean_squared_gradients(model, batches, ["weight"], task=task)
    assert found == {"weight": (10.0 + 18.0) / 2}


def test_the_model_is_left_as_it_was_and_frozen_parameters_are_measured_too() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(3, 4), nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.used(x)
            return result

    model = Unused()
    model.used.weight.requires_grad_(False)
    batches = [(torch.randn(1, 3), torch.tensor([1]))]
    found = mean_squared_gradients(model, batches, ["used.weight", "spare.weight"], task=Task())
    assert found["used.weight"] > 0.0
    assert found["spare.weight"] == 0.0
    assert not model.used.weight.requires_grad
    assert model.used.weight.grad is None
    assert model.training
