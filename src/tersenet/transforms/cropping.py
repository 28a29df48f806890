"""Outer rows and columns that are off in every kernel of a layer are cropped: 3x3 becomes 1x3, and the padding follows.

A row that is taken off at the top shifts the outputs, and less padding at the top shifts them back; padding is the same
at both ends, so that rows go in pairs, one at each end, as far as there is padding to take away. What is off at one end
only, or in the middle, stays as zeros. The cropped layer computes the same, in fewer multiply-accumulates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.conv import _ConvNd

from tersenet.graph import Layer, ModelGraph

Crop = tuple[tuple[int, ...], tuple[int, ...]]
"""Rows taken off at either end, per spatial axis, and the padding that is left."""


def crops(
    model: nn.Module,
    graph: ModelGraph,
    masks: Mapping[str, NDArray[np.bool_]],
) -> dict[str, Crop]:
    """What can be cropped, by layer name.

    Args:
        masks: of the units that stay, by name of the weight; without what channel pruning removes.
    """
    found: dict[str, Crop] = {}
    for layer in graph.layers:
        module = _croppable(model, layer)
        if layer.weight not in masks or module is None:
            continue
        mask, paddings = masks[layer.weight], cast("tuple[int, ...]", module.padding)
        spatial = np.broadcast_to(mask.any(axis=(0, 1)), tuple(module.weight.shape[2:]))
        ends = tuple(
            _at_both_ends(spatial, axis, padding=padding, dilation=dilation)
            for axis, (padding, dilation) in enumerate(zip(paddings, module.dilation, strict=True))
        )
        if any(ends):
            shifts = zip(paddings, ends, module.dilation, strict=True)
            found[layer.name] = (ends, tuple(padding - end * dilation for padding, end, dilation in shifts))
    return found


def _croppable(model: nn.Module, layer: Layer) -> _ConvNd | None:
    """The convolution of a layer, if its padding is plain zeros and nobody else has its weight."""
    module = dict(model.named_modules()).get(layer.name)
    if not isinstance(module, _ConvNd) or module.transposed or module.padding_mode != "zeros":
        return None
    owners = sum(own is module.weight for other in model.modules() for own in other._parameters.values())
    return module if owners == 1 and not isinstance(module.padding, str) else None


def _at_both_ends(on: NDArray[np.bool_], axis: int, *, padding: int, dilation: int) -> int:
    rows = np.flatnonzero(on.any(axis=tuple(other for other in range(on.ndim) if other != axis)))
    if not len(rows):
        return 0
    return int(min(rows[0], on.shape[axis] - 1 - rows[-1], padding // dilation))
