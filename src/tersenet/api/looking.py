"""A first look at a network: whether it can be used, what its weights are, and what may be cut."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tersenet.errors import ModelError
from tersenet.graph import ModelGraph, trace
from tersenet.transforms import verify_groups, without_parametrizations


def plain(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """The network that a run works on: the given one, or a copy whose weights are plain, and then a note that says so.

    Raises:
        ModelError: the network cannot be copied.
    """
    made, layers = without_parametrizations(model)
    if not layers:
        return model, ()
    some = ", ".join(layers[:3]) + (", ..." if len(layers) > 3 else "")
    number = "1 layer" if len(layers) == 1 else f"{len(layers)} layers"
    note = (
        f"Weights of {number} ({some}) are computed from others in every pass (weight norm, spectral norm or "
        "another parametrisation): all work is on a copy with the numbers that come out, and what is delivered has "
        "plain weights, tuned without the norm."
    )
    return made, (note,)


def look(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> tuple[ModelGraph, tuple[str, ...]]:
    """Check and trace a network; groups whose cut does not work are locked, and a note says so.

    Raises:
        ModelError: the network cannot be used or traced.
    """
    check_model(model)
    traced = trace(model, example_inputs)
    checked = verify_groups(model, traced, example_inputs)
    return checked, tuple(_locked_by_check(traced, checked))


def check_model(model: nn.Module) -> None:
    """Refuse a network that holds no usable numbers.

    Raises:
        ModelError: a parameter or buffer holds NaN or infinity, or there are no parameters.
    """
    if next(model.parameters(), None) is None:
        raise ModelError("The model has no parameters, so there is nothing to compress.")
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"Tensor {name!r} of the model holds NaN or infinity. Check the weights, or train again.")


def _locked_by_check(traced: ModelGraph, checked: ModelGraph) -> list[str]:
    before = {group.group_id for group in traced.channel_groups if group.prunable}
    return [
        f"Group {group.group_id} is left whole: {group.reason}"
        for group in checked.channel_groups
        if group.group_id in before and not group.prunable
    ]
