"""The built-in networks as operator graphs, without weights, to pre-train encoders on."""

from __future__ import annotations

import functools

import torch

from tersenet import models
from tersenet.embed.operator_graph import OperatorGraph, operator_graph
from tersenet.graph import trace


@functools.cache
def builtin_graphs() -> tuple[OperatorGraph, ...]:
    """All built-in networks at their usual inputs; every group of channels that may be cut is decided.

    Traced on torch's meta device, which computes shapes and no values: seconds for all, once in a process.
    """
    graphs = []
    for name in models.names():
        with torch.device("meta"):
            model = models.build(name)
            inputs = torch.empty(2, *models.input_shape(name))
        graph = trace(model, inputs)
        graphs.append(operator_graph(graph, [group.producers for group in graph.channel_groups if group.prunable]))
    return tuple(graphs)
