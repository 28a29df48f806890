"""How much the loss depends on each weight: the mean squared gradient, a diagonal of the Fisher information.

Times the squared error of stored weights it is, to second order, what storing them costs, up to a factor that is the
same for all layers.

Source: Theis et al. 2018, arXiv:1801.05787, equation 7. Differs: averaged over a layer, since the order of two layers
is all that an allocation needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from tersenet.data.splits import Inputs
from tersenet.errors import TrainingError
from tersenet.measurement.placement import Batch, call, copied, kept_modes
from tersenet.measurement.task import Task
from tersenet.train.losses import task_loss


def mean_squared_gradients(
    model: nn.Module, batches: Iterable[Batch], tensors: Sequence[str], *, task: Task
) -> dict[str, float]:
    """Mean over samples and over the elements of a tensor of the squared gradient of one sample's loss.

    Args:
        model: on the device of the batches; left as it was, gradients included.
        batches: one sample each; larger ones count as one sample.
        tensors: names of parameters, as in ``named_parameters()``.
        task: gives the loss.

    Raises:
        TrainingError: the loss is not a finite number.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    chosen = [parameters[name] for name in tensors]
    frozen = [not parameter.requires_grad for parameter in chosen]
    sums = torch.zeros(len(chosen), dtype=torch.float64)
    num_samples = 0
    with kept_modes(model), torch.enable_grad():
        model.eval()
        try:
            for parameter in chosen:
                parameter.requires_grad_(True)
            for inputs, targets in batches:
                gradients = torch.autograd.grad(_loss(model, inputs, targets, task), chosen, allow_unused=True)
                sums += torch.tensor([0.0 if g is None else float(g.double().square().mean()) for g in gradients])
                num_samples += 1
        finally:
            for parameter, was_frozen in zip(chosen, frozen, strict=True):
                parameter.requires_grad_(not was_frozen)
    return dict(zip(tensors, (sums / max(1, num_samples)).tolist(), strict=True))


def _loss(model: nn.Module, inputs: Inputs, targets: object, task: Task) -> torch.Tensor:
    loss = task_loss(call(model, copied(inputs)), targets, task=task, label_smoothing=0.0)
    if not bool(torch.isfinite(loss)):
        raise TrainingError(f"The loss is {float(loss)} on a training input. Check the data and the weights for NaN.")
    return loss
