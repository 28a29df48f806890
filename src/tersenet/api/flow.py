"""The data flow of a network as a report draws it: layers, and the operators where several values meet."""

from __future__ import annotations

from tersenet.core.summary import FlowNode
from tersenet.graph import ModelGraph


def flow_nodes(graph: ModelGraph) -> tuple[FlowNode, ...]:
    """Inputs, calls of layers and joins, in order of execution; all other operators are looked through."""
    layers = {layer.weight: layer.name for layer in graph.layers}
    nodes: list[FlowNode] = []
    stands_for: list[tuple[int, ...]] = []  # nodes behind the result of each operator
    for operator in graph.operators:
        reads = tuple(sorted({node for place in operator.inputs for node in stands_for[place]}))
        layer = next((layers[name] for name in operator.tensors if name in layers), None)
        if not operator.inputs:
            nodes.append(FlowNode(kind="input", name="input", reads=()))
        elif layer is not None:
            nodes.append(FlowNode(kind="layer", name=layer, reads=reads))
        elif len(reads) > 1:
            nodes.append(FlowNode(kind="join", name=operator.name, reads=reads))
        else:
            stands_for.append(reads)
            continue
        stands_for.append((len(nodes) - 1,))
    return tuple(nodes)
