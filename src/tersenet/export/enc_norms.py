"""Batch norms behind layers whose weights are stored in codes: one scale and one shift per channel.

Shared values are of the unfolded weight: folding the norm in would give every channel shared values of its own. So the
scale becomes a product with the decoded weight, the shift the layer's bias, and both are folded at load: two
vectors in the file in place of four, and the time of a fused convolution.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tersenet.export.enc_graph import Graph
from tersenet.export.enc_pools import Pools


def absorb_norm(graph: Graph, pools: Pools, node: Any, *, axis: int) -> NDArray[np.float64] | None:
    """Take out the batch norm behind a layer, if there is one that nothing else sees: its shift becomes the bias.

    Args:
        graph: the graph.
        pools: where the shift is written.
        node: the layer: ``Conv``, ``ConvTranspose`` or ``Gemm``, its weight the second input.
        axis: of the weight, on which its output channels lie.

    Returns:
        What each output channel of the weight is to be multiplied with, shape (O,); None if all stays as it was.
    """
    if _axis_of_outputs(node) != axis or graph.is_seen_outside(node.output[0]):
        return None
    behind = graph.uses(node.output[0])
    if len(behind) != 1 or behind[0][1] != 0 or not _is_plain_norm(graph, behind[0][0]):
        return None
    norm = behind[0][0]
    parameters = [graph.values(name) for name in norm.input[1:]]
    bias = graph.values(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(())
    if bias is None or bias.ndim > 1 or any(one is None for one in parameters):
        return None
    weight, shift, mean, variance = (np.asarray(one, np.float64) for one in parameters)
    scale: NDArray[np.float64] = weight / np.sqrt(variance + _attribute(norm, "epsilon", 1e-5))
    new_bias = (shift + (bias.astype(np.float64) - mean) * scale).astype(np.float32)
    if not (np.isfinite(scale).all() and np.isfinite(new_bias).all()):
        return None
    del node.input[2:]
    node.input.append(pools.vector(new_bias))
    node.output[0] = norm.output[0]
    graph.remove(norm)
    return scale


def _axis_of_outputs(node: Any) -> int | None:
    """Of the second input; None if the node is no layer, or one whose channels do not lie on one axis."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if _attribute(node, "group", 1) == 1 else None
    if node.op_type == "Gemm" and _attribute(node, "alpha", 1.0) == 1.0 == _attribute(node, "beta", 1.0):
        return 0 if _attribute(node, "transB", 0) else 1
    return None


def _is_plain_norm(graph: Graph, node: Any) -> bool:
    is_norm = node.op_type == "BatchNormalization" and not _attribute(node, "training_mode", 0)
    return is_norm and not any(graph.uses(name) or graph.is_seen_outside(name) for name in node.output[1:] if name)


def _attribute(node: Any, name: str, default: float) -> float:
    for attribute in node.attribute:
        if attribute.name == name:
            return float(attribute.f if attribute.type == attribute.FLOAT else attribute.i)
    return default
