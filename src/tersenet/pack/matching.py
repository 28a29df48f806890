"""Whether coded weights are what the policy asks for, and what the network holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from tersenet.core.policy import Clusters, Linear, Policy, Raw
from tersenet.core.registry import unknown_name
from tersenet.errors import PolicyError
from tersenet.pack.entropy import MAX_ALPHABET
from tersenet.transforms.coded import CodedWeights, LinearWeights, SharedWeights

MemoryKey = tuple[object, ...]


def memory_of(tensor: Tensor) -> MemoryKey:
    """Equal for tensors that are the same numbers in the same place."""
    return tensor.data_ptr(), tensor.device, tensor.dtype, tuple(tensor.shape), tensor.stride()


def weight_name(layer: str) -> str:
    """Name of the layer's weight in ``state_dict()``."""
    return f"{layer}.weight" if layer else "weight"


def coded_by_memory(
    model: nn.Module, policy: Policy, coded: Mapping[str, CodedWeights]
) -> dict[MemoryKey, CodedWeights]:
    """The coded weights of every layer that the policy stores so; tied weights need to be given once.

    Args:
        coded: by name as in ``state_dict()``.

    Raises:
        PolicyError: one is missing, not asked for, or of another form or shape than the policy and the model say.
    """
    tensors = model.state_dict()
    for name in coded:
        if name not in tensors:
            raise PolicyError(f"coded: {unknown_name('tensor', name, list(tensors))}")
    given = {memory_of(tensors[name]): name for name in coded}
    found: dict[MemoryKey, CodedWeights] = {}
    for layer, form in policy.storage.items():
        if isinstance(form, Raw):
            continue
        key = _key_of_weight(layer, form, tensors)
        if key not in given:
            raise PolicyError(
                f"policy.storage stores {layer!r} as {form.form}, but coded has no {weight_name(layer)!r}. "
                "Give the coded weights of every such layer."
            )
        name = given[key]
        problem = next(_problems(form, coded[name], tuple(tensors[name].shape)), None)
        if problem:
            raise PolicyError(f"coded[{name!r}] does not match policy.storage[{layer!r}] = {form!r}: {problem}.")
        found[key] = coded[name]
    for key, name in given.items():
        if key not in found:
            raise PolicyError(f"coded has {name!r}, but policy.storage does not store that layer's weight so.")
    return found


def check_values(model: nn.Module, coded: Mapping[str, CodedWeights]) -> None:
    """Check that the network holds exactly what the coded weights stand for.

    Raises:
        PolicyError: it does not.
    """
    tensors = model.state_dict()
    for name, weights in coded.items():
        weight = tensors[name].detach().cpu()
        if not torch.equal(weight, torch.from_numpy(weights.values()).to(weight.dtype)):
            raise PolicyError(
                f"The model's {name!r} does not hold the values of coded[{name!r}]. Pack as_stored(model, coded=...), "
                "and measure that network, or code the weights again."
            )


def _key_of_weight(layer: str, form: Clusters | Linear, tensors: Mapping[str, Tensor]) -> MemoryKey:
    name = weight_name(layer)
    if name not in tensors:
        raise PolicyError(
            f"policy.storage stores {layer!r} as {form.form}, but it has no weight. Name layers that have."
        )
    return memory_of(tensors[name])


def _problems(form: Clusters | Linear, weights: CodedWeights, shape: tuple[int, ...]) -> Iterator[str]:
    if isinstance(form, Clusters) is not isinstance(weights, SharedWeights):
        yield f"it is {type(weights).__name__}"
    elif weights.axis not in range(min(2, len(shape))) or 0 in shape:
        yield f"weights of shape {shape} have no output channels on axis {weights.axis}"
    elif isinstance(weights, SharedWeights):
        assert isinstance(form, Clusters)
        yield from _cluster_problems(form, weights, shape)
    else:
        assert isinstance(form, Linear)
        yield from _linear_problems(form, weights, shape)


def _cluster_problems(form: Clusters, weights: SharedWeights, shape: tuple[int, ...]) -> Iterator[str]:
    codebooks, indices, channels = weights.codebooks, weights.indices, shape[weights.axis]
    if indices.shape != shape:
        yield f"its indices have shape {indices.shape}, the weight has {shape}"
    if codebooks.ndim != 2 or not 1 <= codebooks.shape[1] <= min(form.n_clusters + 1, MAX_ALPHABET):
        yield f"its codebooks have shape {codebooks.shape}"
    if codebooks.dtype.name != f"float{form.codebook_bits}":
        yield f"its codebooks are {codebooks.dtype}"
    expected = -(-channels // (form.channels_per_codebook or channels))
    if weights.channels_per_codebook < 1 or not len(codebooks) == expected == -(
        -channels // weights.channels_per_codebook
    ):
        yield f"it has {len(codebooks)} codebooks for {weights.channels_per_codebook} of {channels} channels each"
    if not np.isfinite(codebooks).all() or np.any(np.diff(codebooks.astype(np.float64), axis=1) < 0):
        yield "the entries of a codebook are not finite, or do not ascend"
    if indices.dtype not in (np.uint8, np.uint16) or indices.max() >= codebooks.shape[1]:
        yield f"its indices are {indices.dtype}, or point beyond the {codebooks.shape[1]} entries of a codebook"


def _linear_problems(form: Linear, weights: LinearWeights, shape: tuple[int, ...]) -> Iterator[str]:
    integers, scales = weights.integers, weights.scales
    largest = max(1, (1 << (form.weight_bits - 1)) - 1)
    if integers.shape != shape or scales.shape != (shape[weights.axis],):
        yield f"its integers and scales have shapes {integers.shape} and {scales.shape}, the weight has {shape}"
    if weights.weight_bits != form.weight_bits:
        yield f"its weight_bits is {weights.weight_bits}"
    if scales.dtype not in (np.float16, np.float32) or not np.isfinite(scales).all():
        yield f"its scales are {scales.dtype}, or not finite"
    if integers.dtype != np.int8 or integers.min() < -largest or integers.max() > largest:
        yield f"its integers are {integers.dtype}, or beyond -{largest} to {largest}"
    elif form.weight_bits == 1 and not integers.all():
        yield "an integer of 1 bit is 0, not -1 or 1"
