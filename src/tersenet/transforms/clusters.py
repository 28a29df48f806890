"""Weight sharing: a layer's weights as indices into codebooks, and what every number of clusters costs.

Codebooks are optimal (``transforms/kmeans.py``), then rounded to the width they have in the file; only then every
weight gets its nearest entry, so that indices fit the numbers that are stored. Exact zeros, pruned weights, have an
entry of their own that is not counted in k and is not moved by rounding or tuning.

Source: Han et al. 2016 (Deep Compression), arXiv:1510.00149, section 3. Differs: optimal clusters instead of Lloyd's
from a linear start; any k, not only powers of two; other weights may take the fixed
zero where it is the nearest.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tersenet.core.policy import Clusters
from tersenet.errors import ModelError, PolicyError
from tersenet.graph import Layer, ModelGraph, unwrapped
from tersenet.transforms.coded import CodedWeights, SharedWeights
from tersenet.transforms.kmeans import LARGEST_K, Clusterings, cluster, companded_lloyd, nearest
from tersenet.transforms.tensors import tensors_by_name

_DTYPES: dict[int, type[np.floating[Any]]] = {16: np.float16, 32: np.float32}
_MOST_ENTRIES = 65536
_CHUNK = 1 << 22
"""Weights whose sums are held at once."""

Weights = NDArray[np.float32]
Row = NDArray[np.floating[Any]]

Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True, eq=False)
class Curves:
    """What sharing one tensor's weights costs for every k; arrays of shape (max_k + 1,), entry k, NaN below 2."""

    squared_errors: NDArray[np.float64]
    """Sum over the weights, codebooks rounded."""

    index_bits: NDArray[np.float64]
    """Empirical entropy of the indices within each codebook, in bits, for the whole tensor."""

    num_entries: NDArray[np.float64]
    """Entries that are used of all codebooks together, the fixed zeros included."""


class ClusterCache:
    """Clusterings by content of a tensor: nothing is clustered twice; the least recently used are forgotten."""

    def __init__(self, *, max_k: int = 256, max_tensors: int = 1024) -> None:
        """Args:
        max_k: a tensor is clustered up to this k at once; a larger one costs another pass.
        max_tensors: tensors (blocks with a codebook of their own) that are remembered.
        """
        if not 2 <= max_k <= LARGEST_K:
            raise ValueError(f"max_k={max_k}: give 2 to {LARGEST_K}.")
        self.max_k = max_k
        self._max_tensors = max_tensors
        self._clusterings: OrderedDict[bytes, Clusterings] = OrderedDict()
        self._large: OrderedDict[tuple[bytes, int], NDArray[np.float64]] = OrderedDict()
        self._curves: OrderedDict[tuple[bytes, int], Curves] = OrderedDict()

    def codebook(self, values: Weights, k: int) -> NDArray[np.float64]:
        """The best k values for ``values``, ascending; fewer where fewer are distinct."""
        if k <= LARGEST_K:
            return self.clusterings(values, k).codebook(k)
        key = (_digest(values), k)
        found = self._large.get(key)
        return self._keep(self._large, key, companded_lloyd(values, k) if found is None else found)

    def clusterings(self, values: Weights, k: int) -> Clusterings:
        """Clusterings of ``values`` up to ``k`` at least, which is at most ``LARGEST_K``."""
        digest = _digest(values)
        found = self._clusterings.get(digest)
        if found is None or found.max_k < min(k, len(found.values)):
            found = cluster(values, max_k=max(k, self.max_k))
        return self._keep(self._clusterings, digest, found)

    def curves(
        self, weight: Tensor, *, axis: int = 0, codebook_bits: int = 16, channels_per_codebook: int | None = None
    ) -> Curves:
        """Error, entropy and codebook of every k from 2 to ``max_k``; of blocks the sum.

        Args:
            weight: any floating-point type and device.
            axis: of the output channels.
            codebook_bits: 16 or 32.
            channels_per_codebook: as in ``Clusters``.

        Raises:
            ModelError: a weight is not finite.
            PolicyError: a weight is too large for ``codebook_bits``.
        """
        array = _array(weight)
        blocks, per_codebook = _blocks(array, channels_per_codebook, axis)
        key = (_digest(array) + f"{array.shape} {axis} {per_codebook}".encode(), codebook_bits)
        found = self._curves.get(key)
        if found is None:
            errors, bits, entries = np.sum([_costs(block, self, codebook_bits) for block in blocks], axis=0)
            found = Curves(squared_errors=errors, index_bits=bits, num_entries=entries)
        return self._keep(self._curves, key, found)

    def _keep(self, entries: OrderedDict[Key, Value], key: Key, value: Value) -> Value:
        entries[key] = value
        entries.move_to_end(key)
        if len(entries) > self._max_tensors:
            entries.popitem(last=False)
        return value


def share_weights(
    weight: Tensor, decision: Clusters, *, axis: int = 0, cache: ClusterCache | None = None
) -> SharedWeights:
    """One weight tensor as the decision says.

    Blocks without zeros have no entry for them; rows that are shorter than others repeat their largest value.

    Args:
        weight: any floating-point type and device.
        decision: with more clusters than distinct values, the codebook holds the values themselves.
        axis: of the output channels; 1 for transposed convolutions.
        cache: where clusterings are looked up and kept.

    Raises:
        ModelError: a weight is not finite.
        PolicyError: a weight is too large for ``codebook_bits``.
    """
    k = decision.n_clusters
    cache = ClusterCache(max_k=min(k, LARGEST_K)) if cache is None else cache
    array = _array(weight)
    blocks, per_codebook = _blocks(array, decision.channels_per_codebook, axis)
    rows = [_row(block, cache, k, decision.codebook_bits) for block in blocks]
    entries = [nearest(row, block) for row, block in zip(rows, blocks, strict=True)]
    return stack_blocks(rows, entries, shape=array.shape, axis=axis, channels_per_codebook=per_codebook)


def clusterable_layers(model: nn.Module, graph: ModelGraph) -> dict[str, int]:
    """Layers whose weights can be shared, and how many distinct values they hold, exact zeros not counted.

    A k at or above that number changes nothing. Left out are layers with fewer than three values, and weights that the
    model computes from others.
    """
    tensors = tensors_by_name(unwrapped(model))
    found: dict[str, int] = {}
    for layer in graph.layers:
        if layer.weight in tensors:
            num_values = int(torch.count_nonzero(torch.unique(tensors[layer.weight].detach())))
            if num_values > 2:
                found[layer.name] = num_values
    return found


def output_axis(layer: Layer) -> int:
    """Axis of the output channels of a layer's weight."""
    return 1 if layer.op == "conv_transpose" else 0


def write_values(model: nn.Module, coded: Mapping[str, CodedWeights]) -> None:
    """Put ``values()`` of coded weights into the model, in place.

    Raises:
        PolicyError: the model has no such tensor, or one of another shape; nothing is written then.
    """
    tensors = tensors_by_name(unwrapped(model))
    values = {name: weights.values() for name, weights in coded.items()}
    for name, value in values.items():
        if name not in tensors:
            raise PolicyError(f"Coded weights are named {name!r}, which this model does not have. {_OTHER_MODEL}")
        if tuple(tensors[name].shape) != value.shape:
            raise PolicyError(
                f"Coded weights of {name!r} have shape {value.shape}, the model's {tuple(tensors[name].shape)}. "
                f"{_OTHER_MODEL}"
            )
    with torch.no_grad():
        for name, value in values.items():
            tensors[name].copy_(torch.from_numpy(value))


_OTHER_MODEL = "Was it made for another model?"


def stack_blocks(
    rows: Sequence[Row],
    entries: Sequence[NDArray[np.int64]],
    *,
    shape: tuple[int, ...],
    axis: int,
    channels_per_codebook: int,
) -> SharedWeights:
    """Codebooks of blocks and their weights' entries as one tensor: entries nobody uses go, equal ones become one.

    Args:
        rows: codebook per block, in any order.
        entries: per block, flat, output channels first.
        shape: of the weight.
        axis: of the output channels.
        channels_per_codebook: output channels per block.
    """
    used, renumbered = [], []
    for row, numbers in zip(rows, entries, strict=True):
        present = np.flatnonzero(np.bincount(numbers, minlength=len(row)))
        values, places = np.unique(row[present], return_inverse=True)
        place_of = np.zeros(len(row), dtype=np.int64)
        place_of[present] = places
        used.append(values)
        renumbered.append(place_of[numbers])
    width = max(len(values) for values in used)
    codebooks = np.stack([np.pad(values, (0, width - len(values)), mode="edge") for values in used])
    channels_first = (shape[axis], *shape[:axis], *shape[axis + 1 :])
    indices = np.concatenate(renumbered).reshape(channels_first).astype(np.uint8 if width <= 256 else np.uint16)
    return SharedWeights(
        codebooks=codebooks,
        indices=np.ascontiguousarray(np.moveaxis(indices, 0, axis)),
        axis=axis,
        channels_per_codebook=channels_per_codebook,
    )


def _array(weight: Tensor) -> Weights:
    if not bool(torch.isfinite(weight).all()):
        raise ModelError("The weights hold NaN or infinity. The training diverged, or the file is damaged.")
    array: Weights = weight.detach().to(device="cpu", dtype=torch.float32).numpy()
    return array


def _blocks(array: Weights, channels_per_codebook: int | None, axis: int) -> tuple[list[Weights], int]:
    """The weights of each block, flat, output channels first, and the channels per block."""
    channels_first = np.moveaxis(array, axis, 0)
    size = len(channels_first)
    per_codebook = size if channels_per_codebook is None else min(channels_per_codebook, size)
    return [channels_first[at : at + per_codebook].reshape(-1) for at in range(0, size, per_codebook)], per_codebook


def _row(block: Weights, cache: ClusterCache, k: int, codebook_bits: int) -> Row:
    """Rounded codebook of one block, ascending, with an entry for zero if it holds one."""
    kept = block[block != 0]
    has_zeros = len(kept) < len(block)
    codebook = cache.codebook(kept, min(k, _MOST_ENTRIES - has_zeros)) if len(kept) else np.zeros(0)
    return _rounded(codebook, codebook_bits, has_zeros=has_zeros)


def _rounded(codebook: NDArray[np.float64], codebook_bits: int, *, has_zeros: bool) -> Row:
    with np.errstate(over="ignore"):
        row = np.append(codebook, np.zeros(int(has_zeros))).astype(_DTYPES[codebook_bits])
    if not np.isfinite(row).all():
        raise PolicyError(
            f"Its weights reach {np.abs(codebook).max():.6g}, which codebook_bits={codebook_bits} cannot hold. "
            "Set codebook_bits to 32."
        )
    return np.unique(row + 0)  # no negative zero


def _costs(block: Weights, cache: ClusterCache, codebook_bits: int) -> NDArray[np.float64]:
    """Squared error, index bits and entries of one block, shape (3, max_k + 1)."""
    kept = block[block != 0]
    clusterings = cache.clusterings(kept, cache.max_k) if len(kept) else None
    rows = []
    for k in range(2, cache.max_k + 1):
        codebook = np.zeros(0) if clusterings is None else clusterings.codebook(k)
        rows.append(_rounded(codebook, codebook_bits, has_zeros=len(kept) < len(block)).astype(np.float64))
    moments = [np.zeros((3, len(row))) for row in rows]
    ordered = np.sort(block)
    for start in range(0, len(ordered), _CHUNK):
        chunk = ordered[start : start + _CHUNK].astype(np.float64)
        sums = np.zeros((3, len(chunk) + 1))
        sums[0], sums[1, 1:], sums[2, 1:] = np.arange(len(chunk) + 1), np.cumsum(chunk), np.cumsum(chunk * chunk)
        for row, moment in zip(rows, moments, strict=True):
            inner = np.searchsorted(chunk, 0.5 * (row[1:] + row[:-1]), side="right")  # of two as near the lower entry
            moment += np.diff(sums[:, np.concatenate(([0], inner, [len(chunk)]))], axis=1)
    costs = np.full((3, cache.max_k + 1), np.nan)
    for k, (row, (num, first, second)) in enumerate(zip(rows, moments, strict=True), start=2):
        used = num[num > 0]
        error = max(0.0, float((second - 2.0 * row * first + row * row * num).sum()))
        costs[:, k] = error, used @ np.log2(len(block) / used), len(used)
    return costs


def _digest(array: Weights) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(array).data).digest()
