"""The operators of the forward pass and the data flow between them, as plain data.

What is computed from parameters alone (a cast, a detached weight) is no part of the data flow: who reads it reads the
parameter. Tuples are looked through, and so are nested regions (no_grad, autocast).
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from tersenet.graph.export import Exported
from tersenet.graph.model_graph import Operator
from tersenet.graph.walk import output_shapes


@dataclass(frozen=True)
class _Origin:
    """What stands behind a value: operators by position, and parameters by name."""

    operators: tuple[int, ...] = ()
    tensors: tuple[str, ...] = ()


def operators(exported: Exported) -> tuple[Operator, ...]:
    """Every operator between the model's inputs and outputs, in order of execution."""
    found: list[Operator] = []
    _collect(exported.graph_module, exported, None, found)
    return tuple(found)


def _collect(
    graph_module: fx.GraphModule, exported: Exported, bound: Sequence[_Origin] | None, found: list[Operator]
) -> _Origin:
    """Add a graph's operators to ``found``; returns the origin of its outputs."""
    origins: dict[fx.Node, _Origin] = {}
    given = iter(bound or ())
    for node in graph_module.graph.nodes:
        reads = _joined(origins.get(source, _Origin()) for source in node.all_input_nodes)
        if node.op == "placeholder":
            origins[node] = next(given, _Origin()) if bound is not None else _placeholder(node, exported, found)
        elif node.op == "output":
            return reads
        elif node.op == "call_function":
            region = _region(graph_module, node)
            if region is not None:
                inner, arguments = region
                known = [origins.get(a, _Origin()) if isinstance(a, fx.Node) else _Origin() for a in arguments]
                origins[node] = _collect(inner, exported, known, found)
            else:
                origins[node] = _operator(node, reads, found)
    return _Origin()


def _placeholder(node: fx.Node, exported: Exported, found: list[Operator]) -> _Origin:
    if node.name in exported.placeholders:
        return _Origin(tensors=(exported.placeholders[node.name],))
    shapes = output_shapes(node)
    if node.name not in exported.user_inputs or not shapes:
        return _Origin()
    found.append(Operator(name="input", inputs=(), tensors=(), output_shape=shapes[0][1:]))
    return _Origin(operators=(len(found) - 1,))


def _region(graph_module: fx.GraphModule, node: fx.Node) -> tuple[fx.GraphModule, Sequence[object]] | None:
    """The nested graph that a node runs, and the arguments it is given; None for a plain operator."""
    if not isinstance(node.target, torch._ops.HigherOrderOperator):
        return None
    for place, argument in enumerate(node.args):
        if isinstance(argument, fx.Node) and argument.op == "get_attr":
            held = getattr(graph_module, str(argument.target), None)
            if isinstance(held, fx.GraphModule):
                return held, node.args[place + 1 :]
    return None


def _operator(node: fx.Node, reads: _Origin, found: list[Operator]) -> _Origin:
    shapes = output_shapes(node)
    if node.target is operator.getitem or not shapes or not reads.operators:
        return reads
    target = node.target
    name = target._schema.name if isinstance(target, torch._ops.OpOverload) else str(target)
    short = name.removeprefix("aten::")
    short = short if short.startswith("_") else short.rstrip("_")
    found.append(Operator(name=short, inputs=reads.operators, tensors=reads.tensors, output_shape=shapes[0][1:]))
    return _Origin(operators=(len(found) - 1,))


def _joined(origins: Iterable[_Origin]) -> _Origin:
    known = list(origins)
    places = sorted({place for origin in known for place in origin.operators})
    names = dict.fromkeys(name for origin in known for name in origin.tensors)
    return _Origin(tuple(places), tuple(names))
