"""The optimiser: weight decay on weights only, since shrinking scales and shifts of norms helps nobody."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from tersenet.errors import TrainingError
from tersenet.train.config import TrainConfig

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.SGD:
    """Stochastic gradient descent over the parameters that take gradients.

    Raises:
        TrainingError: there are none.
    """
    decayed, plain = split_parameters(model)
    if not decayed and not plain:
        raise TrainingError("No parameter of the model takes gradients. Set requires_grad=True on what is to be tuned.")
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        momentum=config.momentum,
        nesterov=config.nesterov and config.momentum > 0,
    )


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters that take gradients: weights, and on the other side norm layers and everything with one axis."""
    of_norms = {id(p) for module in model.modules() if isinstance(module, _NORMS) for p in module.parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    plain = [p for p in trained if p.ndim <= 1 or id(p) in of_norms]
    chosen = {id(p) for p in plain}
    return [p for p in trained if id(p) not in chosen], plain
