"""Costs of a cut network that count only weights that are not zero: what is left for a runtime that skips zeros.

A dense runtime multiplies by zeros too; what it saves is in ``graph/cost.py``.
Axes: L layers that are pruned inside, G channel groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tersenet.core.policy import KernelUnit
from tersenet.core.protocols import FloatArray, IntArray
from tersenet.graph.cost import QuadraticCost, _axis_forms, cost_table
from tersenet.graph.model_graph import ModelGraph

_WITH_AXES: dict[KernelUnit, tuple[bool, bool, bool]] = {
    "kernel": (True, True, False),
    "position": (False, False, True),
    "filter_position": (True, False, True),
    "element": (True, True, True),
}
"""Whether units are told apart along outputs, inputs and positions."""


@dataclass(frozen=True, kw_only=True)
class MaskedCost:
    """A cost as of ``cost_table``, less what pruning inside layers leaves out; implements ``CostTable``."""

    dense: QuadraticCost
    """The same cost with all weights."""

    axes: FloatArray
    """Sizes of the output and the input axis as affine forms of the kept counts, shape (2, L, 1 + G)."""

    positions: IntArray
    """Positions of each layer's kernels, shape (L,)."""

    prices: FloatArray
    """Cost of one weight, shape (L,)."""

    steps: IntArray
    """What the share of a layer is counted in, shape (L,)."""

    differs: NDArray[np.bool_]
    """Whether units are told apart along outputs, inputs and positions, shape (3,)."""

    def cost(self, num_kept: IntArray) -> float:
        """The cost.

        Args:
            num_kept: channels kept per group, then steps kept per layer, shape (G + L,).
        """
        num_groups = self.dense.num_groups
        counts = np.concatenate([[1.0], num_kept[:num_groups]])
        sizes = np.stack([*(self.axes @ counts), self.positions.astype(np.float64)])
        weights = sizes.prod(axis=0)
        units = np.where(self.differs[:, None], sizes, 1.0).prod(axis=0)
        kept = np.maximum(1.0, np.ceil(units * num_kept[num_groups:] / self.steps - 1e-9))  # as in transforms/kernels
        return self.dense.cost(num_kept[:num_groups]) - float((self.prices * weights * (1.0 - kept / units)).sum())


@dataclass(frozen=True)
class ChannelCost:
    """A cost that depends on channels alone, of counts that hold more; implements ``CostTable``."""

    dense: QuadraticCost

    def cost(self, num_kept: IntArray) -> float:
        """The cost; ``num_kept`` as for ``MaskedCost``."""
        return self.dense.cost(num_kept[: self.dense.num_groups])


def masked_cost_table(
    graph: ModelGraph,
    kind: Literal["macs", "params"],
    layers: Sequence[str],
    *,
    unit: KernelUnit,
    steps: IntArray,
) -> MaskedCost:
    """Multiply-accumulates or parameters whose weight is not zero, for any kept counts.

    Channels that pruning inside layers leaves without use are not taken off: the network may have less.

    Args:
        layers: names of the layers that are pruned inside; their weights are cut on the first two axes at most.
        unit: what is pruned there.
        steps: what a layer's share is counted in, shape (len(layers),).
    """
    shapes = {tensor.name: tensor.shape for tensor in graph.tensors}
    found = {layer.name: layer for layer in graph.layers}
    weights = [found[name].weight for name in layers]
    forms = _axis_forms(graph, shapes)
    axes = np.zeros((2, len(layers), len(graph.channel_groups) + 1))
    for place, weight in enumerate(weights):
        for axis in (0, 1):
            axes[axis, place, 0] = shapes[weight][axis]
            axes[axis, place] = forms.get((weight, axis), axes[axis, place])
    prices = [found[name].macs / math.prod(shapes[found[name].weight]) if kind == "macs" else 1.0 for name in layers]
    return MaskedCost(
        dense=cost_table(graph, kind),
        axes=axes,
        positions=np.array([math.prod(shapes[weight][2:]) for weight in weights], dtype=np.int64),
        prices=np.array(prices, dtype=np.float64),
        steps=steps,
        differs=np.array(_WITH_AXES[unit]),
    )
