"""Parameters and buffers of a module by name, and the modules that own them."""

from __future__ import annotations

from torch import Tensor, nn


def tensors_by_name(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer under all of its names, so that tied ones are found under each."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
