"""New weights for any network: what every module would have drawn for itself."""

from __future__ import annotations

import torch
from torch import nn

from tersenet.errors import ModelError


def draw_weights(model: nn.Module, *, seed: int) -> None:
    """Draw all weights anew, in place, by each module's own ``reset_parameters``; norm statistics begin anew as well.

    Args:
        model: what its constructor did beyond its modules' own initialisation is not repeated.
        seed: of all draws; the global generator is left as it was.

    Raises:
        ModelError: a module with parameters of its own cannot draw them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, module in model.named_modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            elif next(module.parameters(recurse=False), None) is not None:
                raise ModelError(
                    f"Module {name or type(module).__name__!r} has parameters but no reset_parameters, so training "
                    "cannot start from scratch. Give it one, or start from the trained weights (start=trained)."
                )
