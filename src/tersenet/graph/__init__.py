"""From a live network to a ``ModelGraph``: layers, costs, and the channels that must be cut together."""

from tersenet.graph.cost import QuadraticCost, cost_table
from tersenet.graph.export import duplicate, unwrapped
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
    "duplicate",
    "lock",
    "masked_cost_table",
    "trace",
    "unwrapped",
]
