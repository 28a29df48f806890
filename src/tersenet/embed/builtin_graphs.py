"""The built-in networks as operator graphs, without weights, to pre-train encoders on."""

from __future__ import annotations

import functools

import torch

from tersenet import models
from tersenet.embed.operator_graph import OperatorGraph, operator_graph
from tersenet.graph import trace


@functools.cache
def builtin_graph(name: str) -> OperatorGraph:
    """A built-in network at its usual inputs; every group of channels that may be cut is decided.

    Traced on torch's meta device, which computes shapes and no values.

    Raises:
        UnknownNameError: no built-in network has this name.
    """
    with torch.device("meta"):
        model = models.build(name)
        inputs = torch.empty(2, *models.input_shape(name))
    graph = trace(model, inputs)
    return operator_graph(graph, [group.producers for group in graph.channel_groups if group.prunable])
