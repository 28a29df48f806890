"""Costs of the cut network as a function of how many channels each group keeps, exact and fast.

The size of every axis is an affine function of the kept counts, a tensor's number of elements is the product of its
axes, and a layer's multiply-accumulates are a multiple of its weight's elements. Nearly all tensors are cut on one
or two axes, so their sum is one quadratic form in the kept counts; it is built once, and a call is two products of
small arrays. Sums of integers stay below 2**53, so that float64 holds them exactly.

Axes: G channel groups, A axes of one tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tersenet.core.protocols import FloatArray, IntArray
from tersenet.core.target import CostKind
from tersenet.graph.model_graph import ModelGraph


@dataclass(frozen=True)
class QuadraticCost:
    """``k Q k + products``, with k the kept counts and a leading 1 for what does not change."""

    quadratic: FloatArray
    """Shape (1 + G, 1 + G)."""

    products: tuple[tuple[float, FloatArray], ...]
    """Tensors that are cut on three axes or more: factor, and the axes' affine forms, shape (A, 1 + G)."""

    num_groups: int

    def cost(self, num_kept: IntArray) -> float:
        """The cost.

        Args:
            num_kept: channels kept per group, shape (G,), in the order of ``ModelGraph.channel_groups``.

        Raises:
            ValueError: ``num_kept`` has another length.
        """
        counts = np.empty(self.num_groups + 1)
        counts[0] = 1.0
        counts[1:] = num_kept
        total = float(counts @ (self.quadratic @ counts))
        for factor, axes in self.products:
            total += factor * float(np.prod(axes @ counts))
        return total


def cost_table(
    graph: ModelGraph,
    kind: CostKind,
    *,
    bytes_per_element: Mapping[str, float] | float = 4.0,
    overhead_bytes: float = 0.0,
) -> QuadraticCost:
    """The cost of the really cut network for any kept counts.

    Args:
        kind: ``macs`` (multiply-accumulates at batch 1), ``params``, or ``size_bytes`` (elements of parameters and
            norm statistics times their bytes).
        bytes_per_element: for ``size_bytes``, one number or one per tensor name.
        overhead_bytes: for ``size_bytes``, what does not depend on the counts.

    Raises:
        ValueError: ``bytes_per_element`` lacks a tensor.
    """
    factors = _factors(graph, kind, bytes_per_element)
    shapes = {tensor.name: tensor.shape for tensor in graph.tensors}
    num_groups = len(graph.channel_groups)
    quadratic = np.zeros((num_groups + 1, num_groups + 1))
    if kind == "size_bytes":
        quadratic[0, 0] = overhead_bytes
    forms = _axis_forms(graph, shapes)
    products = []
    for name, factor in factors.items():
        cut = {axis: forms[name, axis] for axis in range(len(shapes[name])) if (name, axis) in forms}
        scale = factor * math.prod(size for axis, size in enumerate(shapes[name]) if axis not in cut)
        if len(cut) > 2:
            products.append((scale, np.stack(list(cut.values()))))
            continue
        constant = np.eye(1, num_groups + 1)[0]
        one, other = [*cut.values(), constant, constant][:2]
        quadratic += scale * np.outer(one, other)
    return QuadraticCost(quadratic, tuple(products), num_groups)


def prunable_ratio(graph: ModelGraph, kind: CostKind) -> float:
    """Share of a cost that lies in channels that may be cut, in [0, 1]; one channel of each group stays all the same.

    An element of a weight counts if its output channel or its input channel may be cut.
    """
    table = cost_table(graph, kind)
    whole = np.array([group.num_channels for group in graph.channel_groups], dtype=np.int64)
    locked = np.array([0 if group.prunable else group.num_channels for group in graph.channel_groups], dtype=np.int64)
    return 1.0 - table.cost(locked) / table.cost(whole) if graph.layers else 0.0


def _factors(graph: ModelGraph, kind: CostKind, bytes_per_element: Mapping[str, float] | float) -> dict[str, float]:
    """What one element of each tensor costs."""
    if kind == "params":
        return {tensor.name: 1.0 for tensor in graph.tensors if tensor.is_parameter}
    if kind == "macs":
        elements = {tensor.name: math.prod(tensor.shape) for tensor in graph.tensors}
        return {layer.weight: float(layer.macs // elements[layer.weight]) for layer in graph.layers}
    stored = [tensor.name for tensor in graph.tensors if tensor.is_parameter or tensor.is_statistic]
    if not isinstance(bytes_per_element, Mapping):
        return dict.fromkeys(stored, float(bytes_per_element))
    missing = [name for name in stored if name not in bytes_per_element]
    if missing:
        raise ValueError(f"bytes_per_element has no entry for {missing[0]!r} ({len(missing)} missing).")
    return {name: float(bytes_per_element[name]) for name in stored}


def _axis_forms(graph: ModelGraph, shapes: dict[str, tuple[int, ...]]) -> dict[tuple[str, int], FloatArray]:
    """For each cut axis its size as an affine form of the kept counts, shape (1 + G,), the constant first."""
    forms: dict[tuple[str, int], FloatArray] = {}
    for number, group in enumerate(graph.channel_groups, start=1):
        for member in group.members if group.prunable else ():
            key = (member.tensor, member.axis)
            if key not in forms:
                forms[key] = np.zeros(len(graph.channel_groups) + 1)
                forms[key][0] = shapes[member.tensor][member.axis]
            per_channel = len(member.positions[0])
            forms[key][number] += per_channel
            forms[key][0] -= per_channel * group.num_channels
    return forms
