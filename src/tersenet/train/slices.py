"""Parts of full-size tensors as smaller tensors, and back: gather and scatter are exact inverses.

A plan says which positions of which axes stay. ``gather`` takes these out of a tensor, as ``materialize`` does for a
whole network; ``scatter`` writes them back and leaves everything else as it was.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tersenet.core.plan import Plan

Positions = Mapping[int, Tensor]
"""Axis to the positions that stay on it, ascending; axes that are not named stay whole."""


def positions_of(plan: Plan) -> dict[str, dict[int, Tensor]]:
    """What stays of each tensor that the plan cuts, by its name."""
    keeps = [torch.tensor(keep) for keep in plan.keeps]
    found: dict[str, dict[int, Tensor]] = {}
    for cut in plan.cuts:
        found.setdefault(cut.tensor, {})[cut.axis] = keeps[cut.keep]
    return found


def gather(full: Tensor, positions: Positions) -> Tensor:
    """A copy of the part of ``full`` at these positions."""
    part = full
    for axis, kept in positions.items():
        part = part.index_select(axis, kept.to(full.device))
    return part.clone() if part is full else part


def scatter(part: Tensor, full: Tensor, positions: Positions, *, where: Tensor | None = None) -> None:
    """Write ``part`` into ``full`` at these positions, in place.

    Args:
        part: shape of ``gather(full, positions)``.
        where: which entries of ``part`` are written, broadcastable to its shape, bool; None: all.
    """
    index = tuple(
        _along(positions[axis] if axis in positions else torch.arange(size), axis, full.ndim).to(full.device)
        for axis, size in enumerate(full.shape)
    )
    if not index:
        full.copy_(part)
        return
    full[index] = part if where is None else torch.where(where, part, full[index])


def inside(positions: Positions, chosen: Positions, num_axes: int) -> Tensor:
    """Which entries of a gathered part belong to the positions that were chosen among its own.

    Returns:
        Bool, broadcastable to the part.
    """
    mask = torch.ones((1,) * num_axes, dtype=torch.bool)
    for axis, kept in positions.items():
        if axis in chosen:
            mask = mask & _along(torch.isin(kept, chosen[axis]), axis, num_axes)
    return mask


def _along(values: Tensor, axis: int, num_axes: int) -> Tensor:
    return values.view([-1 if other == axis else 1 for other in range(num_axes)])
