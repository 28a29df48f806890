"""The accounting of compression papers, beside the bytes of a real file and never instead of it; what is not zero.

Source: reverse-engineered from the tables of Wang et al. 2020 (ICNC-FSKD): convolution weights only, 32 bits per
original one, floor(log2 k) bits per index that is left; codebooks, norms, biases and linear layers are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from tersenet.core.policy import Clusters, Linear, Raw, Storage
from tersenet.graph import ModelGraph


def paper_ratio(before: ModelGraph, after: ModelGraph, storage: Mapping[str, Storage]) -> float | None:
    """Bits of the original convolution weights over bits of what stands for those that are left; None without any.

    Args:
        before: the original network.
        after: the delivered one, traced again.
        storage: form per layer, by layer name; layers that are not named count 32 bits per weight.
    """
    original, left = _conv_weights(before), _conv_weights(after)
    bits = {name: size * _bits(storage.get(layer, Raw())) for name, (layer, size) in left.items()}
    total = sum(bits.values())
    return 32.0 * sum(size for _, size in original.values()) / total if total else None


def count_nonzero(model: nn.Module, graph: ModelGraph) -> tuple[int, int]:
    """Parameters that are not zero, and multiply-accumulates whose weight is not zero.

    Args:
        model: the network that ``graph`` was traced from.
    """
    tensors = dict(model.named_parameters())
    nonzero = {name: int(torch.count_nonzero(tensor.detach())) for name, tensor in tensors.items()}
    macs = sum(layer.macs * nonzero[layer.weight] // tensors[layer.weight].numel() for layer in graph.layers)
    return sum(nonzero.values()), macs


def _conv_weights(graph: ModelGraph) -> dict[str, tuple[str, int]]:
    """Layer and number of elements of every convolution weight, by the weight's name; tied weights count once."""
    shapes = {tensor.name: tensor.shape for tensor in graph.tensors}
    layers = (layer for layer in graph.layers if layer.op != "linear")
    found: dict[str, tuple[str, int]] = {}
    for layer in layers:
        found.setdefault(layer.weight, (layer.name, math.prod(shapes[layer.weight])))
    return found


def _bits(form: Storage) -> int:
    if isinstance(form, Clusters):
        return int(math.log2(form.n_clusters))
    if isinstance(form, Linear):
        return form.weight_bits
    return 16 if form.dtype == "fp16" else 32
