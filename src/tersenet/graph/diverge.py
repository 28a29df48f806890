"""Where a cut network computes with other numbers than the original: the line that uses a width as a number."""

from __future__ import annotations

from itertools import zip_longest

import torch
from torch import Tensor, fx, nn

from tersenet.errors import TraceError
from tersenet.graph.export import export_model
from tersenet.graph.lines import line_of_operator


def diverging_line(model: nn.Module, cut: nn.Module, inputs: Tensor | tuple[Tensor, ...]) -> str:
    """The first line where the two networks' forwards differ by more than sizes; empty if they do not.

    Networks of other widths have the same operators, and elementwise operators the same numbers in them, unless the
    forward computes with a width, or decides by it.

    Returns:
        File and line, as ``net.py:12``.
    """
    try:
        before, after = (_calls(export_model(network, inputs).graph_module) for network in (model, cut))
    except TraceError:
        return ""
    for one, other in zip_longest(before, after):
        if one is None or other is None or one.target != other.target or _numbers(one) != _numbers(other):
            return line_of_operator((one if one is not None else other).meta.get("stack_trace"))
    return ""


def _calls(graph_module: fx.GraphModule) -> list[fx.Node]:
    return [node for node in graph_module.graph.nodes if node.op == "call_function"]


def _numbers(node: fx.Node) -> list[object]:
    tags = node.target.tags if isinstance(node.target, torch._ops.OpOverload) else []
    return [given for given in node.args if isinstance(given, int | float)] if torch.Tag.pointwise in tags else []
