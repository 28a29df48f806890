"""From a live network to a ``ModelGraph``: layers, costs, and the channels that must be cut together."""

from tersenet.graph.cost import QuadraticCost, cost_table
from tersenet.graph.export import duplicate, unwrapped
from tersenet.graph.lock import lock
from tersenet.graph.model_graph import ChannelGroup, Layer, Member, ModelGraph, Operator, Role, TensorInfo, Width
from tersenet.graph.trace import trace

__all__ = [
    "ChannelGroup",
    "Layer",
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
    "trace",
    "unwrapped",
]
