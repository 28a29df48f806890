"""What an agent is told about a network: features of its channel groups, or of its layers, or its graph as arrays."""

from tersenet.embed.builtin_graphs import builtin_graph
from tersenet.embed.features import FEATURE_NAMES, LAYER_FEATURE_NAMES, group_features, layer_features
from tersenet.embed.operator_graph import OperatorGraph, operator_graph
from tersenet.embed.random_graphs import random_graph

__all__ = [
    "FEATURE_NAMES",
    "LAYER_FEATURE_NAMES",
    "OperatorGraph",
    "builtin_graph",
    "group_features",
    "layer_features",
    "operator_graph",
    "random_graph",
]
