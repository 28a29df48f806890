"""Does the cut network compute what the zeroed one computes? Groups for which it does not are locked.

Tracing cannot see everything: a size written as a number in the forward only shows when the smaller network runs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from tersenet.core.plan import Plan
from tersenet.errors import ModelError, PolicyError
from tersenet.graph import ModelGraph, diverging_line, line_of_error, lock, tensors_in, unwrapped
from tersenet.transforms.channels import materialize
from tersenet.transforms.plan import plan_for
from tersenet.transforms.simulate import simulate

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 5e-2}
"""Largest difference that rounding explains, relative to the largest output; a wrong cut gives 0.1 and more."""


def check_cut(model: nn.Module, graph: ModelGraph, plan: Plan, inputs: Tensor | tuple[Tensor, ...]) -> float:
    """Largest difference between the cut and the zeroed network's outputs, relative to the largest output.

    Both run in eval mode, in the model's own floating-point type and on its device.

    Args:
        inputs: the forward's positional arguments.

    Returns:
        max |cut - zeroed| / max |zeroed|; infinite if shapes differ or an output is not a number.

    Raises:
        PolicyError: the cut network does not run; the message names the line of the forward.
        ModelError: the model returns nothing that can be compared.
    """
    model = unwrapped(model)
    zeroed = _outputs(simulate(model, graph, plan), inputs)
    if not zeroed:
        raise ModelError(
            "The model returns no tensors that can be compared. Return tensors, or lists, tuples, dicts or data "
            "classes of them."
        )
    try:
        cut = _outputs(materialize(model, plan), inputs)
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError, UserWarning) as error:
        raise PolicyError(
            f"The cut network does not run: {_message(error)}. The forward probably holds a size as a number; "
            "verify_groups finds and locks the groups concerned."
        ) from error
    return relative_difference(cut, zeroed)


def _message(error: BaseException) -> str:
    """The error in one line, with the line of the user's forward that it comes from."""
    text = (str(error).splitlines() or [type(error).__name__])[0][:160].rstrip(".")
    line = line_of_error(error.__traceback__)
    return f"{text} ({line})" if line else text


def relative_difference(outputs: list[Tensor], reference: list[Tensor]) -> float:
    """max |outputs - reference| / max |reference| over lists of tensors; infinite where they cannot be compared."""
    if [tensor.shape for tensor in outputs] != [tensor.shape for tensor in reference]:
        return float("inf")
    pairs = [(a.double(), b.double()) for a, b in zip(outputs, reference, strict=True) if a.numel()]
    if not all(torch.isfinite(a).all() and torch.isfinite(b).all() for a, b in pairs):
        return float("inf")
    difference = max((float((a - b).abs().max()) for a, b in pairs), default=0.0)
    largest = max((float(b.abs().max()) for _, b in pairs), default=0.0)
    if largest == 0.0:
        return 0.0 if difference == 0.0 else float("inf")
    return difference / largest


def verify_groups(model: nn.Module, graph: ModelGraph, inputs: Tensor | tuple[Tensor, ...]) -> ModelGraph:
    """Try to cut about half of every prunable group and lock those for which that goes wrong.

    All groups are tried at once first; only if that fails, each by itself, and then the good ones together.

    Returns:
        The graph, with failing groups locked and the reason given.
    """
    model = unwrapped(model)
    candidates = [group.group_id for group in graph.channel_groups if group.prunable]
    if not _failure(model, graph, candidates, inputs):
        return graph
    locked = {}
    for group_id in candidates:
        failure = _failure(model, graph, [group_id], inputs)
        if failure:
            locked[group_id] = failure
    good = [group_id for group_id in candidates if group_id not in locked]
    if _failure(model, graph, good, inputs):
        accepted: list[str] = []
        for group_id in good:
            failure = _failure(model, graph, [*accepted, group_id], inputs)
            if failure:
                locked[group_id] = f"{failure} (together with other groups)"
            else:
                accepted.append(group_id)
    return lock(graph, locked)


def _failure(model: nn.Module, graph: ModelGraph, group_ids: list[str], inputs: Tensor | tuple[Tensor, ...]) -> str:
    """Why a trial cut of these groups is wrong; empty if it is right."""
    exact = [group_id for group_id in group_ids if not graph.group(group_id).inexact]
    if exact and len(exact) < len(group_ids):
        failure = _failure(model, graph, exact, inputs)
        if failure:
            return failure
    kept = {group_id: _half(graph.group(group_id).num_channels) for group_id in group_ids}
    plan = plan_for(model, graph, kept)
    try:
        difference = check_cut(model, graph, plan, inputs)
    except PolicyError as error:
        return f"a trial cut failed: {_message(error.__cause__ or error)}"
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    if len(exact) < len(group_ids) or difference <= _TOLERANCE.get(dtype, 1e-3):
        return ""
    line = diverging_line(model, materialize(model, plan), inputs)
    return f"a trial cut changed the outputs by {difference:.2g} of the largest" + (f" ({line})" if line else "")


def _half(count: int) -> tuple[int, ...]:
    """A fixed mixed choice of half of ``count`` channels, so that positions matter."""
    chosen = np.random.default_rng(0).permutation(count)[: max(1, count // 2)]
    return tuple(sorted(chosen.tolist()))


def _outputs(model: nn.Module, inputs: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    given = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    if parameter is not None:
        device, dtype = parameter.device, parameter.dtype
        given = tuple(v.to(device, dtype if v.is_floating_point() else v.dtype) for v in given)
    model.eval()
    with torch.no_grad():
        made = model(*given)
    return tensors_in(made)
