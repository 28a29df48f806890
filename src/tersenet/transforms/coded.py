"""Weights in the form in which a packed file and an ONNX model hold them: small integers and what they stand for.

The arrays here are the truth; a network that is measured or delivered holds exactly ``values()`` of them. Plain numpy,
so that writers of files need nothing of how the numbers were found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class SharedWeights:
    """One weight tensor as indices into codebooks (weight sharing)."""

    codebooks: NDArray[np.floating[Any]]
    """Shared values, float16 or float32, shape (num_codebooks, n); each row ascending. Codebook i serves the i-th block
    of ``channels_per_codebook`` output channels (the last block may be shorter)."""

    indices: NDArray[np.unsignedinteger[Any]]
    """Entry of the block's codebook for every weight, uint8 or uint16, shape of the weight."""

    axis: int
    """Axis of the output channels: 0, or 1 for transposed convolutions."""

    channels_per_codebook: int
    """Output channels per block; with one codebook the number of output channels."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return self.indices.shape

    def values(self) -> NDArray[np.float32]:
        """The weights, float32, shape of the weight."""
        indices_O = np.moveaxis(self.indices, self.axis, 0)
        block_O = np.arange(indices_O.shape[0]) // self.channels_per_codebook
        rows = self.codebooks.astype(np.float32)[block_O]
        flat = np.take_along_axis(rows, indices_O.reshape(len(rows), -1).astype(np.int64), axis=1)
        return np.ascontiguousarray(np.moveaxis(flat.reshape(indices_O.shape), 0, self.axis))


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearWeights:
    """One weight tensor as integers times one scale per output channel (symmetric linear quantisation)."""

    integers: NDArray[np.int8]
    """Shape of the weight."""

    scales: NDArray[np.floating[Any]]
    """float16 or float32, shape (O,)."""

    weight_bits: int
    """Width of the integers, 1 to 8: from -(2^(b-1) - 1) to 2^(b-1) - 1, -1 or 1 with 1 bit."""

    axis: int
    """Axis of the output channels: 0, or 1 for transposed convolutions."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return self.integers.shape

    def values(self) -> NDArray[np.float32]:
        """The weights, float32, shape of the weight."""
        shape = [1] * self.integers.ndim
        shape[self.axis] = -1
        scales: NDArray[np.float32] = self.scales.astype(np.float32).reshape(shape)
        return self.integers.astype(np.float32) * scales


CodedWeights = SharedWeights | LinearWeights
"""By name of the tensor, as in ``state_dict()``, wherever a mapping of them is passed."""
