"""From a policy's forms of storage to coded weights, each computed once per run.

What a (weight, form) pair costs and what it becomes depends on nothing else, so a search that tries hundreds of
policies looks most of it up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from torch import Tensor, nn

from tersenet.core.policy import Clusters, Linear, Storage
from tersenet.core.registry import unknown_name
from tersenet.errors import ModelError, PolicyError
from tersenet.graph import Layer, ModelGraph, unwrapped
from tersenet.transforms.clusters import ClusterCache, output_axis, share_weights
from tersenet.transforms.coded import CodedWeights, LinearWeights
from tersenet.transforms.quantize import quantize
from tersenet.transforms.tensors import tensors_by_name


class Coder:
    """Codes weights as policies say, and remembers what it did."""

    def __init__(self, *, max_k: int = 256) -> None:
        """``max_k``: clusters up to which one pass over a weight is enough."""
        self.clusters = ClusterCache(max_k=max_k)
        """Clusterings, also by what they cost."""
        self._linear: dict[tuple[bytes, int], LinearWeights] = {}

    def code(self, model: nn.Module, graph: ModelGraph, storage: Mapping[str, Storage]) -> dict[str, CodedWeights]:
        """Coded weights of the layers that are not stored raw; the model is only read.

        Args:
            model: the one that was traced, or one cut from it.
            graph: what tracing found.
            storage: form per layer, by layer name.

        Returns:
            By name of the tensor, as in ``state_dict()``.

        Raises:
            PolicyError: there is no such layer; layers with tied weights are one, under the first one's name.
            ModelError: a weight is not finite.
        """
        tensors = tensors_by_name(unwrapped(model))
        layers = {layer.name: layer for layer in graph.layers}
        coded: dict[str, CodedWeights] = {}
        for name, form in storage.items():
            if not isinstance(form, Clusters | Linear):
                continue
            if name not in layers or layers[name].weight not in tensors:
                known = sorted(layer for layer, found in layers.items() if found.weight in tensors)
                raise PolicyError(
                    f"policy.storage: {unknown_name('layer', name, known)} Layers with one tied weight go by the name "
                    "of the first."
                )
            weight = layers[name].weight
            coded[weight] = self._coded(tensors[weight], form, layers[name])
        return coded

    def _coded(self, weight: Tensor, form: Clusters | Linear, layer: Layer) -> CodedWeights:
        axis = output_axis(layer)
        try:
            if isinstance(form, Clusters):
                return share_weights(weight, form, axis=axis, cache=self.clusters)
            return self._quantized(weight, form.weight_bits, axis)
        except (ModelError, PolicyError) as error:
            raise type(error)(f"Layer {layer.name!r}: {error}") from None
        except ValueError as error:
            raise ModelError(f"Layer {layer.name!r} cannot be stored as {form!r}: {error}") from None

    def _quantized(self, weight: Tensor, weight_bits: int, axis: int) -> LinearWeights:
        array = weight.detach().cpu().float().contiguous().numpy()
        key = (hashlib.sha256(array.tobytes()).digest() + f"{array.shape} {axis}".encode(), weight_bits)
        if key not in self._linear:
            self._linear[key] = quantize(weight, weight_bits, axis=axis)
        return self._linear[key]
