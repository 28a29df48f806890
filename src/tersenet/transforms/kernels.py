"""Pruning inside layers: which 2-D kernels, positions or single weights stay, and which channels then have no use.

Channels are cut first; units are chosen among what they leave. What goes becomes zero: it costs next to nothing in the
file, since zeros are entropy-coded, and a dense runtime multiplies by it all the same. Two things it does save are made
real: outer rows and columns that are off in all kernels are cropped (``transforms/cropping.py``), and channels that
nothing writes or nothing reads any more are cut like any other.

Axes: O output channels, I input channels, h and w positions. A channel that nothing reads is cut without any change to
the outputs; of one that nothing writes the constant goes that a bias or a norm made of it.

Source: Zhan et al. 2019, arXiv:1912.02254 (kernels; positions; elements in the later version).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tersenet import criteria
from tersenet.core.policy import KernelDecision, KernelUnit, Policy
from tersenet.core.registry import unknown_name
from tersenet.errors import ModelError, PolicyError
from tersenet.graph import ChannelGroup, Layer, ModelGraph

Mask = NDArray[np.bool_]
Stays = Mapping[tuple[str, int], Mask]
"""What stays along each axis that is cut, by tensor and axis."""

Kept = Mapping[str, tuple[int, ...]]
"""Group id to the channels that stay."""


def unit_shape(shape: tuple[int, ...], unit: KernelUnit, *, output_axis: int = 0) -> tuple[int, ...]:
    """Shape of the units of a weight, which broadcasts against it.

    Args:
        shape: of the weight, (O, I, ...); (I, O, ...) for transposed convolutions.
        output_axis: axis of the output channels.
    """
    spatial = tuple(shape[2:])
    if unit == "kernel":
        return (*shape[:2], *[1] * len(spatial))
    if unit == "element":
        return tuple(shape)
    filters = [1, 1]
    if unit == "filter_position":
        filters[output_axis] = shape[output_axis]
    return (*filters, *spatial)


def kernel_masks(
    tensors: Mapping[str, Tensor],
    graph: ModelGraph,
    policy: Policy,
    stays: Stays,
    *,
    learned: criteria.Learned | None,
    seed: int,
) -> dict[str, Mask]:
    """Which units stay, by name of the weight, of the units' shape; what channel pruning removes does not count.

    Raises:
        PolicyError: there is no such layer, or a mask does not fit it.
        UnknownNameError: no criterion for units has this name.
        ModelError: the scores are not numbers.
    """
    layers = {layer.name: layer for layer in graph.layers}
    masks: dict[str, Mask] = {}
    for name, decision in policy.kernels.items():
        if name not in layers or layers[name].weight not in tensors:
            raise PolicyError(f"policy.kernels: {unknown_name('layer', name, sorted(layers))}")
        layer, weight = layers[name], tensors[layers[name].weight]
        shape = unit_shape(tuple(weight.shape), decision.unit, output_axis=_output_axis(layer))
        alive = _alive(layer.weight, shape, stays)
        if decision.mask is not None:
            if decision.mask.shape != shape:
                raise PolicyError(
                    f"policy.kernels: the mask of {name!r} has shape {decision.mask.shape}, its units have {shape}. "
                    "Was the policy made for another model?"
                )
            masks[layer.weight] = decision.mask.array() & alive
            continue
        scores = _scores(name, decision, weight, shape, stays, layer.weight, learned=learned, seed=seed)
        masks[layer.weight] = chosen(np.where(alive, scores, -np.inf), decision, num_units=int(alive.sum()))
    return masks


def chosen(scores: NDArray[np.float64], decision: KernelDecision, *, num_units: int) -> Mask:
    """The units that stay: the best share, or those at or above the threshold; of equal scores the first.

    Args:
        scores: any shape; minus infinity for what is gone already.
        num_units: units that are not gone, at least 1.
    """
    if decision.keep_ratio is not None:
        count = max(1, math.ceil(num_units * decision.keep_ratio - 1e-9))
    else:
        assert decision.threshold is not None
        count = max(1, int((scores >= decision.threshold).sum()))
    flat = scores.reshape(-1)
    last = np.partition(flat, flat.size - count)[flat.size - count]
    stays: Mask = flat > last
    stays[np.flatnonzero(flat == last)[: count - int(stays.sum())]] = True
    shaped: Mask = stays.reshape(scores.shape)
    return shaped


def without_idle(graph: ModelGraph, kept: Kept, masks: Mapping[str, Mask]) -> dict[str, tuple[int, ...]]:
    """The channels that stay once those that nothing writes or nothing reads are gone too; one of each group stays.

    Args:
        kept: channels that stay, by group id; groups that are not named stay whole.
        masks: of the units that stay, by name of the weight.
    """
    found = dict(kept)
    while True:
        stays = axes_that_stay(graph, found)
        changed = False
        for group in graph.channel_groups:
            if not group.prunable:
                continue
            channels = found.get(group.group_id, tuple(range(group.num_channels)))
            used = _used(group, graph, masks, stays)[list(channels)]
            if not used.all():
                used[0] |= not used.any()
                left = tuple(channel for channel, is_used in zip(channels, used, strict=True) if is_used)
                changed |= len(left) < len(channels)
                found[group.group_id] = left
        if not changed:
            return found


def axes_that_stay(graph: ModelGraph, kept: Kept) -> dict[tuple[str, int], Mask]:
    """What stays along each axis of each tensor that these channels cut."""
    shapes = {tensor.name: tensor.shape for tensor in graph.tensors}
    stays: dict[tuple[str, int], Mask] = {}
    for group_id, channels in kept.items():
        group = graph.group(group_id)
        removed = np.ones(group.num_channels, dtype=np.bool_)
        removed[list(channels)] = False
        for member in group.members:
            key = (member.tensor, member.axis)
            mask = stays.setdefault(key, np.ones(shapes[member.tensor][member.axis], dtype=np.bool_))
            mask[member.places[removed].reshape(-1)] = False
    return stays


def _used(group: ChannelGroup, graph: ModelGraph, masks: Mapping[str, Mask], stays: Stays) -> Mask:
    """Which channels some producer writes and some consumer reads, shape (num_channels,)."""
    shapes = {tensor.name: tensor.shape for tensor in graph.tensors}
    weights = {layer.weight for layer in graph.layers}
    used = np.ones(group.num_channels, dtype=np.bool_)
    for role in ("producer", "consumer"):
        members = [member for member in group.members if member.role == role and member.tensor in weights]
        if members and all(member.tensor in masks for member in members):
            busy = [_busy(masks[m.tensor], m.tensor, m.axis, stays, size=shapes[m.tensor][m.axis]) for m in members]
            parts = [one[m.places].any(axis=1) for one, m in zip(busy, members, strict=True)]
            used &= np.logical_or.reduce(parts)
    return used


def _busy(mask: Mask, tensor: str, axis: int, stays: Stays, *, size: int) -> Mask:
    """For every position on an axis, whether a unit that stays lies there, shape (size,)."""
    alive = mask & _alive(tensor, mask.shape, stays)
    found = np.asarray(alive.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
    return np.broadcast_to(found, (size,))


def _alive(tensor: str, shape: tuple[int, ...], stays: Stays) -> Mask:
    """Units of which channel pruning leaves something, of the units' shape."""
    alive = np.ones(shape, dtype=np.bool_)
    for axis, size in enumerate(shape):
        if size > 1 and (tensor, axis) in stays:
            alive &= stays[tensor, axis].reshape([-1 if other == axis else 1 for other in range(len(shape))])
    return alive


def _scores(
    layer: str,
    decision: KernelDecision,
    weight: Tensor,
    shape: tuple[int, ...],
    stays: Stays,
    tensor: str,
    *,
    learned: criteria.Learned | None,
    seed: int,
) -> NDArray[np.float64]:
    left = weight.detach()
    for axis in range(weight.ndim):
        if (tensor, axis) in stays:
            gone = torch.from_numpy(np.flatnonzero(~stays[tensor, axis])).to(weight.device)
            left = left.index_fill(axis, gone, 0.0)
    units = None if learned is None else learned.units.get(layer)
    if units is not None and tuple(units.shape) != shape:
        raise PolicyError(
            f"policy.kernels: what was learned for {layer!r} has shape {tuple(units.shape)}, its units have {shape}. "
            "Decide the units that were learned."
        )
    view = criteria.UnitView(weight=left, unit_shape=shape, learned=units)
    # layers of the same size must not draw the same units
    drawn = int(np.random.SeedSequence([seed % 2**63, zlib.crc32(layer.encode())]).generate_state(1)[0])
    with torch.no_grad():
        scores: NDArray[np.float64] = criteria.get_unit(decision.criterion)(view, drawn).double().cpu().numpy()
    if not np.isfinite(scores).all():
        raise ModelError(
            f"Criterion {decision.criterion!r} gives no numbers for layer {layer!r}: its weights hold NaN or infinite "
            "values. Load other weights."
        )
    return scores


def _output_axis(layer: Layer) -> int:
    return 1 if layer.op == "conv_transpose" else 0
