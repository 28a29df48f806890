"""What is decided where 2-D kernels are switched while a network trains, what that costs, and what makes no sense.

A kernel that is off is zero: it saves bytes of the packed file, and no time of a dense runtime unless its whole channel
goes. Bounds are therefore on weights that are not zero and on bytes; what idle channels save comes on top.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from torch import nn

from tersenet import pack
from tersenet.api.options import CompressOptions
from tersenet.core.target import Target
from tersenet.envs import KernelSpace, Limit, SwitchedKernels, UnitCost, nonzero_params_limit
from tersenet.errors import ModelError, SearchError, TargetError
from tersenet.graph import Layer, ModelGraph
from tersenet.recipes.khatri2020 import Khatri2020Config
from tersenet.transforms import unit_shape


def refuse_nonsense(config: Khatri2020Config, target: Target | None, options: CompressOptions) -> None:
    """Refuse what the unit that is switched cannot promise.

    Raises:
        SearchError: a setting belongs to the other unit.
        TargetError: a bound does, or nothing is bounded.
    """
    if config.unit == "filter":
        if config.max_nonzero_ratio is not None:
            raise SearchError(
                f"max_nonzero_ratio={config.max_nonzero_ratio:g} counts zeros inside layers, and unit='filter' leaves "
                "none. Give the target max_params_ratio, or set unit to 'kernel'."
            )
        return
    if options.rules is not None:
        raise SearchError(
            "Rules say what may be done to channels, and unit='kernel' switches inside layers. Leave the rules out, or "
            "set unit to 'filter'."
        )
    if target is None:
        return
    dense = [name for name in target.bounds() if name.startswith(("max_macs", "max_params"))]
    if dense:
        raise TargetError(
            f"{dense[0]} counts what a dense runtime does and holds, zeros included, which unit='kernel' cannot "
            "promise. Bound max_size_ratio or max_size_bytes instead, and weights that are not zero by the setting "
            "max_nonzero_ratio; or set unit to 'filter'."
        )


def kernel_space(graph: ModelGraph, config: Khatri2020Config) -> KernelSpace:
    """The layers whose 2-D kernels are switched: all but the last that have several, each weight once.

    Raises:
        ModelError: there are none.
    """
    shapes = {tensor.name: tensor.shape for tensor in graph.tensors}
    found: dict[str, tuple[int, ...]] = {}
    weights = {graph.layers[-1].weight} if graph.layers else set()
    for layer in graph.layers:
        if layer.op != "conv_transpose" and layer.weight not in weights and math.prod(shapes[layer.weight][:2]) > 1:
            weights.add(layer.weight)
            found[layer.name] = unit_shape(shapes[layer.weight], "kernel")
    if not found:
        raise ModelError("No layer but the last has several 2-D kernels, so unit='kernel' has nothing to switch.")
    return KernelSpace(switched=SwitchedKernels(found), lower_bound=config.lower_bound)


def kernel_costs(
    model: nn.Module,
    graph: ModelGraph,
    space: KernelSpace,
    config: Khatri2020Config,
    *,
    target: Target | None,
    dtype: Literal["fp32", "fp16"],
    aim: float,
) -> tuple[Limit, ...]:
    """Weights and multiply-accumulates that are not zero, and bytes, before idle channels are cut.

    Args:
        target: its bound on bytes is kept.
        dtype: width of plain numbers in the file.
        aim: share of the bound on bytes that is aimed at.
    """
    layers = {layer.name: layer for layer in graph.layers}
    switched = [layers[name] for name in space.switched.shapes]
    counts, sizes = space.max_kept, _kernel_sizes(graph, switched)
    width = pack.bytes_per_element(model, dtype=dtype)
    masks = float(sum(-(-int(count) // 8) for count in counts))  # a bit per kernel
    stored = sum(math.prod(t.shape) * width.get(t.name, 0.0) for t in graph.tensors if t.is_parameter or t.is_statistic)
    originals = (float(graph.num_params), float(graph.macs), float(graph.original_bytes))
    totals = (*originals[:2], stored + masks + pack.estimate_overhead(model))
    prices = (
        sizes,
        np.array([layer.macs for layer in switched]) / counts,
        sizes * np.array([width[layer.weight] for layer in switched]),
    )
    tables = [UnitCost(total - float(own @ counts), own) for total, own in zip(totals, prices, strict=True)]
    limits = {} if target is None else target.limits({"size_bytes": originals[2]})
    asked = {} if target is None else target.asked({"size_bytes": originals[2]})
    return (
        nonzero_params_limit(tables[0], original=originals[0], max_nonzero_ratio=config.max_nonzero_ratio),
        Limit(kind="nonzero_macs", table=tables[1], maximum=math.inf, original=originals[1]),
        Limit(
            kind="size_bytes",
            table=tables[2],
            maximum=aim * limits.get("size_bytes", math.inf),
            original=originals[2],
            asked=asked.get("size_bytes", ""),
        ),
    )


def _kernel_sizes(graph: ModelGraph, layers: list[Layer]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Weights of one kernel of each layer."""
    shapes = {tensor.name: tensor.shape for tensor in graph.tensors}
    return np.array([math.prod(shapes[layer.weight][2:]) for layer in layers], dtype=np.float64)
