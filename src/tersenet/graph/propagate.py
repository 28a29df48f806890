"""Walk the exported graph operator by operator and let each say what it does to the labels.

The rules are in ``operators``; here are the walk itself, the graph's inputs, and nested regions.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from tersenet.graph.export import Exported
from tersenet.graph.labels import FIXED, INPUT, LabelBook
from tersenet.graph.lines import line_of_operator
from tersenet.graph.operators import apply_operator
from tersenet.graph.pointwise import fixed
from tersenet.graph.walk import Param, Walk, described, output_shapes

_REGIONS = ("wrap_with_set_grad_enabled", "wrap_with_autocast")


def propagate(exported: Exported, book: LabelBook) -> Walk:
    """Walk the whole graph; channels that reach the model's outputs are pinned.

    Args:
        book: what is known already, from another forward of the same model; written on.
    """
    walk = Walk(exported, book)
    outputs = _run(walk, exported.graph_module, None)
    for value in walk.values([outputs]):
        walk.book.pin(value.labels, "these are the model's outputs")
    return walk


def _run(walk: Walk, graph_module: fx.GraphModule, bound: Sequence[Any] | None) -> Any:
    given = iter(bound) if bound is not None else None
    for node in graph_module.graph.nodes:
        if node.op == "placeholder":
            walk.env[node] = next(given) if given is not None else _placeholder(walk, node)
        elif node.op == "get_attr":
            held = getattr(graph_module, str(node.target), None)
            walk.env[node] = fixed(tuple(held.shape)) if isinstance(held, Tensor) else held
        elif node.op == "call_function":
            walk.module = _module(node)
            name = str(node.target).removesuffix(".default")
            line = line_of_operator(node.meta.get("stack_trace"))
            walk.book.where = (f"{name} in {walk.module}" if walk.module else name) + (f", {line}" if line else "")
            walk.env[node] = _call(walk, node)
        elif node.op == "output":
            return _resolved(walk, node.args[0])
    return None


def _resolved(walk: Walk, argument: Any) -> Any:
    return fx.map_arg(argument, lambda node: walk.env.get(node))


def _module(node: fx.Node) -> str:
    """Path of the innermost module, without the call number that repeated calls carry."""
    stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values() if not path.startswith("_")]
    return str(stack[-1]).partition("@")[0] if stack else ""


def _placeholder(walk: Walk, node: fx.Node) -> Any:
    made = node.meta.get("val")
    if not isinstance(made, Tensor):
        return made
    shape = tuple(int(size) for size in made.shape)
    name = walk.exported.placeholders.get(node.name)
    if name is not None:
        return Param(name, shape, made.is_floating_point())
    return fixed(shape, sentinel=INPUT if node.name in walk.exported.user_inputs else FIXED)


def _call(walk: Walk, node: fx.Node) -> Any:
    args, kwargs = _resolved(walk, node.args), _resolved(walk, node.kwargs)
    if node.target is operator.getitem:
        container, index = args
        return container[index] if isinstance(container, list | tuple) else None
    shapes = output_shapes(node)
    made = node.meta.get("val")
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        return _nested(walk, node, args)
    if not shapes or not isinstance(node.target, torch._ops.OpOverload):
        return made
    results = apply_operator(walk, described(node.target, args, kwargs, shapes))
    return results if isinstance(made, list | tuple) else results[0]


def _nested(walk: Walk, node: fx.Node, args: Sequence[Any]) -> Any:
    """A region with a graph of its own (no_grad, autocast) is walked like the rest."""
    graphs = [argument for argument in args if isinstance(argument, fx.GraphModule)]
    name = str(node.target)
    if len(graphs) == 1 and name in _REGIONS:
        return _run(walk, graphs[0], list(args)[list(args).index(graphs[0]) + 1 :])
    return walk.unknown(walk.values(args), f"{name} is not understood", output_shapes(node))
