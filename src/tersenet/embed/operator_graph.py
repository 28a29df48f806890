"""A network as arrays for message passing: its operators with what each is, and how they make up layers.

The lower level is the operator graph: convolutions, norms, activations, sums, concatenations and so on with typed,
scaled features, joined by data flow. The upper level has one node per *motif*: a convolution or linear layer with the
operators that follow it until its output meets another layer or another layer's output; a sum or a concatenation of
several begins a motif of its own.

No feature depends on the order in which operators are listed or on a module's name: renumbering them renumbers the
rows.

Source: the two levels of GNN-RL (Yu et al. 2022), arXiv:2102.03214, section 4.2; AGMC (Yu et al. 2021),
arXiv:2011.12641, section 3.1, for operators as nodes.
Differs: features are taken from the network that is pruned, where the public codes draw them at random.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tersenet.core.protocols import FloatArray, IntArray
from tersenet.graph.model_graph import Layer, ModelGraph, Operator

KINDS = (
    "input", "conv", "conv_transpose", "linear", "norm", "activation", "pool", "add", "mul", "concat", "reshape",
    "other",
)  # fmt: skip
"""What an operator can be, in the order of the one-hot columns."""

NUMBERS = (
    "kernel_size",
    "stride",
    "conv_groups",
    "is_depthwise",
    "in_channels",
    "out_channels",
    "output_size",
    "macs",
    "num_params",
    "macs_share",
    "params_share",
    "position",
)
"""Columns beside the kind, each in [0, 1]: logarithms of kernel size and stride (means over the spatial axes), groups,
channels, spatial size of the output, MACs and parameters; MACs and parameters over those of the network's largest
layer; operators on the longest path from the input, over the most there are."""

_LARGEST = {"kernel_size": 15, "stride": 7, "conv_groups": 4095, "channels": 4095, "size": 1023}
"""Where the logarithms reach 1."""

_LARGEST_LAYER = 1e10
"""The same for MACs; parameters reach it at its square root times 1,000."""

_ADDS = {"add", "sub", "rsub", "subtract"}
_MULTIPLIES = {"mul", "multiply", "div", "divide"}
_JOINS = {"cat", "concat", "concatenate", "stack"}
_REDUCES = {"mean", "sum", "amax", "amin", "max", "min"}
_RESHAPES = {
    "view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "slice", "select", "pad",
    "constant_pad_nd", "expand", "chunk", "split", "split_with_sizes", "contiguous", "pixel_shuffle", "channel_shuffle",
    "repeat", "movedim", "narrow", "unbind", "_unsafe_view", "pixel_unshuffle", "t",
}  # fmt: skip
_ACTIVATIONS = {
    "relu", "relu6", "hardtanh", "leaky_relu", "prelu", "elu", "selu", "celu", "gelu", "silu", "mish", "sigmoid",
    "hardsigmoid", "hardswish", "tanh", "softplus", "softmax", "log_softmax", "glu", "clamp", "threshold",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class OperatorGraph:
    """N operators, E edges, M motifs, D decisions."""

    kinds: IntArray
    """Place in ``KINDS``, shape (N,)."""

    numbers: FloatArray
    """``NUMBERS``, shape (N, len(NUMBERS)), in [0, 1]."""

    edges: IntArray
    """Data flow between operators, from row 0 to row 1, shape (2, E)."""

    motifs: IntArray
    """The motif of each operator, shape (N,)."""

    decisions: IntArray
    """(decision, motif) pairs: the motifs whose layers produce what is decided, shape (2, at least D)."""

    num_decisions: int

    @property
    def num_motifs(self) -> int:
        """Nodes of the upper level."""
        return int(self.motifs.max(initial=-1)) + 1

    @property
    def inner_edges(self) -> IntArray:
        """Edges between operators of one motif, shape (2, at most E)."""
        ends = self.motifs[self.edges]
        return self.edges[:, ends[0] == ends[1]]

    @property
    def motif_edges(self) -> IntArray:
        """Edges between motifs, each once, sorted, shape (2, at most E)."""
        ends = self.motifs[self.edges]
        return np.unique(ends[:, ends[0] != ends[1]], axis=1).reshape(2, -1)


def operator_graph(graph: ModelGraph, decisions: Sequence[Sequence[str]]) -> OperatorGraph:
    """The arrays of a traced network.

    Args:
        graph: with its operators, as ``trace`` gives it.
        decisions: for each decision the layers it is about (the producers of a channel group); names that are no
            layers are passed over, and a decision without any is about the input.

    Raises:
        ValueError: the graph has no operators.
    """
    if not graph.operators:
        raise ValueError("the graph has no operators; use trace(model, example_inputs)")
    by_weight = {layer.weight: layer for layer in graph.layers}
    layers = [next((by_weight[name] for name in op.tensors if name in by_weight), None) for op in graph.operators]
    motifs = _motifs(graph.operators, layers)
    first = {layer.name: motif for layer, motif in reversed(list(zip(layers, motifs, strict=True))) if layer}
    pairs = []
    for number, names in enumerate(decisions):
        about = sorted({first[name] for name in names if name in first}) or [0]
        pairs += [(number, motif) for motif in about]
    return OperatorGraph(
        kinds=np.array([KINDS.index(_kind(op.name)) for op in graph.operators], dtype=np.int64),
        numbers=_numbers(graph.operators, layers),
        edges=_columns([(source, place) for place, op in enumerate(graph.operators) for source in op.inputs]),
        motifs=np.array(motifs, dtype=np.int64),
        decisions=_columns(pairs),
        num_decisions=len(decisions),
    )


def _columns(pairs: list[tuple[int, int]]) -> IntArray:
    return np.array(pairs, dtype=np.int64).reshape(-1, 2).T.copy()


def _kind(name: str) -> str:
    if name.startswith("conv_transpose"):
        return "conv_transpose"
    if name.startswith("conv"):
        return "conv"
    if name in ("input", "linear"):
        return name
    if name.endswith("_norm"):
        return "norm"
    if "pool" in name or name in _REDUCES:
        return "pool"
    tables = {"add": _ADDS, "mul": _MULTIPLIES, "concat": _JOINS, "activation": _ACTIVATIONS, "reshape": _RESHAPES}
    return next((kind for kind, names in tables.items() if name in names), "other")


def _motifs(operators: Sequence[Operator], layers: Sequence[Layer | None]) -> list[int]:
    motifs: list[int] = []
    count = 0
    for op, layer in zip(operators, layers, strict=True):
        before = {motifs[source] for source in op.inputs}
        if layer is None and len(before) == 1:
            motifs.append(before.pop())
        else:
            motifs.append(count)
            count += 1
    return motifs


def _numbers(operators: Sequence[Operator], layers: Sequence[Layer | None]) -> FloatArray:
    known = [layer for layer in layers if layer is not None]
    most_macs = max((layer.macs for layer in known), default=1) or 1
    most_params = max((layer.num_params for layer in known), default=1) or 1
    depths: list[int] = []
    for op in operators:
        depths.append(1 + max((depths[source] for source in op.inputs), default=-1))
    deepest = max(depths) or 1
    rows = []
    for op, layer, depth in zip(operators, layers, depths, strict=True):
        before = operators[op.inputs[0]].output_shape if op.inputs else op.output_shape
        rows.append(
            [
                *(_shape_numbers(op, before) if layer is None else _layer_numbers(layer)),
                _scaled(_size(op.output_shape), _LARGEST["size"]),
                0.0 if layer is None else _scaled(layer.macs, _LARGEST_LAYER),
                0.0 if layer is None else _scaled(layer.num_params, 1e3 * math.sqrt(_LARGEST_LAYER)),
                0.0 if layer is None else layer.macs / most_macs,
                0.0 if layer is None else layer.num_params / most_params,
                depth / deepest,
            ]
        )
    numbers: NDArray[np.float64] = np.array(rows, dtype=np.float64)
    return numbers.clip(0.0, 1.0)


def _layer_numbers(layer: Layer) -> list[float]:
    return [
        _scaled(_mean(layer.kernel_size), _LARGEST["kernel_size"]),
        _scaled(_mean(layer.stride), _LARGEST["stride"]),
        _scaled(layer.conv_groups, _LARGEST["conv_groups"]),
        float(layer.conv_groups > 1 and layer.conv_groups == layer.in_channels),
        _scaled(layer.in_channels, _LARGEST["channels"]),
        _scaled(layer.out_channels, _LARGEST["channels"]),
    ]


def _shape_numbers(op: Operator, before: tuple[int, ...]) -> list[float]:
    """Of an operator that is no layer only shapes are known; its stride is how much smaller its output is."""
    stride = max(1.0, _size(before) / _size(op.output_shape))
    return [
        0.0,
        _scaled(stride, _LARGEST["stride"]),
        0.0,
        0.0,
        _scaled(before[0] if before else 1, _LARGEST["channels"]),
        _scaled(op.output_shape[0] if op.output_shape else 1, _LARGEST["channels"]),
    ]


def _size(shape: tuple[int, ...]) -> float:
    """Side of a feature map: the geometric mean over its spatial axes; 1 where there are none."""
    spatial = shape[1:]
    return float(max(1, math.prod(spatial))) ** (1.0 / len(spatial)) if spatial else 1.0


def _mean(sizes: tuple[int, ...]) -> float:
    return sum(sizes) / len(sizes) if sizes else 1.0


def _scaled(value: float, largest: float) -> float:
    return math.log1p(value) / math.log1p(largest)
