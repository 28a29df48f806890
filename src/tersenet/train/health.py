"""How much a network in training needs each channel of a group: first-order Taylor, and the scale of filters and norms.

Taylor: the absolute sum of weight times gradient over all slices that read a channel. That sum is the derivative of the
loss by a factor on the channel, whatever lies between (norm, activation, pool), so to first order it is what removing
the channel changes. Over the slices that make the channel the sum would be zero wherever a batch norm follows.

Source: Molchanov et al. 2017, arXiv:1611.06440, eq. 8, and 2019, arXiv:1906.10771, eq. 8 (gates).
Differs: summed over the batch before the absolute value is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tersenet.core.protocols import FloatArray, IntArray
from tersenet.graph import ChannelGroup
from tersenet.transforms import member_views


@dataclass(frozen=True)
class Gate:
    """Where one weight reads the channels of a group."""

    tensor: str
    axis: int

    index: Tensor
    """Positions on that axis of each channel, in a cut network, shape (channels, positions of one)."""


def gates_of(group: ChannelGroup, channels: IntArray, held: Mapping[str, Mapping[int, Tensor]]) -> list[Gate]:
    """What reads some channels of a group.

    Args:
        channels: which, shape (channels,).
        held: positions of the full-size tensors that the cut network has, by tensor and axis, ascending; axes that
            are not named are whole. Those of ``channels`` are among them.
    """
    gates = []
    for member in group.members:
        if member.role == "consumer":
            positions = torch.tensor(member.positions)[torch.from_numpy(channels)]
            there = held.get(member.tensor, {}).get(member.axis)
            index = positions if there is None else torch.searchsorted(there, positions)
            gates.append(Gate(member.tensor, member.axis, index))
    return gates


def loss_changes(gates: Mapping[str, Sequence[Gate]], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Absolute first-order change of the loss per channel, from the gradients that the parameters hold.

    Returns:
        By group, shape (channels,), float64 on the CPU; groups whose readers have no gradient are left out.
    """
    sums: dict[tuple[str, int], Tensor] = {}
    found: dict[str, Tensor] = {}
    for group_id, readers in gates.items():
        for gate in readers:
            weight, key = parameters[gate.tensor], (gate.tensor, gate.axis)
            if weight.grad is None:
                continue
            if key not in sums:
                products = weight.detach() * weight.grad
                sums[key] = products.movedim(gate.axis, 0).flatten(1).sum(dim=1).double().cpu()
            change = sums[key][gate.index].sum(dim=1)
            found[group_id] = found[group_id] + change if group_id in found else change
    return {group_id: change.abs() for group_id, change in found.items()}


def scale_health(group: ChannelGroup, tensors: Mapping[str, Tensor]) -> FloatArray:
    """Norm of each channel's filter times the scale of the batch norm behind it, over the group's mean.

    Args:
        tensors: of the whole network, by name.

    Returns:
        Summed over producers, shape (num_channels,).
    """
    total: FloatArray = np.zeros(group.num_channels)
    for view in member_views(group, tensors):
        scores = view.filters().double().norm(dim=1).cpu()
        total += (scores if view.norm_scale is None else scores * view.norm_scale.double().cpu()).numpy()
    return total / max(float(total.mean()), 1e-300)
