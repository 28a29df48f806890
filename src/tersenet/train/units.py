"""What is switched in a network in training: channels of coupled groups, or 2-D kernels inside layers.

Either way a session needs to know which channels of the network are on, which weights inside layers, and the health of
every unit. A 2-D kernel is one input channel of one filter; of a linear layer a single weight. A channel is off once
nothing that is on writes it or nothing that is on reads it (``transforms/kernels.py``).

Health by ``taylor`` is how much the loss changes to first order if the unit is scaled away: the absolute sum of weight
times gradient, over the slices that read a channel, or over the kernel itself. By ``scale`` it is the norm of the
weights times the scale of the batch norm behind them, over the mean of its group or layer. A kernel that is on in vain,
because its channel is off, has none by either. Axes: O output channels, I input channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tersenet.core.protocols import FloatArray
from tersenet.errors import UnknownNameError
from tersenet.graph import Layer, ModelGraph
from tersenet.train.health import Gate, gates_of, loss_changes, scale_health
from tersenet.train.slices import gather
from tersenet.transforms import unit_shape
from tersenet.transforms.kernels import axes_that_stay, without_idle

BoolArray = NDArray[np.bool_]
Masks = Mapping[str, BoolArray]
"""Unit's group or layer to which of its units are on, shape (units,)."""

Held = Mapping[str, Mapping[int, Tensor]]
"""Positions of the full-size tensors that a cut network has, by tensor and axis; axes that are not named are whole."""


class Units(Protocol):
    """What can be switched."""

    unit: str
    """What a unit is called."""

    place: str
    """What it is a part of."""

    @property
    def sizes(self) -> dict[str, int]:
        """Units by group or layer."""
        ...

    def channels(self, active: Masks) -> dict[str, BoolArray]:
        """Which channels are on, by channel group."""
        ...

    def weights(self, active: Masks) -> dict[str, BoolArray]:
        """What is on inside weights, by name, broadcastable to them; whole ones are not named."""
        ...

    def watch(self, active: Masks, held: Held) -> None:
        """Prepare for a cut network in which these units are on."""
        ...

    def loss_changes(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Absolute first-order change of the loss by each unit that is on, float64 on the CPU."""
        ...

    def scale(self, tensors: Mapping[str, Tensor]) -> dict[str, FloatArray]:
        """Health by norms, of the whole network's tensors, shape (units,) each."""
        ...


class ChannelUnits:
    """Channels of coupled groups."""

    unit, place = "channel", "group"

    def __init__(self, graph: ModelGraph, group_ids: Sequence[str]) -> None:
        """``group_ids``: the groups that may be switched."""
        self._groups = {group_id: graph.group(group_id) for group_id in group_ids}
        self._gates: dict[str, list[Gate]] = {}

    @property
    def sizes(self) -> dict[str, int]:
        """Channels by group."""
        return {group_id: group.num_channels for group_id, group in self._groups.items()}

    def channels(self, active: Masks) -> dict[str, BoolArray]:
        """The units themselves."""
        return dict(active)

    def weights(self, active: Masks) -> dict[str, BoolArray]:
        """Nothing is switched inside."""
        return {}

    def watch(self, active: Masks, held: Held) -> None:
        """Find where the channels that are on are read."""
        self._gates = {
            group_id: gates_of(self._groups[group_id], np.flatnonzero(mask), held) for group_id, mask in active.items()
        }

    def loss_changes(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of a factor on each channel that is on."""
        return loss_changes(self._gates, parameters)

    def scale(self, tensors: Mapping[str, Tensor]) -> dict[str, FloatArray]:
        """Norm of filters times scale of norms."""
        return {group_id: scale_health(group, tensors) for group_id, group in self._groups.items()}


class KernelUnits:
    """2-D kernels inside layers, in row-major order of output and input channels."""

    unit, place = "kernel", "layer"

    def __init__(self, graph: ModelGraph, layers: Sequence[str]) -> None:
        """``layers``: names of those that are switched inside; no two of them share a weight.

        Raises:
            UnknownNameError: there is no such layer.
        """
        known = {layer.name: layer for layer in graph.layers}
        missing = [name for name in layers if name not in known]
        if missing:
            raise UnknownNameError(f"The network has no layer {missing[0]!r}. Its layers: {', '.join(known)}.")
        shapes = {tensor.name: tensor.shape for tensor in graph.tensors}
        self._graph = graph
        self._layers: dict[str, Layer] = {name: known[name] for name in layers}
        self._shapes = {name: unit_shape(shapes[layer.weight], "kernel") for name, layer in self._layers.items()}
        self._norms = {name: _norm_behind(graph, name, shape[0]) for name, shape in self._shapes.items()}
        self._active: Masks = {}
        self._held: Held = {}

    @property
    def sizes(self) -> dict[str, int]:
        """Kernels by layer."""
        return {name: int(np.prod(shape)) for name, shape in self._shapes.items()}

    def channels(self, active: Masks) -> dict[str, BoolArray]:
        """Channels that some kernel writes and some kernel reads, of every group that can be cut."""
        kept = without_idle(self._graph, {}, self.weights(active))
        found = {}
        for group in self._graph.channel_groups:
            if group.prunable:
                found[group.group_id] = np.ones(group.num_channels, dtype=np.bool_)
                if group.group_id in kept:
                    found[group.group_id][:] = False
                    found[group.group_id][list(kept[group.group_id])] = True
        return found

    def weights(self, active: Masks) -> dict[str, BoolArray]:
        """Masks of shape (O, I, 1, ...)."""
        return {
            self._layers[name].weight: mask.reshape(self._shapes[name])
            for name, mask in active.items()
            if not mask.all()
        }

    def watch(self, active: Masks, held: Held) -> None:
        """Remember which kernels are on, and which channels the cut network has."""
        self._active, self._held = active, held

    def loss_changes(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of a factor on each kernel that is on."""
        found = {}
        for name, layer in self._layers.items():
            weight = parameters[layer.weight]
            if weight.grad is None:
                continue
            changes_OI = _per_kernel(weight.detach() * weight.grad).sum(dim=2).abs()
            full_OI = torch.zeros(self._shapes[name][:2], dtype=torch.float64)
            held = self._held.get(layer.weight, {})
            rows = held.get(0, torch.arange(full_OI.shape[0]))
            columns = held.get(1, torch.arange(full_OI.shape[1]))
            full_OI[rows[:, None], columns[None, :]] = changes_OI
            found[name] = full_OI.flatten()[torch.from_numpy(self._active[name])]
        return found

    def scale(self, tensors: Mapping[str, Tensor]) -> dict[str, FloatArray]:
        """Norm of kernels times scale of the norm behind their filter; 0 of those that are on in vain."""
        found: dict[str, FloatArray] = {}
        kept = without_idle(self._graph, {}, self.weights(self._active))
        stays = axes_that_stay(self._graph, kept)
        for name, layer in self._layers.items():
            scores_OI = _per_kernel(tensors[layer.weight]).norm(dim=2)
            norm = self._norms[name]
            if norm is not None:
                scores_OI = scores_OI * tensors[norm].detach().double().abs().cpu()[:, None]
            scores: FloatArray = scores_OI.numpy() / max(float(scores_OI.mean()), 1e-300)
            on = self._active[name].reshape(scores.shape)
            for axis in (0, 1):
                stay = stays.get((layer.weight, axis), np.ones(scores.shape[axis], dtype=np.bool_))
                scores = np.where(on & ~np.expand_dims(stay, 1 - axis), 0.0, scores)
            found[name] = scores.reshape(-1)
        return found


def of_cut(mask: Tensor, held: Mapping[int, Tensor]) -> Tensor:
    """The part of a mask inside a weight that a cut network has; axes of length 1 stay as they are."""
    return gather(mask, {axis: kept for axis, kept in held.items() if mask.shape[axis] > 1})


def _per_kernel(values: Tensor) -> Tensor:
    """Numbers of a weight's shape with those of a kernel along the last axis, (O, I, numbers), float64 on the CPU."""
    return values.detach().reshape(*values.shape[:2], -1).double().cpu()


def _norm_behind(graph: ModelGraph, layer: str, num_filters: int) -> str | None:
    """Name of the scale of the norm directly behind a layer, one per filter."""
    sizes = {tensor.name: tensor.shape for tensor in graph.tensors}
    members = (member for group in graph.channel_groups for member in group.members)
    return next((m.tensor for m in members if m.scales == layer and sizes[m.tensor] == (num_filters,)), None)
