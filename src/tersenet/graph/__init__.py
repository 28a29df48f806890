"""From a live network to a ``ModelGraph``: layers, costs, and the channels that must be cut together."""

from tersenet.graph.copying import duplicate
from tersenet.graph.cost import QuadraticCost, cost_table, prunable_ratio
from tersenet.graph.diverge import diverging_line
from tersenet.graph.export import tensors_in, unwrapped
from tersenet.graph.lines import line_of_error
from tersenet.graph.lock import lock
from tersenet.graph.masked_cost import ChannelCost, MaskedCost, masked_cost_table
from tersenet.graph.model_graph import ChannelGroup, Layer, Member, ModelGraph, Operator, Role, TensorInfo, Width
from tersenet.graph.trace import trace

__all__ = [
    "ChannelCost",
    "ChannelGroup",
    "Layer",
    "MaskedCost",
    "Member",
    "ModelGraph",
    "Operator",
    "QuadraticCost",
    "Role",
    "TensorInfo",
    "Width",
    "cost_table",
    "diverging_line",
    "duplicate",
    "line_of_error",
    "lock",
    "masked_cost_table",
    "prunable_ratio",
    "tensors_in",
    "trace",
    "unwrapped",
]
